"""Single deletion: does the map rank the patches of a picture as the network does, one patch gone at a time."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from ..baselines import shared_baseline
from ..faithfulness import correlate, pieces
from ..geometry import constant_rows


def single_deletion(
    heatmaps: Tensor, batch: Any, *, score: Any, grid: int = 4, baseline: str = "zero", seed: int = 0
) -> dict[str, Tensor]:
    """Rank correlation of the map's sum over each patch with the fall of the score when the patch alone is gone.

    The picture is cut into ``grid`` x ``grid`` patches. Spearman's correlation, over the patches, between the sums of
    the map and the falls of the explained score (a logit, not a probability) when one patch is replaced by the baseline
    and all others stay. The in-domain score (IDSDS) asks for a network that was fine-tuned on pictures with patches
    deleted in this way (``model.weights=FILE``), so that such a picture is nothing new to it; on any other network this
    is the plain single-deletion score. The falls do not depend on the map: all methods and layers together pay
    ``grid ** 2 + 1`` forward passes a case, ``grid ** 3 + 1`` for a volume.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
        With ``score.logit(images, cases)``.
    grid : int
        Patches a side, at least 2; where it does not divide a side, the last ones are larger, and a side of
        fewer than `grid` pixels has one patch a pixel.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    seed : int
        Of ``noise``.

    Returns
    -------
    dict
        ``correlation`` (N,): -1 to 1, higher is better, 0 by chance and for a constant map; NaN where all falls are
        equal.

    Raises
    ------
    ValueError
        For a grid below 2.

    References
    ----------
    Hesse, Schaub-Meyer, Roth: Benchmarking the attribution quality of vision models, NeurIPS 2024, section 3.
    """
    if grid < 2:
        raise ValueError(f"grid={grid} must be at least 2")
    patch, number = torch.zeros(1, dtype=torch.long, device=heatmaps.device), 1
    for side in heatmaps.shape[1:]:
        count = min(grid, side)
        along = (torch.arange(side, device=heatmaps.device) // (side // count)).clamp(max=count - 1)
        patch, number = patch[..., None] * count + along, number * count
    patch = patch[0]
    falls = score.once(
        ("single deletion", grid, baseline, seed),
        lambda: _falls(batch, score, patch, number, shared_baseline(batch, score, baseline, seed=seed)),
    )
    flat = heatmaps.flatten(1).double()
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    sums = torch.stack([flat[:, patch.flatten() == i].sum(1) for i in range(number)], dim=1)
    # In float32, so that patches of equal sums tie whatever the order of their additions.
    pairs = (sums.float(), falls)
    ranks = [torch.from_numpy(rankdata(values.cpu().numpy(), axis=1)).to(heatmaps.device) for values in pairs]
    correlation = correlate(*ranks).float()
    # A map whose patches all have one sum orders nothing.
    same = constant_rows(ranks[0]) | constant_rows(heatmaps)
    return {"correlation": correlation.masked_fill(same & ~constant_rows(falls), 0)}


def _falls(batch: Any, score: Any, patch: Tensor, number: int, blank: Tensor) -> Tensor:
    """Fall of the explained score (N, number) when each patch (*spatial holds their numbers) becomes the baseline."""
    images, cases = batch.images, torch.arange(len(batch.images), device=batch.images.device)
    clean = score.once("clean logit", lambda: score.logit(images, cases))
    pairs = [(case, i) for case in range(len(images)) for i in range(number)]
    values, piece = [], pieces(images, score)
    for start in range(0, len(pairs), piece):
        part = pairs[start : start + piece]
        composed = torch.stack([torch.where(patch == i, blank[case], images[case]) for case, i in part])
        values.append(score.logit(composed, torch.tensor([case for case, _ in part], device=images.device)))
    return clean[:, None] - torch.cat(values).view(len(images), number)
