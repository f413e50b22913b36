"""How far a map moves relative to what a perturbed picture changes in the input, in the output and in the layer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .noise import distances, noises


def relative_stability(
    heatmaps: Tensor, batch: Any, *, explain: Any, samples: int = 10, radius: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """Relative change of the map over that of the input, the output and the layer (Agarwal et al. 2022).

    ``max_i r(m(x + e_i), m(x)) / r(z(x + e_i), z(x))`` with ``r(a, b) = ||a - b|| / ||b||`` over the perturbations that
    leave the predicted class as it was; z is the image, all logits, or the activations of the explained layer. It is
    not the change alone that counts against a method, only what it moves beyond the network. r is that of the authors'
    code (OpenXAI); the paper divides position by position, which no map with zeros allows: Quantus's constant of 1e-6
    in their place alone decides its values then. The paper's output stability has no ``||b||``; OpenXAI's has.

    Parameters
    ----------
    heatmaps, batch, samples, radius, seed
        As in `metrics.robustness.sensitivity.max_sensitivity`; maps of mean square 1, too. The passes are the same.
    explain : callable
        As there, with ``explain.logits`` (N, C) and ``explain.effect(perturbation)``: the distance of the images (N,),
        logits (N, C) and the relative change of the layer (N,), None without a layer.

    Returns
    -------
    dict
        At least 0, lower is better, invariant to the map's scale; a constant map's change is sqrt(2). NaN where every
        perturbation changes the predicted class, or none changes z:

        - ``input``, ``output`` (N,);
        - ``representation`` (N,): NaN also for a method that looks at no layer.

    Raises
    ------
    ValueError
        For ``samples`` below 1 or a radius that is not above 0.

    References
    ----------
    Agarwal, Johnson, Pawelczyk, Krishna, Saxena, Zitnik, Lakkaraju: Rethinking stability for attribution-based
    explanations, 2022. Agarwal et al.: OpenXAI, NeurIPS 2022 (``openxai/metrics.py``).
    """
    perturbations = noises(samples, radius, seed)
    moved = distances(heatmaps, explain, perturbations)
    clean = explain.logits.double()
    shifts, logits, layers = zip(*(explain.effect(noise) for noise in perturbations), strict=True)
    outputs = torch.stack(logits, dim=1).double()
    same = outputs.argmax(2) == clean.argmax(1, keepdim=True)
    unknown = torch.full_like(moved[:, 0], math.nan)
    changes = {
        "input": torch.stack(shifts, dim=1) / batch.images.flatten(1).double().norm(dim=1, keepdim=True),
        "output": (outputs - clean[:, None]).norm(dim=2) / clean.norm(dim=1, keepdim=True),
        "representation": torch.stack([unknown if layer is None else layer for layer in layers], dim=1),
    }
    return {name: _largest(moved, relative, same) for name, relative in changes.items()}


def _largest(moved: Tensor, relative: Tensor, same: Tensor) -> Tensor:
    """Largest ratio (N,) over the samples (N, samples) that count; NaN where none does."""
    counted = same & (relative > 0) & relative.isfinite()
    ratios = torch.where(counted, moved / relative, -math.inf).amax(1)
    return ratios.masked_fill(~counted.any(1), math.nan).float()
