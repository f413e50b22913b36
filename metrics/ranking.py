"""The order of a map's positions, and what a random order of tied positions gives on average.

After a ReLU a third of the positions tie at 0. Row-major order would reward the top of the picture, where objects are
rare. So metrics with a closed form give the expectation over random orders of the tied positions, and all others use
one random order of ties, which follows from the case's id alone and is the same for every method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def seed_of(key: str) -> int:
    """Seed that follows from a key alone, the same on every machine; 63 bits."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(key: str) -> torch.Generator:
    """Random numbers that follow from a key alone; on the CPU, where they are the same on every machine."""
    return torch.Generator().manual_seed(seed_of(key))


def drawn(draw: Callable[..., Tensor], images: Tensor, keys: Sequence[str]) -> Tensor:
    """Random values (N, ...) like the images', each image's from its own key; `draw` is ``torch.rand`` or ``randn``."""
    return torch.stack([draw(images.shape[1:], generator=generator(key)) for key in keys]).to(images)


@lru_cache(maxsize=256)
def _shuffled(case: str, positions: int) -> Tensor:
    return torch.randperm(positions, generator=generator(f"ties:{case}"))


def order(heatmaps: Tensor, ids: Sequence[str]) -> Tensor:
    """Positions of each map from highest to lowest, ties in the case's own random order.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, *spatial)
    ids : sequence of N str
        Case ids.

    Returns
    -------
    Tensor, shape (N, P)
        Flat positions, long.
    """
    flat = heatmaps.flatten(1)
    shuffled = torch.stack([_shuffled(case, flat.shape[1]) for case in ids]).to(flat.device)
    ranked = torch.sort(flat.gather(1, shuffled), dim=1, descending=True, stable=True).indices
    return shuffled.gather(1, ranked)


def ranks(positions: Tensor) -> Tensor:
    """Rank of each position, 0 for the highest: the inverse of `order`, whose result (N, P) it takes."""
    places = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    return torch.empty_like(positions).scatter_(1, positions, places)


def tied_group(values: Tensor, count: int) -> tuple[int, int]:
    """First and last + 1 place of the tied positions that the `count` highest positions end in.

    Parameters
    ----------
    values : Tensor, shape (P,)
        A map's values, descending.
    count : int
        0 to P.

    Returns
    -------
    (int, int)
        Both are `count` where no tied group is cut.
    """
    if count in (0, len(values)) or values[count - 1] != values[count]:
        return count, count
    negative, edge = -values, -values[count]
    first = int(torch.searchsorted(negative, edge, right=False))
    return first, int(torch.searchsorted(negative, edge, right=True))


def expected_counts(values: Tensor, members: Tensor, counts: Sequence[int]) -> Tensor:
    """How many members are among the highest positions, on average over random orders of the tied ones.

    Within a tied group each position is as likely as any other to come first, so the number of members grows by equal
    steps from one end of the group to the other.

    Parameters
    ----------
    values : Tensor, shape (P,)
        A map's values, descending.
    members : Tensor, shape (M, P), bool
        Sets of positions, in the order of `values`.
    counts : sequence of int
        Numbers of highest positions.

    Returns
    -------
    Tensor, shape (M, len(counts)), float64
    """
    cumulative = torch.nn.functional.pad(members.double().cumsum(1), (1, 0))
    columns = []
    for count in counts:
        first, last = tied_group(values, count)
        part = (count - first) / (last - first) if last > first else 0.0
        columns.append(cumulative[:, first] + part * (cumulative[:, last] - cumulative[:, first]))
    return torch.stack(columns, dim=1)
