"""How alike two maps are: rank correlation, structural similarity, and correlation of oriented gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from skimage.feature import hog
from skimage.metrics import structural_similarity

from .geometry import unit_range

# Side of structural similarity's window for a Gaussian of sigma 1.5.
WINDOW = 11
# Decimals of the map whose gradients are taken. Upsampled maps have rows that are equal but for the network's rounding,
# whose sign alone would choose between the first and the last orientation.
DECIMALS = 6


@dataclass(frozen=True, eq=False)
class Described:
    """What `compare` needs of one map; made once for a map that is compared often.

    Attributes
    ----------
    unit : array, shape (*spatial)
        The map scaled to 0..1, a constant one 0.
    ranks : array, shape (P,)
        Ranks of its values, ties have their mean.
    gradients : array
        Histograms of oriented gradients.
    constant : bool
    """

    unit: NDArray[np.float64]
    ranks: NDArray[np.float64]
    gradients: NDArray[np.float64]
    constant: bool


def describe(heatmap: NDArray[Any]) -> Described:
    """Scale a map (*spatial), rank its values and take its histograms of oriented gradients.

    Histograms are over cells of 16 x 16 pixels, blocks of 3 x 3 cells and 9 orientations, as in Adebayo et al.; a map
    of under 48 pixels a side has smaller cells. Volumes have none.
    """
    values = torch.as_tensor(heatmap, dtype=torch.float64)
    unit = unit_range(values[None], torch.float64)[0].numpy()
    if unit.ndim != 2:
        return Described(unit, rankdata(unit), np.full(1, math.nan), bool(unit.max() == 0))
    least = min(values.shape)
    cell = max(1, min(16, least // 3))
    block = min(3, least // cell)
    sides = {"pixels_per_cell": (cell, cell), "cells_per_block": (block, block)}
    gradients = hog(np.round(unit, DECIMALS), orientations=9, **sides)
    return Described(unit, rankdata(unit), gradients, bool(unit.max() == 0))


def compare(one: Described, other: Described) -> dict[str, float]:
    """Three similarities of two maps of one size, at most 1.

    Parameters
    ----------
    one, other : Described

    Returns
    -------
    dict
        Exactly 1 for equal maps, and where `one` is constant: it says nothing that could change, which is the worst:

        - ``spearman``: rank correlation of the values, -1 to 1; 0 where `other` is constant;
        - ``ssim``: structural similarity of the maps scaled to 0..1, -1 to 1, Gaussian window of sigma 1.5 (Wang et
          al. 2004); NaN for maps of under 11 pixels a side;
        - ``hog``: Pearson correlation of the histograms of oriented gradients, -1 to 1; 0 where one has no gradient,
          NaN for volumes.
    """
    names = ("spearman", "ssim", "hog")
    if one.constant or np.array_equal(one.unit, other.unit):
        return dict(zip(names, (1.0, 1.0, 1.0 if one.unit.ndim == 2 else math.nan), strict=True))
    structure = math.nan
    if min(one.unit.shape) >= WINDOW:
        structure = structural_similarity(
            one.unit, other.unit, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    gradients = _pearson(one.gradients, other.gradients) if one.unit.ndim == 2 else math.nan
    values = (_pearson(one.ranks, other.ranks), float(structure), gradients)
    return dict(zip(names, values, strict=True))


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(np.clip(a @ b / norm, -1, 1)) if norm > 0 else 0.0
