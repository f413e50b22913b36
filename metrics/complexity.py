"""How much of the image a map lights: sparse maps are easier to read, not necessarily truer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metrics.masking import unit_range


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
    flat = heatmaps.flatten(1)
    constant = flat.amax(1) == flat.amin(1)
    # Scaled to 0..1 a constant map is 0, the best value; it shows everything or nothing, so it gets the worst.
    mean = unit_range(heatmaps).flatten(1).mean(1).masked_fill(constant, 1)
    return {"mean": mean, "entropy": torch.special.entr(_shares(heatmaps)).sum(1).clamp(max=math.log(flat.shape[1]))}


def _shares(heatmaps: Tensor) -> Tensor:
    """Absolute values (N, H * W) divided by their sum; a zero map counts as constant."""
    flat = heatmaps.flatten(1).float().abs()
    peak = flat.amax(1, keepdim=True)
    flat = torch.where(peak > 0, flat / peak.clamp(min=torch.finfo(flat.dtype).tiny), torch.ones_like(flat))
    return flat / flat.sum(1, keepdim=True)
