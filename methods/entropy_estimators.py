"""Entropy of every row of a matrix at once, without a loop over rows, for `methods.entropy.entropy`.

Rows are finite float32 or float64, shape (R, Z); results are in nats.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .common import without_rounding


def levels(rows: Tensor, bins: int) -> Tensor:
    """Level of each value, 0 to bins - 1, equal to numpy.histogram's, as float with the shape of `rows`."""
    low = rows.amin(1, keepdim=True)
    span = rows.amax(1, keepdim=True) - low
    step = span / torch.full_like(span, bins)  # a GPU multiplies by the rounded 1 / bins where it divides by a number
    step.masked_fill_(step == 0, 1)  # a constant row is all level 0
    # The lower edge of a value's level is the nearest edge or the one before it. As in numpy, the value is compared
    # with the edge itself, low + level * step, rounded in the same way: the quotient alone may round across it.
    level = (rows - low).div_(step).round_().clamp_(max=bins - 1)  # the last level includes its upper edge
    edge = (level * step).add_(low)
    return level.sub_(torch.lt(rows, edge, out=edge))


def histogram(rows: Tensor, bins: int) -> Tensor:
    """Entropy in nats of the counts of `bins` equal levels."""
    positions, cells = rows.shape[1], levels(rows, bins).long()
    one = torch.ones(1, 1, dtype=torch.int32, device=rows.device).expand_as(cells)
    counts = torch.zeros(len(rows), bins, dtype=torch.int32, device=rows.device).scatter_add_(1, cells, one)
    if positions < bins:  # most bins are empty: sum over the values instead, each with its bin's count
        surprise = (_shares(positions).log().neg() / positions).to(rows)
        return surprise.index_select(0, counts.gather(1, cells).view(-1)).view_as(cells).sum(1)
    return _entropy_terms(positions, rows).index_select(0, counts.view(-1)).view_as(counts).sum(1)


def _entropy_terms(total: int, like: Tensor) -> Tensor:
    """Table of -(c / total) log(c / total) for each possible count c = 0 .. total."""
    return torch.special.entr(_shares(total)).to(like)


def _shares(total: int) -> Tensor:
    """Shares c / total for c = 0 .. total, computed on the CPU: on a GPU 49 / 49 comes out below 1, not as 1."""
    return torch.arange(total + 1, dtype=torch.float64) / total


def value(rows: Tensor) -> Tensor:
    """Entropy in nats of the counts of exact values."""
    size = rows.shape[1]
    if rows.device.type == "cpu":  # numpy's vectorized sort: 7 times torch's speed
        ordered = torch.from_numpy(np.sort(rows.numpy(), axis=1))
    else:
        ordered = rows.sort(1).values
    ordered = ordered.contiguous()  # the input may be channels_last
    begins = torch.ones_like(ordered, dtype=torch.bool)  # where a run of equal values begins; 0.0 equals -0.0
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    start = begins.view(-1).nonzero()[:, 0]
    length = torch.diff(start, append=start.new_tensor([rows.numel()]))
    terms = torch.zeros_like(ordered)  # a run's term is at its beginning, so that sum() adds pairwise
    terms.view(-1)[start] = torch.take(_entropy_terms(size, rows), length)
    return terms.sum(1)


def magnitude(rows: Tensor) -> Tensor:
    """Entropy in nats of each value's share of the sum of absolute values."""
    size = rows.abs()
    largest = size.amax(1, keepdim=True)
    size = size / largest.masked_fill(largest == 0, 1)  # the sum, now at least 1, neither underflows nor overflows
    return torch.special.entr(size / size.sum(1, keepdim=True).clamp_min(1)).sum(1)


def softmax(rows: Tensor) -> Tensor:
    """Entropy in nats of the softmax over positions."""
    below = rows - rows.amax(1, keepdim=True)
    share = below.exp()
    total = share.sum(1)
    return total.log() - (share * below).sum(1) / total


def offsets(rank: int, radius: int) -> list[tuple[int, ...]]:
    """Whole-number offsets of Euclidean length at most `radius`: a line, disk or ball."""
    near = itertools.product(range(-radius, radius + 1), repeat=rank)
    return [offset for offset in near if sum(o * o for o in offset) <= radius**2]


def neighbours(spatial: Sequence[int], radius: int) -> Tensor:
    """How many positions of the map lie within `radius` of each position, shape (*spatial)."""
    inside = functional.pad(torch.ones(*spatial, dtype=torch.int64), [radius] * 2 * len(spatial))
    windows = []
    for offset in offsets(len(spatial), radius):
        window = [slice(radius + o, radius + o + size) for o, size in zip(offset, spatial, strict=True)]
        windows.append(inside[tuple(window)])
    return torch.stack(windows).sum(0)


def local(rows: Tensor, spatial: torch.Size, bins: int, radius: int) -> Tensor:
    """Entropy around each position: log n - (1 / n) sum_v c_v log c_v over the levels v of the n neighbours.

    If neighbour i, in the order of the offsets, is the r-th with its level, it adds r log r - (r - 1) log(r - 1); over
    r = 1 .. c these sum to c log c. So each pair of neighbours is compared once and adds one to one count.
    """
    ball = offsets(len(spatial), radius)
    kind, most = (torch.uint8, 2**8) if len(ball) <= 255 else (torch.int16, 2**15)
    # Positions first, rows last: every comparison below is one pass over long contiguous lines.
    level = levels(rows, bins).to(torch.uint8 if bins <= 256 else torch.int16).T.contiguous().view(*spatial, -1)
    equal: dict[tuple[int, ...], Tensor] = {}  # whether levels are equal, by the step from one neighbour to the other
    terms = torch.special.xlogy(steps := torch.arange(len(ball) + 1, dtype=torch.float64), steps)
    gain = terms.diff().to(rows)
    known = torch.zeros_like(level, dtype=rows.dtype)
    index, values = torch.zeros_like(level, dtype=kind), gain[:1]  # the first of a level gains 0
    for i, other in enumerate(ball):
        earlier = torch.zeros_like(level, dtype=kind)
        for one in ball[:i]:
            step = tuple(b - a for a, b in zip(one, other, strict=True))
            if step not in equal:
                equal[step] = level[_inside(spatial, step)] == level[_inside(spatial, [-s for s in step])]
            # `equal` begins where both ends of the step are inside, at max(0, -step)
            place = [slice(max(0, -a, -b), min(n, n - a, n - b)) for n, a, b in zip(spatial, one, other, strict=True)]
            if all(p.start < p.stop for p in place):
                moved = (
                    slice(p.start + a - max(0, -s), p.stop + a - max(0, -s))
                    for p, a, s in zip(place, one, step, strict=True)
                )
                earlier[tuple(place)] += equal[step][tuple(moved)].view(torch.uint8)
        # Several small counts are joined to one index into a table of their sums: a lookup costs more than a count.
        if len(values) * (i + 1) >= most:
            known += values.index_select(0, index.flatten().int()).view_as(known)
            index, values = torch.zeros_like(index), gain[:1]
        index = index.mul_(i + 1).add_(earlier)
        values = (values[:, None] + gain[: i + 1]).flatten()
    known += values.index_select(0, index.flatten().int()).view_as(known)
    number = neighbours(spatial, radius).to(rows)[..., None]
    return without_rounding(number.log() - known / number, number.log()).movedim(-1, 0)


def _inside(spatial: Sequence[int], step: Sequence[int]) -> tuple[slice, ...]:
    """Positions that are still inside after the step."""
    return tuple(slice(max(0, -s), max(0, min(n, n - s))) for n, s in zip(spatial, step, strict=True))
