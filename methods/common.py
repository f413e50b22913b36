"""The few tensor steps that several methods share."""

from __future__ import annotations

import hashlib
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

_GPU_BLOCK = 2**26  # values that are made double at once: half a gigabyte


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, anything wider unchanged: sums over positions and channels need the digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def weighted_sum(weights: Tensor, acts: Tensor) -> Tensor:
    """Sum over channels of weight times activation.

    Parameters
    ----------
    weights : Tensor, shape (N, K) or (N, K, *spatial)
        One weight per channel, or one per channel and position.
    acts : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
    """
    if weights.ndim > 2:
        return (weights * acts).sum(1)
    # In float64: in float32 the order of additions, and so the last digits, depend on the batch size. Case by case on a
    # CPU, which is a third faster, as what is made double stays in the cache; in blocks on a GPU, where starting the
    # operations of each case takes longer than the sums.
    flat, weights = acts.flatten(2), weights.double()
    if acts.device.type == "cpu":
        total = [weight @ case.double() for weight, case in zip(weights, flat, strict=True)]
    else:
        cases = max(1, _GPU_BLOCK // flat[0].numel())
        parts = zip(weights.split(cases), flat.split(cases), strict=True)
        total = [row for some, part in parts for row in torch.bmm(some[:, None], part.double()).unbind()]
    return torch.stack(total).view(len(acts), *acts.shape[2:]).to(acts.dtype)


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient, and 0 where the denominator is exactly 0 (never an epsilon: it would change small values)."""
    empty = denominator == 0
    return (numerator / denominator.masked_fill(empty, 1)).masked_fill(empty, 0)


def minmax(maps: Tensor) -> Tensor:
    """Each map (N, *spatial) stretched to 0 .. 1; one that is constant up to rounding becomes 0."""
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    span = without_rounding(high - low, torch.maximum(low.abs(), high.abs()))
    return divide_or_zero((flat - low).masked_fill(span == 0, 0), span).view_as(maps)


def without_rounding(difference: Tensor, size: Tensor) -> Tensor:
    """Difference of two numbers of this size, 0 if it is only rounding: noise must not be ranked as evidence."""
    return difference.masked_fill(difference.abs() <= 16 * torch.finfo(difference.dtype).eps * size, 0)


def seeded(seed: object, case_id: str) -> torch.Generator:
    """Make a case's random generator: its numbers follow from the seed and the id, not from batch or device."""
    digest = hashlib.sha256(f"{seed}:{case_id}".encode()).digest()  # hash() differs from process to process
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def first_component(x: Tensor, *, center: bool = True) -> Tensor:
    """Projection of each position's channel vector on the first principal axis of all positions.

    The axis comes from the smaller of the two Gram matrices (channels or positions), never from a full decomposition.

    Parameters
    ----------
    x : Tensor, shape (N, K, *spatial)
    center : bool
        Subtract each channel's mean over positions first.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Of arbitrary sign; 0 where all positions are equal, NaN for a case with a value that is not finite.
    """
    rows = x.flatten(2)
    scale = rows.abs().amax((1, 2), keepdim=True)
    finite = scale.isfinite()
    rows = rows / scale.masked_fill(scale == 0, 1)  # squares neither underflow nor overflow
    if not finite.all():
        rows = rows.where(finite, 0)
    if center:
        rows = rows.sub_(rows.mean(2, keepdim=True))
        spread = rows.abs().amax((1, 2), keepdim=True)
        scale = scale.masked_fill(without_rounding(spread, torch.ones_like(spread)) == 0, 0)  # equal positions
    if rows.shape[1] <= rows.shape[2]:
        axis = top_eigenpair(rows @ rows.mT)[1]
        projection = axis[:, None] @ rows
    else:
        value, vector = top_eigenpair(rows.mT @ rows)
        projection = (value.clamp_min(0).sqrt()[:, None] * vector)[:, None]
    return (projection * scale).masked_fill(~finite, torch.nan).view(len(x), *x.shape[2:])


def top_eigenpair(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue (N,) and its unit eigenvector (N, M) of symmetric matrices (N, M, M), found in float64."""
    values, vectors = torch.linalg.eigh(symmetric.double())
    return values[:, -1].to(symmetric.dtype), vectors[..., -1].to(symmetric.dtype)


def orient(maps: Tensor, acts: Tensor) -> Tensor:
    """Flip maps (N, *spatial) that correlate negatively with the sum of the activations: an eigenvector has no sign."""
    flat, total = maps.flatten(1), acts.sum(1).flatten(1)
    agreement = (flat * (total - total.mean(1, keepdim=True))).sum(1)
    return maps * torch.where(agreement < 0, -1, 1).view(-1, *[1] * (maps.ndim - 1))


def package(name: str, extra: str) -> ModuleType:
    """Import a package that not everybody has; ValueError where it is missing, with the extra that installs it."""
    try:
        return import_module(name)
    except ImportError as error:
        missing = name.partition(".")[0]
        raise ValueError(f"needs {missing}; install it with: pip install 'cam-bench[{extra}]'") from error
