"""The input of a network as its weights expect it, with what the user says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.types import InputSpec, UserError


def adapted(
    spec: InputSpec, size: int | Sequence[int] | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> InputSpec:
    """Give the input that weights expect the size, mean and std that a user asks for; None keeps the weights' own.

    The shorter side before a center crop changes with the size. UserError for what makes no input.
    """
    if size is not None:
        sides = (size,) * spec.rank if isinstance(size, int) else tuple(size)
        if len(sides) != spec.rank or len(sides) not in (2, 3):
            axes = {2: "[height, width]", 3: "[depth, height, width]"}
            raise UserError(f"model.size={size} must be one number of pixels or {axes.get(spec.rank, axes[2])}")
        spec = replace(spec, size=sides, resize=int(spec.resize * min(sides) / min(spec.sides)))
    values = tuple(spec.mean if mean is None else mean), tuple(spec.std if std is None else std)
    if not values[0] or len(values[0]) != len(values[1]):
        raise UserError(
            f"model.mean has {len(values[0])} values and model.std {len(values[1])}; give both one value a channel"
        )
    if not min(values[1]) > 0:
        raise UserError(f"model.std={list(values[1])} must be above 0")
    return replace(spec, mean=values[0], std=values[1])


def in_channels(mean: Sequence[float] | None) -> dict[str, Any]:
    """Make the number of channels an option of a factory of timm's; none where it is the usual one."""
    return {} if mean is None or len(mean) == 3 else {"in_chans": len(mean)}
