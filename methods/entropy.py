"""The paper's entropy CAMs (equations 3 to 5) and what "entropy of a feature map" can mean.

The paper names no estimator; `entropy` offers five readings, each tied to a public implementation by the tests.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from methods.common import weighted_sum, widen

ESTIMATORS = ("histogram", "value", "magnitude", "softmax", "local")

# Values per block: a block's temporaries stay in the processor's cache (measured: 3 ns a value, in one piece 13).
_CPU_BLOCK, _DEVICE_BLOCK = 2**18, 2**26


def grad_entropy(
    acts: Tensor,
    grads: Tensor,
    *,
    estimator: str = "histogram",
    bins: int = 256,
    radius: int = 2,
    base: float = 2.0,
    signed: bool = False,
) -> Tensor:
    """Grad Entropy-CAM: channels weighted by the entropy of their gradient.

    a_k = H(g_k); map = sum_k a_k A_k (Boketsu-Boulu and Rouhafzay, equations 3 and 4). Entropy is never negative, so
    the map cannot show evidence against the class, and it vanishes (`histogram`, `value`) where each channel's gradient
    is one constant, as at the last layer before global average pooling.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)
        Activations of one layer and the gradient of the score with respect to them.
    estimator, bins, radius, base
        Passed to `entropy`, which says what they mean.
    signed : bool
        Multiply each weight by the sign of the channel's mean gradient.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Map before the ReLU.

    Raises
    ------
    ValueError
        As `entropy`.
    """
    grads = widen(grads)
    weights = entropy(grads, estimator=estimator, bins=bins, radius=radius, base=base)
    if signed:
        sign = grads.flatten(2).mean(2).sign()
        weights = weights * sign.view(*sign.shape, *[1] * (weights.ndim - 2))
    return weighted_sum(weights, widen(acts))


def feature_entropy(
    acts: Tensor, *, estimator: str = "histogram", bins: int = 256, radius: int = 2, base: float = 2.0
) -> Tensor:
    """Feature Entropy-CAM: channels weighted by the entropy of their own activations; it does not know the class.

    a_k = H(A_k); map = sum_k a_k A_k (Boketsu-Boulu and Rouhafzay, equation 5).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    estimator, bins, radius, base
        Passed to `entropy`, which says what they mean.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Map before the ReLU.

    Raises
    ------
    ValueError
        As `entropy`.
    """
    acts = widen(acts)
    return weighted_sum(entropy(acts, estimator=estimator, bins=bins, radius=radius, base=base), acts)


def entropy(x: Tensor, *, estimator: str = "histogram", bins: int = 256, base: float = 2.0, radius: int = 2) -> Tensor:
    """Entropy of each channel, all channels at once.

    Parameters
    ----------
    x : Tensor, shape (N, K, *spatial)
        Half precision is computed as float32.
    estimator : str
        ``histogram``: the channel's range cut into `bins` equal levels (`numpy.histogram`), entropy of the counts.
        ``value``: entropy of the counts of exact values (`skimage.measure.shannon_entropy`).
        ``magnitude``: p = abs(x) / sum(abs(x)).
        ``softmax``: p = softmax(x).
        ``local``: entropy of `histogram`'s levels in the neighbourhood of each position
        (`skimage.filters.rank.entropy`); positions outside the map do not count.
    bins : int
        Levels of `histogram` and `local`, 2 to 4096.
    base : float
        Of the logarithm; 2 gives bits.
    radius : int
        Of `local`'s neighbourhood in positions: offsets of Euclidean length at most `radius` (a disk, in 3-D a ball).

    Returns
    -------
    Tensor, shape (N, K), for ``local`` (N, K, *spatial)
        At least 0. A constant channel has 0, but log Z, the maximum, by ``magnitude`` (0 if all zero) and ``softmax``.
        NaN where a channel holds a value that is not finite.

    Raises
    ------
    ValueError
        For an unknown estimator or a parameter out of range.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown entropy estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    if not 2 <= bins <= 4096:
        raise ValueError(f"entropy: bins must be 2 to 4096, not {bins}")
    if base <= 1:
        raise ValueError(f"entropy: base must be over 1, not {base}")
    if not 1 <= radius <= 16:
        raise ValueError(f"entropy: radius must be 1 to 16, not {radius}")
    x = widen(x.detach())
    rows = x.reshape(-1, math.prod(x.shape[2:]))
    finite = (rows.amax(1) - rows.amin(1)).isfinite()
    if not finite.all():
        rows = rows.where(finite[:, None], 0)  # a level of NaN is no level; marked again below
    block = _CPU_BLOCK if x.device.type == "cpu" else _DEVICE_BLOCK
    blocks = rows.split(max(1, block // max(rows.shape[1], bins)))
    if estimator == "histogram":
        parts = [_histogram(part, bins) for part in blocks]
    elif estimator == "local":
        parts = [_local(part, x.shape[2:], bins, radius) for part in blocks]
    else:
        parts = [{"value": _value, "magnitude": _magnitude, "softmax": _softmax}[estimator](part) for part in blocks]
    nats = torch.cat(parts)
    nats[~finite] = torch.nan
    return (nats / math.log(base)).view(*x.shape[:2], *nats.shape[1:])


def _levels(rows: Tensor, bins: int) -> Tensor:
    """Level of each value, 0 to bins - 1, equal to numpy.histogram's: as float of the shape of `rows`."""
    low = rows.amin(1, keepdim=True)
    span = rows.amax(1, keepdim=True) - low
    constant = span == 0
    low, span = torch.where(constant, low - 0.5, low), span.masked_fill(constant, 1)
    step = span / bins
    level = (rows - low).div_(span).mul_(bins).floor_()
    level.clamp_(max=bins - 1)  # the last level is closed above
    # The quotient may round across an edge. As numpy does, compare with the edge itself, low + level * step, which is
    # rounded in just this way; a comparison written into a float buffer costs no conversion afterwards.
    edge = (level * step).add_(low)
    below = torch.lt(rows, edge, out=torch.empty_like(edge))
    torch.add(level, 1, out=edge).mul_(step).add_(low)
    above = torch.ge(rows, edge, out=edge)
    return level.sub_(below).add_(above).clamp_(max=bins - 1)


def _entropy_terms(total: int, like: Tensor) -> Tensor:
    """Table of -(c / total) log(c / total) for each possible count c = 0 .. total."""
    share = torch.arange(total + 1, dtype=torch.float64, device=like.device) / total
    return torch.special.entr(share).to(like.dtype)


def _histogram(rows: Tensor, bins: int) -> Tensor:
    first = torch.arange(len(rows), dtype=torch.int32, device=rows.device) * bins
    cells = _levels(rows, bins).int().add_(first[:, None])  # one bincount for all rows: row r owns bins r * bins ...
    counts = torch.bincount(cells.view(-1), minlength=len(rows) * bins).view(-1, bins)
    return torch.take(_entropy_terms(rows.shape[1], rows), counts).sum(1)


def _value(rows: Tensor) -> Tensor:
    size = rows.shape[1]
    if rows.device.type == "cpu":  # numpy's vectorized sort: 7 times torch's speed
        ordered = torch.from_numpy(np.sort(rows.numpy(), axis=1))
    else:
        ordered = rows.sort(1).values
    begins = torch.ones_like(ordered, dtype=torch.bool)  # of a run of equal values; 0.0 and -0.0 are equal
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    start = begins.view(-1).nonzero()[:, 0]
    length = torch.diff(start, append=start.new_tensor([rows.numel()]))
    terms = torch.zeros_like(
        ordered
    )  # a run's term at its beginning: sum() then adds pairwise, with small rounding errors
    terms.view(-1)[start] = torch.take(_entropy_terms(size, rows), length)
    return terms.sum(1)


def _magnitude(rows: Tensor) -> Tensor:
    size = rows.abs()
    largest = size.amax(1, keepdim=True)
    size = size / largest.masked_fill(largest == 0, 1)  # the sum, now at least 1, neither underflows nor overflows
    return torch.special.entr(size / size.sum(1, keepdim=True).clamp_min(1)).sum(1)


def _softmax(rows: Tensor) -> Tensor:
    below = rows - rows.amax(1, keepdim=True)
    share = below.exp()
    total = share.sum(1)
    return total.log() - (share * below).sum(1) / total


def _local(rows: Tensor, spatial: torch.Size, bins: int, radius: int) -> Tensor:
    """Entropy around each position: (1 / n) sum_i log(n / c_i), c_i of the n neighbours being equal to neighbour i."""
    level = _levels(rows, bins).to(torch.int16).view(-1, *spatial)
    level = functional.pad(level, [radius] * 2 * len(spatial), value=-1)
    near = itertools.product(range(-radius, radius + 1), repeat=len(spatial))
    ball = [offset for offset in near if sum(o * o for o in offset) <= radius**2]
    views = []
    for offset in ball:
        window = [slice(radius + o, radius + o + size) for o, size in zip(offset, spatial, strict=True)]
        views.append(level[:, *window])
    kind = torch.uint8 if len(ball) <= 255 else torch.int16
    same = [torch.ones(len(rows), *spatial, dtype=kind, device=rows.device) for _ in ball]
    for i, j in itertools.combinations(range(len(ball)), 2):
        equal = (views[i] == views[j]).to(kind)
        same[i] += equal
        same[j] += equal
    inside = [view[:1] >= 0 for view in views]
    number = torch.stack(inside).sum(0).to(rows.dtype)
    surprise = torch.zeros(len(rows), *spatial, dtype=rows.dtype, device=rows.device)
    for count, valid in zip(same, inside, strict=True):
        surprise += (number / count).log_() * valid
    return surprise / number
