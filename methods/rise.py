"""RISE: random masks. The only method here that treats the network as a black box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .common import seeded, widen
from .multipass import check_least, piece


def rise(
    images: Tensor,
    ids: Sequence[str],
    *,
    score: Any,
    masks: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """RISE: mean of random masks, each weighted by the probability of the image seen through it.

    map = sum_i f(X M_i) M_i / (masks keep), f the softmax probability; M_i is a grid of `cells` per axis, each 1 with
    probability `keep`, upsampled linearly to one cell more than the input and cropped at a random place (Petsiuk
    et al., BMVC 2018, arXiv:1806.07421, equation 6). Beyond its outermost centres the grid is mirrored, as in the
    authors' code. Passes per image: `masks` forward. Looks at no layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    ids : sequence of N str
        Case ids; with `seed` they fix the masks.
    score : callable
        ``score(images, cases) -> (n,)``.
    masks, cells : int
    keep : float
        In (0, 1].
    seed : int

    Returns
    -------
    Tensor, shape (N, *size)
        At least 0.

    Raises
    ------
    ValueError
        No mask or cell, or `keep` out of range.
    """
    check_least(1, masks=masks, cells=cells)
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} must be above 0 and at most 1")
    images = widen(images)
    maps = torch.zeros_like(images[:, 0])
    for case, case_id in enumerate(ids):
        drawn = random_masks(masks, cells, keep, images.shape[2:], seeded(seed, case_id))
        for grids, *weights in zip(*(part.to(images).split(piece(images[0])) for part in drawn), strict=True):
            behind = _stretch(grids, weights)
            cases = torch.full((len(behind),), case, device=images.device)
            probability = score(behind[:, None] * images[case], cases)
            maps[case] += torch.tensordot(probability.to(behind), behind, 1)
    return maps / (masks * keep)


def random_masks(count: int, cells: int, keep: float, size: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw RISE's masks: grids (count, cells, ..) of 0 and 1, then per axis the weights (count, length, cells).

    A row of weights is the linear interpolation of one pixel from the cells, the random shift included.
    """
    grids = (torch.rand((count, *[cells] * len(size)), generator=generator) < keep).double()
    weights = []
    for length in size:
        cell = -(-length // cells)  # rounded up as in the authors' code, or the crop could be too small
        shift = torch.randint(cell, (count, 1), generator=generator)
        place = (torch.arange(length) + shift + 0.5).double() * cells / ((cells + 1) * cell) - 0.5
        last = cells - 1
        place = (last - (last - place.abs()).abs()).clamp(min=0)  # mirrored at the first and the last centre
        weights.append((1 - (place[..., None] - torch.arange(cells)).abs()).clamp(min=0))
    return [grids, *weights]


def _stretch(grids: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Masks (n, *size) from grids (n, cells, ..) and the weights (n, length, cells) of each axis."""
    for axis, weight in enumerate(weights, start=1):
        grids = torch.einsum("n...c,nlc->n...l", grids.movedim(axis, -1), weight).movedim(-1, axis)
    return grids
