"""Entropy of every row of a matrix at once, without a loop over rows; `methods.entropy.entropy` is the public face.

Rows are finite float32 or float64, shape (R, Z); results are in nats.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def levels(rows: Tensor, bins: int) -> Tensor:
    """Level of each value, 0 to bins - 1, equal to numpy.histogram's: as float of the shape of `rows`."""
    low = rows.amin(1, keepdim=True)
    step = (rows.amax(1, keepdim=True) - low) / bins
    step.masked_fill_(step == 0, 1)  # a constant row is all level 0
    # The level's lower edge is the nearest edge or the one before. Which one is decided, as in numpy, against the edge
    # itself, low + level * step, rounded in just this way: the quotient alone may round across it.
    level = (rows - low).div_(step).round_().clamp_(max=bins - 1)  # the last level is closed above
    edge = (level * step).add_(low)
    return level.sub_(torch.lt(rows, edge, out=edge))


def histogram(rows: Tensor, bins: int) -> Tensor:
    """Entropy in nats of the counts of `bins` equal levels."""
    positions = rows.shape[1]
    first = torch.arange(0, len(rows) * bins, bins, dtype=torch.int32, device=rows.device)
    cells = levels(rows, bins).int().add_(first[:, None]).reshape(-1)  # row r counts in bins r * bins and on
    counts = torch.bincount(cells, minlength=len(rows) * bins)
    if positions < bins:  # most bins are empty: ask each value for its bin's count instead
        share = torch.arange(positions + 1, dtype=torch.float64, device=rows.device) / positions
        surprise = (share.log().neg() / positions).to(rows.dtype)
        return torch.take(surprise, counts.index_select(0, cells)).view(len(rows), -1).sum(1)
    return torch.take(_entropy_terms(positions, rows), counts).view(-1, bins).sum(1)


def _entropy_terms(total: int, like: Tensor) -> Tensor:
    """Table of -(c / total) log(c / total) for each possible count c = 0 .. total."""
    share = torch.arange(total + 1, dtype=torch.float64, device=like.device) / total
    return torch.special.entr(share).to(like.dtype)


def value(rows: Tensor) -> Tensor:
    """Entropy in nats of the counts of exact values."""
    size = rows.shape[1]
    if rows.device.type == "cpu":  # numpy's vectorized sort: 7 times torch's speed
        ordered = torch.from_numpy(np.sort(rows.numpy(), axis=1))
    else:
        ordered = rows.sort(1).values
    ordered = ordered.contiguous()  # the input may be channels_last
    begins = torch.ones_like(ordered, dtype=torch.bool)  # of a run of equal values; 0.0 and -0.0 are equal
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
    start = begins.view(-1).nonzero()[:, 0]
    length = torch.diff(start, append=start.new_tensor([rows.numel()]))
    terms = torch.zeros_like(ordered)  # a run's term stands at its beginning, so that sum() adds pairwise
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
    """Entropy around each position: (1 / n) sum_i log(n / c_i), c_i of the n neighbours being equal to neighbour i."""
    ball = offsets(len(spatial), radius)
    # bytes where they suffice: comparing them is 8 times as fast as comparing wider numbers
    level = levels(rows, bins).to(torch.uint8 if bins <= 256 else torch.int16).view(-1, *spatial)
    kind = torch.uint8 if len(ball) <= 255 else torch.int16
    # With `radius` empty positions after each line, a neighbour is a fixed step away in the flat array, across lines
    # and maps, and every comparison below is one pass over contiguous memory.
    gap = [0, radius] * len(spatial)
    real = functional.pad(torch.ones_like(level, dtype=kind), gap)
    level = functional.pad(level, gap)
    steps = [sum(o * s for o, s in zip(offset, level.stride()[1:], strict=True)) for offset in ball]
    margin, size = max(steps), level.numel()
    views, reals = [
        [functional.pad(x.flatten(), [margin] * 2)[margin + step :][:size] for step in steps] for x in (level, real)
    ]
    same = [torch.ones(size, dtype=kind, device=rows.device) for _ in ball]
    for i, j in itertools.combinations(range(len(ball)), 2):
        equal = (views[i] == views[j]).view(torch.uint8)
        same[i] += equal
        same[j] += equal
    number = torch.zeros_like(same[0])
    for valid in reals:
        number += valid
    empty, wide = len(ball) - number, number.to(rows.dtype)
    surprise = torch.zeros(size, dtype=rows.dtype, device=rows.device)
    factors = int(80 / math.log(len(ball)))  # so many ratios have a product under e^80, within float32: one log for all
    for first in range(0, len(ball), factors):
        product = torch.ones_like(surprise)
        for count, view, valid in list(zip(same, views, reals, strict=True))[first : first + factors]:
            count -= (view == 0).view(torch.uint8) * empty  # the empty positions hold level 0, too
            count = count * valid + number * (1 - valid)  # n / c = 1 where neighbour i itself is empty
            product *= wide / count
        surprise += product.log_()
    within = tuple(slice(length) for length in spatial)
    return (surprise / number).view_as(level)[:, *within]
