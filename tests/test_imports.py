"""Imports run one way through the rooms of the house, and no room is too full."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STANDARD = set(sys.stdlib_module_names)
OUTSIDE = {"torch", "numpy", "skimage", "scipy", "captum", "cv2"}
# What a room may import besides itself. `runs` and `analysis` meet in the store alone.
ALLOWED = {
    "types": set(),
    "options": {"identity", "types"},
    "identity": {"types"},
    "binding": {"identity", "options", "types"},
    "cli": {"store", "options", "types"},
    "config": {"binding", "cli", "options", "types"},
    "store": {"options", "types"},
    "networks": {"identity", "types"},
    "datasets": {"types"},
    "maps": {"types"},
    "runs": {"store", "maps", "networks", "datasets", "options", "types"},
    "analysis": {"store", "options", "types"},
    "figures": {"analysis", "store", "options", "types"},
    "report": {"figures", "analysis", "store", "cli", "options", "types"},
    # `bench.run` is the command line's own run, in this process.
    "api": {
        "__main__",
        "report",
        "figures",
        "analysis",
        "runs",
        "maps",
        "networks",
        "datasets",
        "config",
        "options",
        "types",
    },
    "export": {"analysis", "store", "cli", "types"},
    "__main__": {"report", "runs", "store", "cli", "config", "options", "types"},
    "__init__": {"api"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "bench").rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions and for annotations; relative ones begin with a dot."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            place = "." * node.level + (f"{node.module}." if node.module else "")
            names |= {f"{place}{alias.name}" for alias in node.names}
    return names


def own_modules(path: Path) -> set[str]:
    """Modules of bench that a file imports: ``bench.store.parts`` for ``from bench.store.parts import CHUNK``."""
    found = {name for name in imported(path) if name.split(".")[0] == "bench"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in found}


def room(name: str) -> str:
    return name.removeprefix("bench").strip(".").split(".")[0] or "__init__"


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_what_lies_below_it(name: str) -> None:
    at = room(name)
    for other in own_modules(MODULES[name]):
        inside = other.removeprefix("bench").strip(".")
        allowed = ALLOWED[at] | {at}
        assert room(other) in allowed or inside in allowed, f"{name} imports {other}"


@pytest.mark.parametrize("folder", ["methods", "metrics"])
def test_methods_and_metrics_import_little(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        names = imported(path)
        # Relative, since the folder is `bench.methods` in the program and may be `methods` in a test. Never beyond it.
        beyond = "." * (len(path.relative_to(ROOT).parts))
        assert not {name for name in names if name.startswith(beyond) or name.split(".")[0] in ("bench", folder)}, path
        tops = {name.split(".")[0] for name in names if not name.startswith(".")}
        assert tops <= OUTSIDE | STANDARD, f"{path.name} imports {tops - OUTSIDE - STANDARD}"


def test_bench_reaches_methods_and_metrics_through_conf_only() -> None:
    for path in MODULES.values():
        names = imported(path)
        assert not {name.removeprefix("bench.").split(".")[0] for name in names} & {"methods", "metrics"}, path
        assert not {name for name in names if name.startswith(".")}, f"{path}: relative import"


def test_only_config_and_main_know_hydra() -> None:
    knowing = {
        name
        for name, path in MODULES.items()
        if {one.split(".")[0] for one in imported(path)} & {"hydra", "omegaconf", "hydra_plugins"}
    }
    assert {room(name) for name in knowing} == {"config", "__main__"}


def test_types_import_torch_only() -> None:
    own = [path for name, path in MODULES.items() if room(name) == "types"]
    assert len(own) > 1 and {name.split(".")[0] for path in own for name in imported(path)} <= STANDARD | {
        "torch",
        "bench",
    }


def test_no_import_cycle() -> None:
    graph = {name: own_modules(path) - {name, "bench"} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another: {' -> '.join(error.args[1])}")


def test_no_room_is_too_full() -> None:
    counts = {path.parent: 0 for path in MODULES.values()}
    for path in MODULES.values():
        counts[path.parent] += 1
    assert counts.pop(ROOT / "bench") <= 8
    for folder in ("methods", "metrics"):
        for path in (ROOT / folder).rglob("*.py"):
            counts[path.parent] = counts.get(path.parent, 0) + 1
    assert max(counts.values()) <= 14, counts


@pytest.mark.parametrize("module", ["bench.analysis", "bench.figures", "bench.report", "bench.cli", "bench.options"])
def test_reading_results_loads_no_torch(module: str) -> None:
    """It takes longer to load than a small report."""
    names = [name for name in MODULES if name == module or name.startswith(f"{module}.")]
    code = f"import sys, {', '.join(name for name in names if not name.endswith('__main__'))}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert module in loaded.stdout.split() and not {"torch", "hydra"} & set(loaded.stdout.split())
