"""Functions that a metric's ``about`` names."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.types import UserError

ALLOWED = ("metrics.", "bench.")


def named_function(target: str, entry: str) -> Callable[..., Any]:
    """Find a function by its dotted name, in this program's own modules only.

    Parameters
    ----------
    target : str
        Such as ``metrics.sanity.stage_names``.
    entry : str
        Entry of ``about`` that names it, for the error.

    Raises
    ------
    UserError
        It lies elsewhere or does not exist: results from elsewhere must not run arbitrary code.
    """
    module, _, name = target.rpartition(".")
    if not target.startswith(ALLOWED):
        raise UserError(f"{target} is refused: {entry} may only name functions in {', '.join(ALLOWED)}")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{target}, which {entry} names, does not exist") from error
    if not callable(function):
        raise UserError(f"{target}, which {entry} names, is no function")
    return function
