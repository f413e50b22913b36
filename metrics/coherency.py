"""Coherency and what is built on it: these explain the masked image again and so need the method itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrics.complexity import complexity
from metrics.faithfulness import correlate
from metrics.masking import average_drop, unit_range
from metrics.road import road

ARCC_SHARES = (0.2, 0.4, 0.6, 0.8)


def coherency(heatmaps: Tensor, batch: Any, *, explain: Any) -> dict[str, Tensor]:
    """Whether the method explains the explanation image as it explains the image (Poppi et al. 2021, equation 5).

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    explain : callable
        ``explain(images) -> heatmaps`` (N, H, W): the same method, layer and classes on other images (N, C, H, W).
        Costs one forward and one backward pass a map.

    Returns
    -------
    dict
        ``coherency`` (N,): ``(r + 1) / 2``, r the Pearson correlation of the map with the map of ``m * image``, m
        the map scaled to 0..1; 0 where either is constant.

    References
    ----------
    Poppi, Cornia, Baraldi, Cucchiara: Revisiting the evaluation of class activation mapping for explainability, CVPR
    workshops 2021.
    """
    again = explain(unit_range(heatmaps).to(batch.images)[:, None] * batch.images)
    correlation = correlate(unit_range(heatmaps).flatten(1), unit_range(again).flatten(1))
    return {"coherency": ((correlation + 1) / 2).nan_to_num(0)}


def adcc(heatmaps: Tensor, batch: Any, *, score: Any, explain: Any) -> dict[str, Tensor]:
    """Harmonic mean of coherency, ``1 - complexity`` and ``1 - average drop`` (Poppi et al. 2021, equation 7).

    Returns
    -------
    dict
        ``adcc`` (N,): 0 to 1, higher is better; 0 as soon as one of the three is 0.
    """
    return {
        "adcc": _harmonic_mean(
            coherency(heatmaps, batch, explain=explain)["coherency"],
            1 - complexity(heatmaps, batch)["mean"],
            1 - average_drop(heatmaps, batch, score=score)["drop"],
        )
    }


def arcc(
    heatmaps: Tensor, batch: Any, *, score: Any, explain: Any, noise: float = 0.01, seed: int = 0
) -> dict[str, Tensor]:
    """Harmonic mean of coherency, ``1 - complexity`` and ROAD (LeRF - MoRF at 20, 40, 60 and 80 %, cut to 0..1).

    Returns
    -------
    dict
        ``arcc`` (N,): 0 to 1, higher is better; 0 as soon as one of the three is 0.

    References
    ----------
    Domeniconi, Stramiglio, Lombardi, Salti: How to evaluate and refine your CAM, arXiv 2605.14641, 2026.
    """
    removal = road(heatmaps, batch, score=score, shares=ARCC_SHARES, noise=noise, seed=seed)
    return {
        "arcc": _harmonic_mean(
            coherency(heatmaps, batch, explain=explain)["coherency"],
            1 - complexity(heatmaps, batch)["mean"],
            (2 * removal["combined"]).clamp(0, 1),
        )
    }


def _harmonic_mean(*parts: Tensor) -> Tensor:
    stacked = torch.stack([part.float() for part in parts])
    # 1 / 0 is infinite, so one part of 0 makes the mean 0.
    return len(parts) / (1 / stacked.clamp(min=0)).sum(0)
