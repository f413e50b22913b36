"""Imports point one way: methods and metrics know nothing of bench, only config and __main__ know Hydra."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = {"torch", "numpy", "skimage", "scipy", "captum", "cv2"}
STANDARD = set(sys.stdlib_module_names)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", ["methods", "metrics"])
def test_methods_and_metrics_import_little(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)}
        assert tops <= OUTSIDE | STANDARD | {folder}, f"{path.name} imports {tops - OUTSIDE - STANDARD - {folder}}"


def test_bench_reaches_methods_and_metrics_through_conf_only() -> None:
    for path in (ROOT / "bench").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"methods", "metrics"}, path


def test_only_config_and_main_know_hydra() -> None:
    knowing = {
        path.name
        for path in (ROOT / "bench").rglob("*.py")
        if {name.split(".")[0] for name in imported(path)} & {"hydra", "omegaconf"}
    }
    assert knowing == {"config.py", "__main__.py"}


def test_types_import_torch_only() -> None:
    tops = {name.split(".")[0] for name in imported(ROOT / "bench" / "types.py")}
    assert tops <= STANDARD | {"torch"}


def test_store_and_types_do_not_import_the_runner() -> None:
    for name in ("types", "store", "capture", "scorer", "transforms", "models", "heatmaps"):
        found = {n for n in imported(ROOT / "bench" / f"{name}.py") if n.startswith("bench.")}
        assert not {n for n in found if n.split(".")[1] in ("runner", "plan", "report", "tables", "config")}, name


def test_reading_results_and_saving_figures_load_no_torch() -> None:
    """It takes longer to load than a small report; `python -m bench.figures.saving` needs no pandas either."""
    for module, heavy in (("bench.report", {"torch"}), ("bench.figures.saving", {"torch", "pandas", "scipy"})):
        code = f"import sys, {module}; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert module in loaded and not heavy & set(loaded)
