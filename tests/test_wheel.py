"""An installed wheel has its configs: the program works without the checkout, from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel(tmp_path: Path) -> None:
    source, site, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("bench", "methods", "metrics"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source, folder=tmp_path)
    wheel = next(tmp_path.glob("cam_bench-*.whl"))
    run(*pip, "install", "--no-deps", "--target", site, wheel, folder=tmp_path)
    inside = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    for path in (ROOT / "bench").rglob("*"):
        if path.suffix in (".py", ".yaml", ".csv", ".html", ".css", ".js", ".mplstyle"):
            assert path.relative_to(ROOT).as_posix() in inside
    assert not any(name.startswith("tests/") for name in inside)
    where = run(sys.executable, "-c", "import bench; print(bench.__file__)", folder=elsewhere, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
    asked = ["method=[grad_cam,center]", "limit=2", "metric=[box_coverage]", "gallery.cases=1"]
    said = run(sys.executable, "-m", "bench", *asked, folder=elsewhere, PYTHONPATH=str(site), OMP_NUM_THREADS="1")
    assert "mean target probability" in said
    assert (elsewhere / "results" / "summary.csv").is_file() and (elsewhere / "results" / "report.html").is_file()
