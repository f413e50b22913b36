"""How far the network sees a picture move when part of it becomes the baseline."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..baselines import shared_baseline
from ..sensitivity import cells_of, draw_sets
from .filling import FILLS, fill_in


def baseline_distance(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    explain: Any,
    share: float = 0.5,
    cell: int = 16,
    baseline: str = "zero",
    kernel: int = 11,
    sigma: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Distance, in the network's features, of the picture with random cells replaced from the picture as it was.

    A property of the baseline, not of the map, which is not looked at: it tells how far from natural pictures the
    images lie that deletion and insertion ask the network about. With ``f`` the mean over positions of the activations
    at the layer that the map is made of, ``||f(holed) - f(clean)|| / ||f(clean)||``. The picture is cut into cells,
    since holes of maps are blobs, not single pixels; which ``share`` of them is replaced follows from the seed and the
    case's id, and is the same for every baseline. Part of the distance is evidence that is gone, which no baseline
    brings back: compare baselines with one another, not with 0.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
        Only their size is used.
    batch : Batch
    score : callable
        With ``score.once``.
    explain : callable
        With ``explain.layers``, the names of the map's layers, and ``explain.features(images)``: mean activations
        (N, K) by layer, of the batch's own images without an argument. One forward pass a case for all methods and
        layers together.
    share : float
        Between 0 and 1, of the cells; at least one cell is replaced, and not all are.
    cell : int
        Side in input pixels; cells at the right and lower border may be smaller.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum", "imputation", "inpainting"}
        See `metrics.baselines.baseline_images`; the last two fill from what is left, see
        `metrics.perturbation.filling`.
    kernel, sigma
        Of ``blur``.
    seed : int
        Of the cells, ``noise`` and ``imputation``.

    Returns
    -------
    dict
        ``distance`` (N,): share of the features' norm, at least 0, without a better side; 0 for a baseline that is
        equal to the picture where it is replaced, 1 where the features vanish. NaN for a method that looks at no layer,
        and where the clean features are all 0.

    Raises
    ------
    ValueError
        For a share outside 0..1, a cell below 1, an unknown baseline, or inpainting without OpenCV or of volumes.
    """
    if not 0 < share < 1 or cell < 1:
        raise ValueError(f"baseline_distance: share={share} (0 to 1), cell={cell} (1 or more)")
    if not explain.layers:
        return {"distance": torch.full((len(heatmaps),), math.nan, device=heatmaps.device)}
    blank = (baseline, kernel, sigma, seed)

    def holed() -> Tensor:
        cells, numbers = cells_of(heatmaps.shape[1:], cell)
        sets = torch.stack([draw_sets(math.prod(cells), share, 1, f"{seed}:{case}")[0] for case in batch.ids])
        missing = sets[:, numbers].to(batch.images.device)
        if baseline in FILLS:
            return fill_in(batch.images, missing, baseline, shared_baseline(batch, score, "noise", seed=seed))
        return torch.where(missing[:, None], shared_baseline(batch, score, *blank), batch.images)

    clean = score.once("clean features", explain.features)
    moved = score.once(("holed features", share, cell, *blank), lambda: explain.features(holed()))
    before, after = (torch.cat([features[name] for name in explain.layers], dim=1) for features in (clean, moved))
    norm = before.norm(dim=1)
    return {"distance": ((after - before).norm(dim=1) / norm).masked_fill(norm == 0, math.nan).float()}
