"""Masked images: what the probability does when the image is multiplied by its own map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrics.baselines import shared_baseline
from metrics.faithfulness import clean_score, score_all


def unit_range(heatmaps: Tensor) -> Tensor:
    """Scale maps (N, H, W) to minimum 0 and maximum 1, float32; a constant map, which points nowhere, becomes 0."""
    flat = heatmaps.flatten(1).float()
    # Divided first, since the difference of huge values would overflow and that of tiny ones vanish.
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    flat = flat - flat.amin(1, keepdim=True)
    peak = flat.amax(1, keepdim=True)
    return torch.where(peak > 0, flat / peak, torch.zeros_like(flat)).view(heatmaps.shape)


def average_drop(heatmaps: Tensor, batch: Any, *, score: Any, baseline: str = "zero") -> dict[str, Tensor]:
    """Change of the probability p to p' when only what the map shows is left: average drop, increase and gain.

    The explanation image is ``m * image + (1 - m) * baseline`` in normalized space, m the upsampled map scaled to 0..1.
    The three share one forward pass a map. Multiplying takes contrast away everywhere, so broad maps do well.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    baseline : {"zero", "blur", "black", "mean", "noise"}
        See `metrics.baselines.baseline_images`.

    Returns
    -------
    dict
        Shares, not per cent:

        - ``drop`` (N,): ``max(0, p - p') / p``, lower is better (Grad-CAM++, section 4.1.1);
        - ``increase`` (N,): 1 where ``p' > p``, else 0 (increase in confidence, 4.1.2);
        - ``gain`` (N,): ``max(0, p' - p) / (1 - p)`` (average gain, Opti-CAM).

    References
    ----------
    Chattopadhay et al.: Grad-CAM++, WACV 2018. Zhang et al.: Opti-CAM, Computer Vision and Image Understanding 2024.
    """
    clean, masked = clean_score(batch, score), _masked_score(unit_range(heatmaps), batch, score, baseline)
    return {
        "drop": _quotient((clean - masked).clamp(min=0), clean),
        "increase": (masked > clean).to(clean.dtype),
        "gain": _quotient((masked - clean).clamp(min=0), 1 - clean),
    }


def average_drop_in_deletion(heatmaps: Tensor, batch: Any, *, score: Any, baseline: str = "zero") -> dict[str, Tensor]:
    """Relative drop of the probability when what the map shows is taken away (Jung and Oh 2021).

    The image is ``(1 - m) * image + m * baseline``; parameters as in `average_drop`. One forward pass a map.

    Returns
    -------
    dict
        ``drop`` (N,): ``(p - p') / p``, at most 1, negative where the probability rises; higher is better.

    References
    ----------
    Jung, Oh: Towards better explanations of class activation mapping, ICCV 2021, section 5.1.
    """
    clean, masked = clean_score(batch, score), _masked_score(1 - unit_range(heatmaps), batch, score, baseline)
    return {"drop": _quotient(clean - masked, clean)}


def _masked_score(masks: Tensor, batch: Any, score: Any, baseline: str) -> Tensor:
    masks = masks.to(batch.images)[:, None]
    blank = shared_baseline(batch, score, baseline)
    return score_all(masks * batch.images + (1 - masks) * blank, score)


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    # A probability of exactly 0 (or 1) leaves nothing to lose (or gain).
    return torch.where(denominator > 0, numerator / denominator, torch.zeros_like(numerator))
