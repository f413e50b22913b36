"""Relevance on the object's pixels: mass, rank and top-k, by masks where the data set has them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metrics.geometry import instance_masks, order, positive_energy


def relevance(heatmaps: Tensor, batch: Any, *, k: int = 1000) -> dict[str, Tensor]:
    """Three published overlaps of a map with the class's pixels G: instance masks, or boxes where there are none.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    k : int
        Positions of the top-k intersection, at least 1; all of the image where it has fewer.

    Returns
    -------
    dict
        0 to 1, higher is better; NaN where G has no pixel in the image:

        - ``mass`` (N,): positive energy in G over all (relevance mass accuracy, Arras et al. 2022); 0 for none;
        - ``rank`` (N,): share of the ``|G|`` highest positions that lie in G (relevance rank accuracy, same);
        - ``top_k`` (N,): share of the `k` highest positions that lie in G (top-k intersection, Theiner et al. 2022).

    Raises
    ------
    ValueError
        For ``k`` below 1.

    References
    ----------
    Arras, Osman, Samek: CLEVR-XAI, Information Fusion 2022. Theiner, Mueller-Budack, Ewerth: Interpretable semantic
    photo geolocation, WACV 2022.
    """
    if k < 1:
        raise ValueError(f"relevance: k must be at least 1, not {k}")
    result = torch.full((3, len(heatmaps)), math.nan, device=heatmaps.device)
    for i, heatmap in enumerate(heatmaps):
        truth = class_pixels(batch, i, heatmap)
        if not bool(truth.any()):
            continue
        energy = positive_energy(heatmap)
        found = truth.flatten()[order(heatmap[None])[0]].float()
        mass = energy[truth].sum() / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny)
        result[:, i] = torch.stack([mass, found[: int(truth.sum())].mean(), found[:k].mean()])
    return dict(zip(("mass", "rank", "top_k"), result, strict=True))


def class_pixels(batch: Any, i: int, heatmap: Tensor) -> Tensor:
    """Pixels (H, W), bool, of the class in case `i`: the union of its masks, or of its boxes without masks."""
    masks = batch.masks[i]
    masks = instance_masks(batch.boxes[i], heatmap) if masks is None else masks.to(heatmap.device)
    return masks.any(0)
