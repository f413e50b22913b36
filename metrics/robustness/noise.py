"""Pictures with a little noise, and how far the maps of a method move on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..geometry import constant_rows
from ..ranking import drawn

# Distance of two maps of mean square 1 that have no position in common, the largest without negative values.
NOTHING_IN_COMMON = math.sqrt(2)


@dataclass(frozen=True)
class Noise:
    """A perturbation of images: uniform noise of -radius to radius on every value. Equal ones give equal images.

    An image's noise follows from the seed, the sample's number and the image's id alone.
    """

    radius: float
    seed: int
    sample: int

    def __call__(self, images: Tensor, image_ids: Sequence[str]) -> Tensor:
        """Perturb images (N, C, *spatial)."""
        keys = [f"noise:{self.seed}:{self.sample}:{name}" for name in image_ids]
        return images + self.radius * (2 * drawn(torch.rand, images, keys) - 1)


def noises(samples: int, radius: float, seed: int) -> list[Noise]:
    """List the perturbations of a metric; those of two metrics with equal parameters are equal."""
    if samples < 1 or radius <= 0:
        raise ValueError(f"needs samples of at least 1 and a radius above 0, not {samples} and {radius}")
    return [Noise(radius, seed, sample) for sample in range(samples)]


def distances(heatmaps: Tensor, explain: Any, perturbations: Sequence[Noise]) -> Tensor:
    """Distance (N, samples), float64, of each map from the map of the perturbed image, as a share of the map's norm.

    Both maps are first divided by the root of their mean square: a map's unit is the method's, so brightness is none of
    what it shows. Of maps a, b with angle t it is ``sqrt(2 - 2 cos t)``: 0 to sqrt(2), up to 2 for maps with negative
    values. Where either map is constant, it says nothing that could stay: sqrt(2).
    """
    before = unit(heatmaps)
    columns = []
    for noise in perturbations:
        again = explain(perturb=noise)
        distance = torch.linalg.vector_norm(before - unit(again), dim=1) / math.sqrt(before.shape[1])
        columns.append(distance.masked_fill(constant_rows(heatmaps) | constant_rows(again), NOTHING_IN_COMMON))
    return torch.stack(columns, dim=1)


def unit(heatmaps: Tensor) -> Tensor:
    """Divide maps (N, *spatial), flat and in float64, by the root of their mean square; a zero map stays zero."""
    flat = heatmaps.flatten(1).double()
    root = flat.square().mean(1, keepdim=True).sqrt()
    return torch.where(root > 0, flat / root, flat)
