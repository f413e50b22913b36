"""The program works from a wheel, an editable install and a checkout, and takes nothing from the current folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bench", "conf", "methods", "metrics")
SUFFIXES = (".py", ".yaml", ".csv", ".html", ".css", ".js", ".mplstyle")
# Every function that a config names is found, and all of them where they belong.
RESOLVE = """
import sys
from pathlib import Path
import bench, bench.options as options
from bench.config import compose_config
for group in options.PACKAGES:
    for name in options.names(group):
        function = options.named_function(options.conf_node(group, name)["_target_"], name, group)
        assert Path(sys.modules[function.__module__].__file__).is_relative_to(options.HERE.parent), name
        assert function.__module__.startswith("bench.")
assert compose_config(["method=[grad_cam]"]).method.grad_cam["_target_"] == "methods.gradient.grad_cam"
assert not {"methods", "metrics", "conf"} & set(sys.modules)
print(Path(bench.__file__).parent)
"""


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout without tests."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose own modules and configs have this program's names."""
    folder = tmp_path / "hostile"
    (folder / "methods").mkdir(parents=True)
    (folder / "conf" / "method").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text("x: 1\n")
    (folder / "conf" / "method" / "grad_cam.yaml").write_text("grad_cam: {_target_: methods.gradient.grad_cam}\n")
    for name in ("metrics.py", "conf.py", "methods/__init__.py", "methods/gradient.py", "methods/common.py"):
        (folder / name).write_text("raise SystemExit('a module of the current folder was imported')\n")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A virtual environment of its own that sees the packages of this one, without this program."""
    venv.create(tmp_path / "venv", symlinks=True)
    binary = tmp_path / "venv" / "bin" / "python"
    site = run(binary, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path).strip()
    # Lines of a .pth file are added to the path; the .pth files in there, such as an editable install's, are not read.
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return binary


def install(python: Path, *words: str | Path, folder: Path) -> None:
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    run(*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", *words, folder=folder)


def test_package_list_names_every_package() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("bench", "methods", "metrics")
        for path in ROOT.glob(f"{top}/**/__init__.py")
    }
    inside = {name if name.split(".")[0] == "bench" else f"bench.{name}" for name in folders}
    assert set(tool["packages"]) == inside | {"bench.conf"}
    assert all((ROOT / folder).is_dir() for folder in tool["package-dir"].values())


def test_wheel(tmp_path: Path, source: Path, hostile: Path, python: Path) -> None:
    install(python, source, folder=tmp_path)
    site = Path(run(python, "-c", RESOLVE, folder=hostile).strip()).parent
    assert site.is_relative_to(tmp_path / "venv")
    installed = {path.relative_to(site).as_posix() for path in site.glob("bench/**/*") if path.is_file()}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SUFFIXES:
                place = path.relative_to(ROOT).as_posix()
                assert (place if folder == "bench" else f"bench/{place}") in installed
    tops = {path.name for path in site.iterdir() if path.suffix not in (".dist-info", ".pth", ".py")}
    assert tops == {"bench"}
    words = ["method=[grad_cam,center]", "limit=2", "metric=[box_coverage]", "gallery.cases=1"]
    assert "mean target probability" in run(python, "-m", "bench", *words, folder=hostile)
    assert (hostile / "results" / "summary.csv").is_file() and (hostile / "results" / "report.html").is_file()


@pytest.mark.parametrize("mode", ["lenient", "strict"])
def test_editable_install(tmp_path: Path, source: Path, hostile: Path, python: Path, mode: str) -> None:
    install(python, "--config-settings", f"editable_mode={mode}", "-e", source, folder=tmp_path)
    assert Path(run(python, "-c", RESOLVE, folder=hostile).strip()).is_relative_to(source)
    assert "grad_cam " in run(python, "-m", "bench", "list", "methods", folder=hostile)
    assert "methods.gradient.grad_cam" in run(python, "-m", "bench", "method=grad_cam", "--cfg", "job", folder=hostile)
    # A change of the checkout is a change of the program.
    path = source / "methods" / "gradient.py"
    path.write_text(path.read_text().replace('"""Grad-CAM:', '"""Changed:'))
    assert "Changed:" in run(python, "-m", "bench", "list", "methods", folder=hostile)


def test_bare_checkout(source: Path, hostile: Path, python: Path) -> None:
    assert Path(run(python, "-c", RESOLVE, folder=source).strip()) == source / "bench"
    assert "methods.gradient.grad_cam" in run(python, "-m", "bench", "method=grad_cam", "--cfg", "job", folder=source)
    place = run(python, "-c", RESOLVE, folder=hostile, PYTHONPATH=str(source)).strip()
    assert Path(place) == source / "bench"


def test_checkout_has_methods_and_metrics_at_the_top(source: Path, python: Path) -> None:
    """As this program's own tests import them."""
    code = "import methods.gradient, metrics.pointing; print(methods.gradient.grad_cam.__module__)"
    assert run(python, "-c", code, folder=source).strip() == "methods.gradient"


def test_a_new_process_finds_methods(source: Path, python: Path) -> None:
    """A pickled function carries only its module's name, and a worker has not imported what its parent has."""
    code = "import pickle; from bench.options import named_function as named"
    code = f"{code}; print(pickle.dumps(named('methods.gradient.grad_cam', '', 'method')))"
    pickled = run(python, "-c", code, folder=source).strip()
    code = f"import pickle; print(pickle.loads({pickled}).__name__)"
    assert run(python, "-c", code, folder=source).strip() == "grad_cam"
