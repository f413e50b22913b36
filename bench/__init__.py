"""cam-bench: which class activation map shows best where a CNN's evidence is."""

from importlib import import_module
from pathlib import Path
from typing import Any

# methods/ and metrics/ are imported as `bench.methods` and `bench.metrics`, names that no module of a user's has.
# A wheel holds them in bench/; in a checkout they lie beside it, and this line makes them importable from there.
if not (Path(__file__).parent / "methods").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

__all__ = ["explain_image", "load_results", "run", "score_map", "score_maps"]


def __getattr__(name: str) -> Any:
    """Import a public function when it is asked for, so that ``import bench`` stays cheap."""
    if name in __all__:
        return getattr(import_module("bench.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
