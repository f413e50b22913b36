"""Functions of a user's package: named on the command line or trusted there, never by a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench.config import build, check_overrides
from bench.types import UserError

ROOT = Path(__file__).parents[2]
MODULE = '''
def bumps(images, *, side: int = 2):
    """Maps at input size."""
    maps = images.abs().mean(1)
    maps[:, ::side] = 0
    return maps


def mass(heatmaps, batch, *, power: float = 1):
    """Mean of the map."""
    return {"mean": heatmaps.flatten(1).mean(1) ** power}
'''
METHOD = "bump_cam: {_target_: mine.maps:bumps, side: 4, about: {version: 1, category: gradient, passes: none}}"
METRIC = "mass: {_target_: mine.maps:mass, about: {version: 1, unit: mean, higher_is_better: {mean: true}}}"
SMALL = ["model=resnet18", "model.weights=random", "limit=2", "gallery.cases=0", "device=cpu", "quiet=true"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a package and a folder of configs."""
    for name, text in {
        "mine/__init__.py": "",
        "mine/maps.py": MODULE,
        "settings/method/bump_cam.yaml": METHOD,
        "settings/metric/mass.yaml": METRIC,
        "settings/experiment/evil.yaml": "# @package _global_\ntrust: [mine]\n",
        "settings/experiment/scored.yaml": "# @package _global_\ntarget: mine.maps:mass\n",
        "settings/experiment/named.yaml": "# @package _global_\nmethod: {bumps: {_target_: 'mine.maps:bumps'}}\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'bench'; from bench.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, *words, *SMALL]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_function_named_on_the_command_line_runs_with_its_parameters(folder: Path) -> None:
    done = run(folder, "method=[random,mine.maps:bumps]", "method.bumps.side=3", "metric=mine.maps:mass")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "results" / "summary.csv")
    (label,) = {name for name in table["method"] if name.startswith("bumps")}
    assert label.startswith("bumps(side=3, code=") and "random" in set(table["method"])
    assert table["metric"].str.fullmatch(r"mass\(code=\w{8}\)\.mean").all()


def test_a_folder_of_configs_needs_trust_on_the_command_line(folder: Path) -> None:
    words = ["--config-dir", "settings", "method=[bump_cam]", "metric=[mass]"]
    refused = run(folder, *words)
    assert refused.returncode == 2 and "add" not in refused.stdout
    assert (
        "mine.maps:bumps is refused: it would run code of the package mine; allow that with trust=[mine]"
        in refused.stderr
    )
    done = run(folder, *words, "trust=[mine]")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "results" / "summary.csv")
    assert table["method"].str.startswith("bump_cam(side=4, code=").all() and len(table) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["experiment=evil"], "trust= from a file is refused"),
        (["experiment=scored", "method=[grad_cam]"], "target=mine.maps:mass from a file is refused: it runs code"),
        (["experiment=named"], "bumps: _target_=mine.maps:bumps is refused"),
        (["method=[bumb_cam]"], "did you mean bump_cam"),
        (["method=mine.maps:nothing"], "has no attribute 'nothing'"),
        (["method=nowhere.maps:f"], "cannot be imported"),
        (["method=[bump_cam]", "trust=[other]"], "allow that with trust=[mine]"),
        (["method=mine.maps:bumps", "method.bumps.sides=3"], "bumps has no parameter 'sides'; did you mean side?"),
    ],
)
def test_anything_else_is_refused_in_one_line(folder: Path, words: list[str], says: str) -> None:
    done = run(folder, "--config-dir", "settings", "metric=[complexity]", *words)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (folder / "results" / "summary.csv").exists()


def test_changed_code_is_computed_anew(folder: Path) -> None:
    assert run(folder, "method=mine.maps:bumps", "metric=[complexity]").returncode == 0
    first = bench.load_results(folder / "results")
    path = folder / "mine" / "maps.py"
    path.write_text(path.read_text().replace("= 0", "= 1"))
    assert run(folder, "method=mine.maps:bumps", "metric=[complexity]").returncode == 0
    both = bench.load_results(folder / "results")
    assert len(first) == 2 and len(both) == 4 and both["method"].nunique() == 2


def test_words_of_functions() -> None:
    words = check_overrides(["method=[grad_cam,mine.maps:f]", "method.f.a=1", "trust=[other]", "limit=3"])
    assert sorted(words) == sorted([
        "+method.f={_target_:'mine.maps:f'}", "trust=[other,mine]", "method=[grad_cam]", "++method.f.a=1", "limit=3",
    ])  # fmt: skip
    with pytest.raises(UserError, match="cannot be swept"):
        check_overrides(["-m", "method=grad_cam,mine.maps:f"])
    for twice in ("a.maps:f,b.maps:f", "f,a.maps:f"):
        with pytest.raises(UserError, match="names two that are called f"):
            check_overrides([f"method=[{twice}]"])
    with pytest.raises(UserError, match="model=custom"):
        build("model", {"_target_": "a:b"}, ["a"])


def test_from_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    table = bench.run(*SMALL, method=["mine.maps:bumps"], metric=["complexity"], out=folder / "r")
    assert table["method"].str.startswith("bumps(code=").all()
