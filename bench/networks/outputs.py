"""A network's input and output: a copy goes in, the logits come out, and a probability follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.identity import identity, place_of, user_function
from bench.types import Batch, UserError

PROBABILITIES = ("auto", "softmax", "sigmoid", "none")
# Steps between the last function and the output that change no value.
MOVES = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "Alias", "ToCopy",
         "Transpose", "Permute", "Expand", "T")  # fmt: skip


def fix_ends(name: str, module: nn.Module, output: str | int | None, any_output: bool = False) -> None:
    """Make a module take a copy of its input and return its logits (n, C) alone, float32.

    `output` names them in what it returns: an index, a key or an attribute, None where it returns nothing else. With
    `any_output` they may be anything, for a user's function (`target_function`) to read.
    """
    module.register_forward_pre_hook(_copied)
    module.register_forward_hook(partial(_anything if any_output else _logits, name, output))


def _copied(_module: nn.Module, inputs: Any) -> Any:
    # The network may write into its input, which other methods and metrics are still to see.
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in inputs)


def _anything(name: str, output: str | int | None, _module: nn.Module, _inputs: Any, returned: Any) -> Any:
    value = returned if output is None else _part(name, output, returned)
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16) else value


def _logits(name: str, output: str | int | None, _module: nn.Module, _inputs: Any, returned: Any) -> Tensor:
    value = returned if output is None else _part(name, output, returned)
    if not isinstance(value, Tensor):
        what = "returns" if output is None else f"model.output={output} is"
        raise UserError(f"{name}: {what} {_kind(value)}; name its logits with model.output=, {_choices(value)}")
    if value.ndim > 2 and value.shape[2:].numel() == 1:
        value = value.flatten(1)
    value = value[:, None] if value.ndim == 1 else value
    if value.ndim != 2 or not value.shape[1] or not value.is_floating_point():
        kind = "" if value.is_floating_point() else f" of {value.dtype}"
        raise UserError(
            f"{name} gives {tuple(value.shape)}{kind}, which are not logits (N, classes); see model.output=, or name "
            "a function of it that is to be explained: target=package.module:function"
        )
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _part(name: str, output: str | int, returned: Any) -> Any:
    key: Any = output
    if isinstance(returned, list | tuple) and str(output).lstrip("-").isdigit():
        key = int(output)
    if not isinstance(returned, Tensor):  # whose index is a picture
        try:
            return returned[key]
        except (KeyError, IndexError, TypeError, ValueError):
            if isinstance(output, str) and hasattr(returned, output):
                return getattr(returned, output)
    raise UserError(f"{name} has no output {output!r}: it returns {_kind(returned)}, {_choices(returned)}")


def _kind(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _choices(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"one of {', '.join(map(str, value))}"
    if is_dataclass(value):
        return f"one of {', '.join(field.name for field in fields(value))}"
    if hasattr(value, "_fields"):
        return f"one of {', '.join(value._fields)}"
    if isinstance(value, list | tuple):
        return f"an index under {len(value)}"
    return "which has no parts" if isinstance(value, Tensor) else "an attribute of it"


def probability_of(name: str, wanted: str, logits: Tensor) -> str:
    """Return ``softmax``, ``sigmoid`` or ``none``: `wanted`, or for ``auto`` what the number of outputs says.

    Parameters
    ----------
    name : str
        Of the network, for the UserError.
    wanted : str
        One of `PROBABILITIES`.
    logits : Tensor, shape (n, C)
        Of some pictures, with the graph that they come from, if there is one.

    Raises
    ------
    UserError
        `wanted` is unknown, or the outputs are probabilities already and not to be taken as they are.
    """
    if wanted not in PROBABILITIES:
        raise UserError(f"model.probability={wanted} is unknown; it takes {', '.join(PROBABILITIES)}")
    last = last_function(logits)
    values, sums = logits.detach(), logits.detach().sum(1)
    summed = logits.shape[1] > 1 and bool((values >= 0).all()) and torch.allclose(sums, torch.ones_like(sums))
    function = last if last in ("Softmax", "Sigmoid") else "Softmax" if summed else ""
    if function and wanted != "none":
        raise UserError(
            f"{name} ends in a {function.lower()}, so its outputs are probabilities and not the scores before it; let "
            "it return those, or explain the outputs as they are with model.probability=none"
        )
    return wanted if wanted != "auto" else "sigmoid" if logits.shape[1] == 1 else "softmax"


def last_function(logits: Tensor) -> str:
    """Name of the function that gave these values as autograd calls it, e.g. ``Addmm``; empty without a graph."""
    node = logits.grad_fn
    while node is not None:
        name = node.name().removesuffix("Backward0").removesuffix("Backward1")
        if name not in MOVES or not node.next_functions:
            return name
        node = node.next_functions[0][0]
    return ""


def is_function(target: object) -> bool:
    """Whether ``target=`` names a user's function instead of an output."""
    return ":" in str(target)


def target_function(target: str) -> Callable[[Any, Batch], Tensor]:
    """Import what ``target=package.module:function`` names: ``function(output, cases) -> (n,)``, checked at every call.

    `output` is what the network returned for n pictures, `cases` a Batch of the n cases.
    """
    return checked_scores(target, user_function(target, "target"))


def checked_scores(target: str, function: Callable[[Any, Batch], Any]) -> Callable[[Any, Batch], Tensor]:
    """Check at every call what a user's function returns; `target` names it in the UserError."""
    return partial(_scores, target, function)


def target_name(target: str) -> str:
    """Name of a user's function with a hash of its code: ``age(code=1f2e3d4c)``."""
    return f"{target.partition(':')[2]}(code={identity(user_function(target, 'target'))})"


def _scores(target: str, function: Callable[[Any, Batch], Any], output: Any, cases: Batch) -> Tensor:
    try:
        scores = function(output, cases)
    except (UserError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the user's code
        raise UserError(f"target={target} raised {place_of(error)}") from error
    number = len(cases.ids)
    if not isinstance(scores, Tensor) or scores.shape != (number,) or not scores.is_floating_point():
        raise UserError(f"target={target} gives {_kind(scores)} for {number} pictures, not a score for each, (N,)")
    return scores
