"""How far a map moves when its picture is perturbed, at most and on average, and in proportion to the perturbation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .noise import distances, noises


def max_sensitivity(
    heatmaps: Tensor, batch: Any, *, explain: Any, samples: int = 10, radius: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """Largest distance of the map from the maps of `samples` perturbed images (Yeh et al. 2019, definition 3).

    ``max_i ||m(x + e_i) - m(x)|| / ||m(x)||`` with e_i uniform in the ball of the maximum norm, as in captum. There m
    is the raw map; here both are first divided by the root of their mean square (`noise.distances`), since a map's unit
    is the method's and nothing that a reader sees. So the value is bounded, and the same for both maps exchanged.
    A method that ignores the image is perfectly robust.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    explain : callable
        ``explain(perturb=perturbation) -> heatmaps`` (N, H, W). All methods and layers share one forward and one
        backward pass a perturbation, also with other metrics that have the same `samples`, `radius` and `seed`.
    samples : int
        At least 1.
    radius : float
        Of the noise, in units of the network's normalized input: .1 is some 6 of 255 grey levels for networks with
        ImageNet's deviation (.23), 13 for those with .5.
    seed : int

    Returns
    -------
    dict
        ``distance`` (N,): 0 to sqrt(2), for maps with negative values up to 2; lower is better. Invariant to the map's
        scale. sqrt(2), the worst, where the map is constant.

    Raises
    ------
    ValueError
        For ``samples`` below 1 or a radius that is not above 0.

    References
    ----------
    Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (in)fidelity and sensitivity of explanations, NeurIPS 2019.
    """
    return {"distance": distances(heatmaps, explain, noises(samples, radius, seed)).amax(1).float()}


def avg_sensitivity(
    heatmaps: Tensor, batch: Any, *, explain: Any, samples: int = 10, radius: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """Mean distance of the map from the maps of `samples` perturbed images (Yeh et al. 2019; Bhatt et al. 2020).

    As `max_sensitivity` in everything else; ``distance`` depends less on the number of samples.

    References
    ----------
    Yeh et al., as in `max_sensitivity`. Bhatt, Weller, Moura: Evaluating and aggregating feature-based model
    explanations, IJCAI 2020, section 3.1.
    """
    return {"distance": distances(heatmaps, explain, noises(samples, radius, seed)).mean(1).float()}


def local_lipschitz(
    heatmaps: Tensor, batch: Any, *, explain: Any, samples: int = 10, radius: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """Largest ratio of the map's change to the image's (Alvarez-Melis and Jaakkola 2018, equation 2).

    ``max_i ||m(x + e_i) - m(x)|| / ||e_i||`` over perturbations as in `max_sensitivity`, whose maps, of mean square 1,
    are taken here too. The authors look for the worst perturbation; this is a lower bound from samples. Uniform noise
    over many pixels has nearly one norm, so it ranks methods as `max_sensitivity` does, which it then is times
    ``sqrt(3 / C) / radius``, C channels.

    Parameters
    ----------
    heatmaps, batch, samples, radius, seed
        As in `max_sensitivity`; the passes are the same.
    explain : callable
        As there, with ``explain.effect(perturbation)``, whose first value is the distance of the images (N,).

    Returns
    -------
    dict
        ``estimate`` (N,): at least 0, lower is better, in root mean squares of the map a unit of the normalized input.
        Invariant to the map's scale. For a constant map that of two maps with nothing in common.

    References
    ----------
    Alvarez-Melis, Jaakkola: On the robustness of interpretability methods, ICML workshop on human interpretability
    2018.
    """
    perturbations = noises(samples, radius, seed)
    moved = distances(heatmaps, explain, perturbations) * math.sqrt(heatmaps[0].numel())
    shifts = torch.stack([explain.effect(noise)[0] for noise in perturbations], dim=1)
    return {"estimate": (moved / shifts).amax(1).float()}
