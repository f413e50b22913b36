"""The one test of all tables, figures and sentences: a paired difference and its bootstrap; arrays in, arrays out."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.analysis.statistics import Array

LEAST_IMAGES = 20  # under so many images nothing is said of a difference
ENOUGH = 0.95  # share of the most cases that any row has, from which a row's mean compares with the others'
LEVEL = 0.05
MARGIN = 0.02  # of a metric's range: methods that differ by less are called equal


def paired_p(difference: Array, resampled: Array, images: NDArray[np.integer]) -> Array:
    """Two-sided p of paired differences: each in units of its bootstrap standard error, against Student's t.

    The share of resamples beyond zero would do the same, but 2,000 resamples know no p below .0005, and a table of a
    hundred comparisons needs smaller ones to survive Holm's correction.

    Parameters
    ----------
    difference : ndarray, shape (C,)
        Mean differences; 0 exactly where both methods have the same values.
    resampled : ndarray, shape (R, C)
        The same in bootstrap resamples of the images.
    images : ndarray of int, shape (C,)
        Number of images that have a value: one more than the degrees of freedom.

    Returns
    -------
    ndarray, shape (C,)
        NaN for fewer than two images; 1 where the difference is 0, and 0 where all images differ by the same.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without a value has no spread
        error = np.nanstd(resampled, axis=0, ddof=1)
    size = np.abs(difference)
    # A spread that is rounding noise beside the difference is none.
    error = np.where(error <= 1e-12 * size, 0.0, error)
    t = np.divide(size, error, out=np.where(size > 0, np.inf, 0.0), where=error > 0)
    p = 2 * stats.t.sf(t, np.maximum(images - 1, 1))
    return np.where((images < 2) | ~np.isfinite(difference), np.nan, p)


def holm(p: Array) -> Array:
    """Holm's step-down correction (Holm 1979) of p (M,), at most 1; NaN stays NaN and does not count as a test."""
    p = np.asarray(p, dtype=np.float64)
    result = np.full(len(p), np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    if len(order):
        result[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return result


def verdict(low: float, high: float, p: float, images: int, higher_is_better: bool | None, width: float | None) -> str:
    """Say what a paired difference, method minus opponent, allows to be said.

    Parameters
    ----------
    low, high, p : float
        Ends of the 95 % interval of the difference, and its p, corrected for all comparisons of the table.
    images : int
        Number of images under it.
    higher_is_better : bool or None
        None for a metric without a direction, of which nothing can be said.
    width : float or None
        Range of the metric (1 for a share), None where it has no bounds: nothing is called equal there.

    Returns
    -------
    str
        ``better`` and ``worse`` need p under .05 and an interval on one side of 0; ``equal`` an interval within
        `MARGIN` of the range on both sides of 0. Else ``undecided``, or ``few images``, under `LEAST_IMAGES`; "" for
        a metric without a direction or a difference that is not known.
    """
    if higher_is_better is None or not np.isfinite([low, high, p]).all():
        return "few images" if higher_is_better is not None and images < LEAST_IMAGES else ""
    if images < LEAST_IMAGES:
        return "few images"
    if p < LEVEL and (low > 0 or high < 0):
        return "better" if (low > 0) == higher_is_better else "worse"
    if width is not None and -MARGIN * width <= low and high <= MARGIN * width:
        return "equal"
    return "undecided"
