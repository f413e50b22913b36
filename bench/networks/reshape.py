"""Which entries of a layer's output are channels and which are positions: feature maps, channels-last maps, tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.identity import user_function
from bench.types import Reshape, UserError

WORDS = ("auto", "tokens", "channels_last", "none")
MOST_PREFIX = 8  # class, distillation and register tokens
Grids = dict[int, tuple[int, int]]


def reshape_of(module: nn.Module, wanted: str) -> Reshape:
    """Return the function that says how the outputs of a network's layers are read.

    Parameters
    ----------
    module : nn.Module
    wanted : str
        ``auto``: feature maps and channels-last maps as their shapes say, tokens as timm's and torchvision's vision
        transformers describe themselves. ``tokens``, ``channels_last``, ``none`` (channels are the second axis): for
        every layer. ``package.module:function``: a user's, ``function(output) -> (N, K, *spatial)``, which may only
        rearrange and leave out entries.

    Raises
    ------
    UserError
        `wanted` is none of these.
    """
    wanted = str(wanted)
    if wanted == "none":
        return _plain
    if wanted == "channels_last":
        return _channels_last
    if wanted == "tokens":
        return partial(_tokens, token_grids(module))
    if wanted == "auto":
        linears = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        return partial(_auto, token_grids(module), linears, last_axes(module))
    if ":" not in wanted:
        raise UserError(f"model.reshape={wanted} is unknown; it takes {', '.join(WORDS)}, or package.module:function")
    return partial(_by_function, wanted, user_function(wanted, "model.reshape"))


def token_grids(module: nn.Module) -> Grids:
    """Rows and columns of the tokens of a vision transformer or mixer of timm's or torchvision's, by number of tokens.

    Prefix tokens may stand before them. Empty for a network that says nothing of tokens.
    """
    from torchvision.models import VisionTransformer

    grids: Grids = {}
    prefix = 0
    for part in module.modules():
        grid = getattr(part, "grid_size", None)
        if isinstance(grid, tuple) and len(grid) == 2 and "Embed" in type(part).__name__:
            grids[math.prod(grid)] = grid
        if isinstance(part, VisionTransformer):
            side, prefix = part.image_size // part.patch_size, 1
            grids[side * side] = side, side
        if isinstance(more := getattr(part, "num_prefix_tokens", None), int):
            prefix = max(prefix, more)
    return {**grids, **{number + prefix: grid for number, grid in grids.items()}}


def last_axes(module: nn.Module) -> set[int]:
    """Lengths of the last axis that the network's linear layers and layer norms work on."""
    linears = {part.in_features for part in module.modules() if isinstance(part, nn.Linear)}
    norms = {part.normalized_shape[-1] for part in module.modules() if isinstance(part, nn.LayerNorm)}
    return linears | norms


def _plain(_name: str, _shape: Sequence[int], _size: Sequence[int]) -> None:
    return None


def _entries(shape: Sequence[int]) -> Tensor:
    return torch.arange(math.prod(shape)).view(*shape)


def _channels_last(name: str, shape: Sequence[int], _size: Sequence[int]) -> Tensor:
    if len(shape) < 3:
        raise UserError(f"layer {name!r} gives {_written(shape)}, not (N, *spatial, K); choose another layer=")
    return _entries(shape).movedim(-1, 0)


def _tokens(known: Grids, name: str, shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Read (T, K): the last rows x columns tokens are positions, those before them prefix tokens."""
    if len(shape) != 2:
        raise UserError(f"layer {name!r} gives {_written(shape)}, not tokens (N, T, K); choose another layer=")
    number = shape[0]
    if number in known:
        rows, columns = known[number]
    else:
        scale = math.sqrt(number / math.prod(size))
        rows, columns = math.floor(size[0] * scale), math.floor(size[1] * scale)
        if rows * columns < 4 or number - rows * columns > MOST_PREFIX or rows * size[1] != columns * size[0]:
            raise UserError(
                f"layer {name!r} gives {number} tokens, which are no grid of a picture of {size[0]} x {size[1]} with "
                f"up to {MOST_PREFIX} more before it; choose another layer= or model.reshape=package.module:function"
            )
    positions = _entries(shape)[number - rows * columns :]
    return positions.T.reshape(shape[1], rows, columns)


def _auto(
    known: Grids,
    linears: set[str],
    last: set[int],
    name: str,
    shape: Sequence[int],
    size: Sequence[int],
) -> Tensor | None:
    """Read what the shape and the network's own attributes tell apart; refuse the rest."""
    if len(shape) == 2 and shape[0] in known:
        return _tokens(known, name, shape, size)
    attention = len(shape) == 3 and any(shape[1] == number or shape[2] == number for number in known)
    if len(shape) == 2 or attention:
        raise UserError(
            f"layer {name!r} gives {_written(shape)}, whose axes model.reshape=auto does not know; choose another "
            "layer=, or say what they are with model.reshape=tokens, channels_last, none or package.module:function"
        )
    if len(shape) != 3 or len(size) != 2:
        return None
    # How far rows : columns is from the picture's own ratio, read one way and the other.
    first, second = (abs(h * size[1] - w * size[0]) for h, w in (shape[1:], shape[:2]))
    if name in linears or (second < first and shape[2] in last):
        return _channels_last(name, shape, size)
    if second < first:
        raise UserError(
            f"layer {name!r} gives {_written(shape)}, channels-last by its shape, and nothing in the network says so; "
            "set model.reshape=channels_last or none"
        )
    return None


def _by_function(
    where: str, function: Callable[[Tensor], Any], name: str, shape: Sequence[int], _size: Sequence[int]
) -> Tensor:
    """Learn from the numbered entries of one output where the user's function puts each."""
    numbered = _entries(shape)[None].double()
    try:
        result = function(numbered)
    except Exception as error:  # the user's code
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise UserError(f"model.reshape={where} fails on layer {name!r} with {_written(shape)}: {detail}") from error
    if not isinstance(result, Tensor) or result.ndim < 3 or len(result) != 1:
        gives = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UserError(f"model.reshape={where} gives {gives} for (1, {_written(shape)[4:]}, not (1, K, *spatial)")
    index = result[0].round().long()
    exact = torch.equal(index.double(), result[0].double()) and 0 <= index.min() and index.max() < numbered.numel()
    if not exact or len(index.unique()) < index.numel():
        raise UserError(f"model.reshape={where} must only rearrange the entries of layer {name!r} or leave some out")
    return index


def _written(shape: Sequence[int]) -> str:
    return f"(N, {', '.join(map(str, shape))})"
