"""Maps as masks: what the probability does when the image is multiplied by its map, and how much a map lights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .baselines import shared_baseline
from .faithfulness import clean_score, correlate, score_all
from .geometry import constant_rows, unit_range
from .road import road

ARCC_SHARES = (0.2, 0.4, 0.6, 0.8)


def average_drop(heatmaps: Tensor, batch: Any, *, score: Any, baseline: str = "zero") -> dict[str, Tensor]:
    """Change of the probability p to p' when only what the map shows is left: average drop, increase and gain.

    The explanation image is ``m * image + (1 - m) * baseline`` in normalized space, m the upsampled map scaled to 0..1.
    The three share one forward pass a map. Multiplying takes contrast away everywhere, so broad maps do well.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.

    Returns
    -------
    dict
        Shares, not per cent. A constant map shows nothing and has the worst value of each:

        - ``drop`` (N,): ``max(0, p - p') / p``, lower is better (Grad-CAM++, section 4.1.1); NaN where an explained
          score, which is no probability, is below 0;
        - ``increase`` (N,): 1 where ``p' > p``, else 0 (increase in confidence, 4.1.2);
        - ``gain`` (N,): ``max(0, p' - p) / (1 - p)`` (average gain, Opti-CAM); NaN where an explained score is above 1.

    References
    ----------
    Chattopadhay et al.: Grad-CAM++, WACV 2018. Zhang et al.: Opti-CAM, Computer Vision and Image Understanding 2024.
    """
    clean, masked = clean_score(batch, score), _masked_score(unit_range(heatmaps), batch, score, baseline)
    constant = constant_rows(heatmaps)
    return {
        "drop": _quotient((clean - masked).clamp(min=0), clean).masked_fill(constant, 1),
        "increase": (masked > clean).to(clean.dtype).masked_fill(constant, 0),
        "gain": _quotient((masked - clean).clamp(min=0), 1 - clean).masked_fill(constant, 0),
    }


def average_drop_in_deletion(heatmaps: Tensor, batch: Any, *, score: Any, baseline: str = "zero") -> dict[str, Tensor]:
    """Relative drop of the probability when what the map shows is taken away (Jung and Oh 2021).

    The image is ``(1 - m) * image + m * baseline``; parameters as in `average_drop`. One forward pass a map.

    Returns
    -------
    dict
        ``drop`` (N,): ``(p - p') / p``, at most 1, negative where the probability rises; higher is better. 0 for a
        constant map, which takes nothing away; NaN where an explained score, which is no probability, is below 0.

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
    # A probability of exactly 0 (or 1) leaves nothing to lose (or gain); a score beyond it has no meaningful share.
    share = torch.where(denominator > 0, numerator / denominator, torch.zeros_like(numerator))
    return share.masked_fill(denominator < 0, torch.nan)


def sparseness(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Gini index of the map's absolute values (Chalasani et al. 2020, section 2).

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Not used.

    Returns
    -------
    dict
        ``gini`` (N,): 0 for a constant (also zero) map, ``1 - 1 / (H * W)`` for a single lit position.

    References
    ----------
    Chalasani et al.: Concise explanations of neural networks using adversarial training, ICML 2020. Hurley, Rickard:
    Comparing measures of sparsity, 2009.
    """
    values = _shares(heatmaps).sort(dim=1).values
    n = values.shape[1]
    weights = (2 * torch.arange(1, n + 1, device=values.device, dtype=values.dtype) - n - 1) / n
    return {"gini": (values * weights).sum(1)}


def complexity(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Two published complexities of a map; a constant map has the highest of each.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Not used.

    Returns
    -------
    dict
        - ``mean`` (N,): mean of the map scaled to 0..1, that is its L1 norm per position (Poppi et al. 2021, part of
          ADCC), 0 to 1;
        - ``entropy`` (N,): Shannon entropy of the absolute values' shares, in nats (Bhatt et al. 2020), 0 to
          log(H * W).

    References
    ----------
    Poppi, Cornia, Baraldi, Cucchiara: Revisiting the evaluation of class activation mapping for explainability, CVPR
    workshops 2021. Bhatt, Weller, Moura: Evaluating and aggregating feature-based model explanations, IJCAI 2020.
    """
    # Scaled to 0..1 a constant map is 0, the best value; it shows everything or nothing, so it gets the worst.
    mean = unit_range(heatmaps).flatten(1).mean(1).masked_fill(constant_rows(heatmaps), 1)
    entropy = torch.special.entr(_shares(heatmaps)).sum(1)
    return {"mean": mean, "entropy": entropy.clamp(max=math.log(heatmaps[0].numel()))}


def _shares(heatmaps: Tensor) -> Tensor:
    """Absolute values (N, H * W) divided by their sum; a zero map counts as constant."""
    flat = heatmaps.flatten(1).float().abs()
    peak = flat.amax(1, keepdim=True)
    flat = torch.where(peak > 0, flat / peak.clamp(min=torch.finfo(flat.dtype).tiny), torch.ones_like(flat))
    return flat / flat.sum(1, keepdim=True)


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
