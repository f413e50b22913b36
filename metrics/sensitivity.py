"""Sensitivity-n: is the map's sum over any set of positions what these positions are worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .baselines import shared_baseline
from .faithfulness import clean_score, correlate, pieces
from .ranking import generator


def sensitivity_n(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    share: float = 0.25,
    subsets: int = 100,
    cell: int = 16,
    baseline: str = "zero",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Correlation, over random sets of positions, of the map's sum with the drop when they are replaced.

    The image is cut into cells of ``cell`` x ``cell`` pixels (1 gives the published single pixels, whose random sets
    hardly differ on smooth maps); each set holds ``share`` of them. The sets follow from the seed and the case's id
    and do not depend on the map, so all methods and layers together pay ``subsets`` forward passes a case.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    share : float
        Between 0 and 1, of the cells; at least one cell and not all are drawn.
    subsets : int
        At least 3.
    cell : int
        Side in input pixels; cells at the right and lower border may be smaller.
    baseline : {"zero", "blur", "black", "mean", "noise"}
        See `metrics.baselines.baseline_images`.
    seed : int

    Returns
    -------
    dict
        ``correlation`` (N,): Pearson, -1 to 1, higher is better; 0 for a constant map, NaN where the drops are equal.

    Raises
    ------
    ValueError
        For a share outside 0..1, fewer than 3 subsets or a cell below 1.

    References
    ----------
    Ancona, Ceolini, Oztireli, Gross: Towards better understanding of gradient-based attribution methods, ICLR 2018.
    """
    if not 0 < share < 1 or subsets < 3 or cell < 1:
        raise ValueError(
            f"sensitivity_n: share={share} (0 to 1), subsets={subsets} (3 or more), cell={cell} (1 or more)"
        )
    height, width = heatmaps.shape[1:]
    down, across = -(-height // cell), -(-width // cell)
    # Number of its cell for every position.
    numbers = (torch.arange(height) // cell)[:, None] * across + torch.arange(width) // cell
    numbers = numbers.to(heatmaps.device)
    key = ("sensitivity_n", share, subsets, cell, baseline, seed)

    def measure() -> tuple[Tensor, Tensor]:
        drawn = torch.stack([_draw(down * across, share, subsets, f"{seed}:{case}") for case in batch.ids])
        drawn = drawn.to(heatmaps.device)
        return drawn, _drops(drawn, numbers, batch, score, shared_baseline(batch, score, baseline, seed=seed))

    drawn, drops = score.once(key, measure)
    flat = heatmaps.flatten(1).float()
    constant = flat.amax(1) == flat.amin(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    # Not by a scatter, whose order of additions varies on a GPU.
    whole = torch.nn.functional.pad(flat.view_as(heatmaps), (0, across * cell - width, 0, down * cell - height))
    cells = whole.view(-1, down, cell, across, cell).sum((2, 4)).flatten(1)
    sums = torch.stack([sets.to(flat) @ values for sets, values in zip(drawn, cells, strict=True)])
    return {"correlation": correlate(sums.to(drops), drops).masked_fill(constant, 0)}


def _draw(cells: int, share: float, subsets: int, key: str) -> Tensor:
    """Random sets of cells, bool (subsets, cells); drawn on the CPU, so that every machine draws the same."""
    size = min(max(1, round(share * cells)), max(1, cells - 1))
    places = torch.rand(subsets, cells, generator=generator(key)).argsort(dim=1, stable=True)
    return torch.zeros(subsets, cells, dtype=torch.bool).scatter_(1, places[:, :size], True)


def _drops(drawn: Tensor, numbers: Tensor, batch: Any, score: Any, blank: Tensor) -> Tensor:
    """Drop of the probability (N, subsets) when each set is replaced by the baseline."""
    images, (n, subsets) = batch.images, drawn.shape[:2]
    cases = torch.arange(n, device=drawn.device).repeat_interleave(subsets)
    sets = drawn.flatten(0, 1)
    scores = []
    piece = pieces(images, score)
    for case, chosen in zip(cases.split(piece), sets.split(piece), strict=True):
        scores.append(score(torch.where(chosen[:, numbers][:, None], blank[case], images[case]), case))
    return clean_score(batch, score)[:, None] - torch.cat(scores).view(n, subsets)
