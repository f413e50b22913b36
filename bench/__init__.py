"""cam-bench: which class activation map shows best where a CNN's evidence is."""

from importlib import import_module
from typing import Any

__all__ = ["explain_image", "load_results", "run", "score_map"]


def __getattr__(name: str) -> Any:
    """Import a public function when it is asked for, so that ``import bench`` stays cheap."""
    if name in __all__:
        return getattr(import_module("bench.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
