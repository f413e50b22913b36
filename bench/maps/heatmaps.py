"""From a method's raw output to a heatmap at input size, with the reason where it says nothing."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.types import Bound, UserError

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

# Two maps divided by their largest value are equal if they nowhere differ by more. On efficientnet_lite0's bn2.act,
# where grad_cam, hirescam and respond_cam are one map by their formulas, rounding parts them by up to 4e-7;
# the two nearest maps that do differ (grad_entropy and activation_sum at blocks.6.0.bn2.act) by 5e-4.
EQUAL_WITHIN = 4e-6


def native_map(
    method: Bound, offer: Mapping[str, Callable[[], Any]], size: Sequence[int], whole: Sequence[int] = ()
) -> Tensor:
    """Run a method on a batch: maps at the layer's size, float32, after ReLU where the method wants one.

    Parameters
    ----------
    method : Bound
    offer : mapping of str to callable
        What the method may ask for by argument name, see `bench.maps.method_inputs.offered`.
    size : sequence of int
        (N, *spatial): the shape that the map must have.
    whole : sequence of int, optional
        *spatial of the input, which it may have instead: it combines its layer with pixels.

    Raises
    ------
    UserError
        The method cannot work with this layer, network or parameter.
    TypeError
        The method's output has another shape than its contract says.
    """
    given = {name: offer[name]() for name in method.wants}
    if "_target_" not in method.parameters:  # a user's function may write into what other methods are still to see
        given = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
    with named_errors(method.name):
        native = method.call(**given)
    fits = isinstance(native, Tensor) and tuple(native.shape) in (tuple(size), (size[0], *whole))
    if not isinstance(native, Tensor) or native.is_complex() or not fits:
        kind = f"{native.dtype} {tuple(native.shape)}" if isinstance(native, Tensor) else type(native).__name__
        raise TypeError(f"{method.name} gave {kind} instead of a tensor {tuple(size)} of numbers")
    native = native.detach().float()
    return native.clamp(min=0) if method.relu else native


@contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Turn a ValueError that a method's or metric's own code raises into a UserError that names it.

    Such an error is about a parameter, the layer or the network, which the user can change. One that torch or the
    network raises is a bug and passes unchanged.
    """
    try:
        yield
    except ValueError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if {"methods", "metrics"} & set(Path(frame.filename).parts[-3:-1]):
            raise UserError(f"{name}: {error}") from error
        raise


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


def map_ids(native: Tensor, seen: dict[Hashable, Any]) -> list[Hashable]:
    """Identity of each case's map: equal maps of a case get the same one, so that they are scored once.

    Maps are equal if they have the same native shape and differ by a positive factor only, up to `EQUAL_WITHIN` of the
    largest absolute value. All degenerate maps of a case are equal, whatever their shape: none orders the positions.

    Parameters
    ----------
    native : Tensor, shape (N, *spatial)
        Maps of one method at one layer.
    seen : dict
        Kept by the caller for one batch, empty at first: the maps of the jobs before.

    Returns
    -------
    list of N hashables
        ``"degenerate"`` or (shape, number). Those of different cases are not comparable.
    """
    shape = tuple(native.shape[1:])
    flat = native.flatten(1)
    scaled = flat / flat.abs().amax(1, keepdim=True)
    earlier: list[tuple[Tensor, list[Hashable]]] = seen.setdefault(shape, [])
    ids: list[Hashable] = ["degenerate" if reason else (shape, len(earlier)) for reason in degenerate(native)]
    for maps, names in reversed(earlier):  # the earliest equal map comes last and gives its name
        equal = (scaled - maps).abs().amax(1) <= EQUAL_WITHIN  # not so where either holds NaN
        for case, same in enumerate(equal.tolist()):
            if same and "degenerate" not in (ids[case], names[case]):
                ids[case] = names[case]
    if (shape, len(earlier)) in ids:
        earlier.append((scaled, ids))
    return ids


def upsample(native: Tensor, size: Sequence[int]) -> Tensor:
    """Bring maps (N, *spatial) to input size, linear without aligned corners; non-finite maps become zeros.

    Positions of a map that is larger than the input are averaged, so that none is passed over.
    """
    finite = native.flatten(1).isfinite().all(1).view(-1, *[1] * (native.ndim - 1))
    native = torch.where(finite, native, 0)
    if tuple(native.shape[1:]) == tuple(size):
        return native
    smooth = any(old > new for old, new in zip(native.shape[1:], size, strict=True))
    if smooth and len(size) == 3:  # torch averages along two axes at once
        slices = interpolate(native, list(size[1:]), mode="bilinear", align_corners=False, antialias=True)
        flat = [size[0], size[1] * size[2]]
        larger = interpolate(slices.flatten(2)[:, None], flat, mode="bilinear", align_corners=False, antialias=True)
        larger = larger.view(-1, *size)
    else:
        options: dict[str, Any] = {"mode": MODES[len(size)], "align_corners": False, "antialias": smooth}
        larger = interpolate(native[:, None], list(size), **options)[:, 0]
    axes = tuple(range(1, native.ndim))  # without the clamp rounding would order a constant map's positions
    return larger.clamp(native.amin(axes, keepdim=True), native.amax(axes, keepdim=True))


def fuse(maps: Sequence[Tensor], how: str) -> Tensor:
    """One map (N, *spatial) of maps of several layers or scales, each divided by its largest value: their units differ.

    A signed map is divided by its largest magnitude, so that what is negative stays so.

    Parameters
    ----------
    maps : sequence of Tensor, shape (N, *spatial)
        At input size. A map that is zero everywhere stays zero, so it weakens a mean and empties a product.
    how : {"mean", "max", "product"}
    """
    scaled = [torch.nan_to_num(m / m.flatten(1).abs().amax(1).view(-1, *[1] * (m.ndim - 1))) for m in maps]
    stack = torch.stack(scaled)
    return {"mean": stack.mean(0), "max": stack.amax(0), "product": stack.prod(0)}[how]


def fuse_backward(maps: Sequence[Tensor]) -> Tensor:
    """Refine the last layer's maps by what each earlier layer, from the last to the first, shows within them.

    P_l = L_l / up(down(L_l)) up(P_l+1): the earlier map L_l as a share of its own mean around, by resizing linearly to
    the size of the later P and back; 0 where that is 0 (Poly-CAM; Englebert et al., 2022).

    Parameters
    ----------
    maps : sequence of Tensor, shape (N, *spatial)
        At their layers' sizes, in the order of the network.

    Returns
    -------
    Tensor, shape (N, *spatial)
        At the first layer's size.
    """

    def resized(one: Tensor, other: Tensor) -> Tensor:
        return interpolate(one[:, None], list(other.shape[1:]), mode=MODES[other.ndim - 1], align_corners=False)[:, 0]

    refined = maps[-1]
    for earlier in reversed(maps[:-1]):
        around = resized(resized(earlier, refined), earlier)
        share = torch.where(around == 0, 0, earlier / around)
        refined = share * resized(refined, earlier)
    return refined
