"""Parameter randomization with maps that are averaged over noisy images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ranking import drawn
from ..sanity import Randomized, random_parts, similarity
from ..similarity import describe


@dataclass(frozen=True)
class Grain:
    """A perturbation of images: normal noise, its deviation a share of the image's range. Equal ones are equal.

    An image's noise follows from the seed, the sample's number and the image's id alone.
    """

    share: float
    seed: int
    sample: int

    def __call__(self, images: Tensor, image_ids: Sequence[str]) -> Tensor:
        """Perturb images (N, C, *spatial)."""
        keys = [f"grain:{self.seed}:{self.sample}:{name}" for name in image_ids]
        low, high = (values.view(-1, *[1] * (images.ndim - 1)) for values in images.flatten(1).aminmax(dim=1))
        return images + self.share * (high - low) * drawn(torch.randn, images, keys)


def smooth_mprt(
    heatmaps: Tensor,
    batch: Any,
    *,
    explain: Any,
    order: str = "bottom_up",
    stages: int = 5,
    samples: int = 10,
    share: float = 0.1,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Similarity of averaged maps with those of the same network with random weights (Hedstroem et al. 2024, sMPRT).

    As `metrics.sanity.parameter_randomization`, with each map replaced by the mean of the maps of `samples` images: the
    image itself and noisy ones, as in the authors' code (Quantus). A gradient of a random network is noise, and two
    noises are unlike whatever they depend on; the mean is what the method shows on the whole. With one sample this is
    the plain test.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    explain : callable
        ``explain(change=function of the network, perturb=perturbation) -> heatmaps`` (N, H, W), with
        ``explain.module`` and ``explain.running``, see `metrics.sanity.cut`. All methods and layers share one
        forward and one backward pass a stage and sample.
    order, stages, seed
        As in `metrics.sanity.parameter_randomization`; the authors go from the input up.
    samples : int
        At least 1; the authors take 50 for ImageNet.
    share : float
        Deviation of the noise, as a share of the range of the image's values.

    Returns
    -------
    dict
        For each of ``spearman``, ``ssim`` and ``hog`` (see `metrics.similarity.compare`): the mean over the stages
        (N,), at most 1, lower is better, and ``<name>_curve`` (N, stages). 1, the worst, where the trained network's
        mean map is constant.

    Raises
    ------
    ValueError
        As `metrics.sanity.parameter_randomization`, and for ``samples`` below 1 or a negative share.

    References
    ----------
    Hedstroem, Weber, Lapuschkin, Hoehne: A fresh look at sanity checks for saliency maps, xAI 2024, section 4.1.
    """
    if samples < 1 or share < 0:
        raise ValueError(f"needs samples of at least 1 and no negative share, not {samples} and {share}")
    grains = [Grain(share, seed, sample) for sample in range(1, samples)]
    own = mean_map(heatmaps, [explain(perturb=grain) for grain in grains])
    before = [describe(heatmap) for heatmap in own.cpu().numpy()]
    alike = []
    for names in random_parts(explain.module, explain.running, order, stages):
        change: Callable[[Any], Any] = Randomized(names, seed)
        noisy = [explain(change=change, perturb=grain) for grain in grains]
        alike.append(similarity(before, mean_map(explain(change=change), noisy)))
    curves = {name: torch.stack([stage[name] for stage in alike], dim=1).to(heatmaps.device) for name in alike[0]}
    return {name: curve.mean(1) for name, curve in curves.items()} | {f"{n}_curve": c for n, c in curves.items()}


def mean_map(clean: Tensor, noisy: Sequence[Tensor]) -> Tensor:
    """Mean (N, H, W), float64, of the image's map and those of its noisy versions, in the method's own unit."""
    return torch.stack([clean, *noisy]).double().mean(0)
