"""Paired tests and their correction for several tests; arrays in, numbers out."""

from __future__ import annotations

import numpy as np
from scipy import stats

from bench.analysis.statistics import Array, Codes

_EXACT = 50  # up to so many differences p is exact


def wilcoxon(differences: Array, scale: float = 1.0) -> float:
    """Two-sided p of Wilcoxon's signed-rank test on paired differences.

    Exact up to 50 differences, also with ties (scipy's exact p for ties tries sign patterns one by one,
    which takes seconds); above, the normal approximation with the correction for ties, as scipy has it.

    `differences` (N,) are rounded to a millionth of `scale`, the size of the values whose differences they are: two
    methods that agree up to floating point noise are equal, they are not ranked by noise. What is not finite is left
    out; zeros are dropped, as Wilcoxon did. NaN without a finite difference, 1 if all are zero.
    """
    kept = differences[np.isfinite(differences)]
    if not len(kept):
        return float("nan")
    unit = 1e-6 * scale if scale > 0 else 1e-6
    kept = np.round(kept / unit)
    kept = kept[kept != 0]
    if not len(kept):
        return 1.0
    if len(kept) > _EXACT:
        return _asymptotic(kept.astype(np.int64))
    ranks = (2 * stats.rankdata(np.abs(kept))).astype(int)  # twice the rank, as ties have halves
    chance = np.zeros(ranks.sum() + 1)  # of each sum of positive ranks, every sign being as likely as the other
    chance[0] = 1.0
    for rank in ranks:
        chance = 0.5 * chance + 0.5 * np.concatenate([np.zeros(rank), chance[:-rank]])
    positive = int(ranks[kept > 0].sum())
    return float(min(1.0, 2 * min(chance[: positive + 1].sum(), chance[positive:].sum())))


def _asymptotic(differences: Codes) -> float:
    """Two-sided p by the normal approximation of whole-numbered differences without zeros.

    scipy's `wilcoxon` to rounding, but sorting whole numbers takes a fifth of its time on 50,000 images.
    """
    signed = np.sort(2 * np.abs(differences) + (differences > 0))  # by size, the sign in the last bit
    starts = np.flatnonzero(np.diff(signed >> 1, prepend=-1))
    tied = np.diff(starts, append=len(signed))
    ranks = starts + (tied + 1) / 2
    positive = float(ranks @ np.add.reduceat(signed & 1, starts))
    n = float(len(signed))
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((tied.astype(np.float64) ** 3 - tied).sum()) / 48
    return float(2 * stats.norm.sf(abs(positive - n * (n + 1) / 4) / np.sqrt(variance)))


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
