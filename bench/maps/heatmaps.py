"""From a method's raw output to a heatmap at input size, with the reason where it says nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.types import Bound

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def native_map(method: Bound, offer: Mapping[str, Callable[[], Any]], size: Sequence[int]) -> Tensor:
    """Run a method on a batch: maps at the layer's size, float32, after ReLU where the method wants one.

    Parameters
    ----------
    method : Bound
    offer : mapping of str to callable
        What the method may ask for by argument name, see `bench.maps.method_inputs.offered`.
    size : sequence of int
        (N, *spatial): the shape that the map must have.

    Raises
    ------
    TypeError
        The method's output has another shape than its contract says.
    """
    native = method.call(**{name: offer[name]() for name in method.wants}).detach().float()
    if tuple(native.shape) != tuple(size):
        raise TypeError(f"{method.name} gave {tuple(native.shape)} instead of {tuple(size)}")
    return native.clamp(min=0) if method.relu else native


def degenerate(native: Tensor) -> list[str]:
    """Why each map (N, *spatial) says nothing: ``nonfinite``, ``zero``, ``constant``, or ``""`` where it does."""
    flat = native.flatten(1)
    finite = flat.isfinite().all(1)
    constant = flat.amax(1) == flat.amin(1)
    zero = constant & (flat[:, 0] == 0)
    return [
        "" if f and not c else "nonfinite" if not f else "zero" if z else "constant"
        for f, c, z in zip(finite.tolist(), constant.tolist(), zero.tolist(), strict=True)
    ]


def upsample(native: Tensor, size: Sequence[int]) -> Tensor:
    """Bring maps (N, *spatial) to input size, linear without aligned corners; non-finite maps become zeros."""
    finite = native.flatten(1).isfinite().all(1).view(-1, *[1] * (native.ndim - 1))
    native = torch.where(finite, native, 0)
    if tuple(native.shape[1:]) == tuple(size):
        return native
    return interpolate(native[:, None], list(size), mode=MODES[len(size)], align_corners=False)[:, 0]


def fuse(maps: Sequence[Tensor], how: str) -> Tensor:
    """One map (N, H, W) of several layers' maps, each divided by its maximum: they are in different units.

    Parameters
    ----------
    maps : sequence of Tensor, shape (N, H, W)
        At input size. A map that is zero everywhere stays zero, so it weakens a mean and empties a product.
    how : {"mean", "max", "product"}
    """
    scaled = [torch.nan_to_num(m / m.flatten(1).amax(1).view(-1, 1, 1)) for m in maps]
    stack = torch.stack(scaled)
    return {"mean": stack.mean(0), "max": stack.amax(0), "product": stack.prod(0)}[how]
