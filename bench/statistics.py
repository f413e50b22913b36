"""Uncertainty of means over cases: cluster bootstrap, paired tests, correction for several tests.

Arrays in, arrays out; what the columns mean is the business of `bench.tables`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

# One block of resamples holds at most this many counts, one block of columns this many sums: some
# hundred megabytes however large the table is.
_BLOCK = 4_000_000
_COLUMNS = 128
_EXACT = 50


def resample_counts(clusters: int, resamples: int, seed: int) -> Iterator[Array]:
    """Draw how often each cluster occurs in each bootstrap resample.

    Parameters
    ----------
    clusters, resamples : int
    seed : int
        The same arguments give the same draws, so that statistics which are computed in
        several calls stay paired.

    Yields
    ------
    ndarray, shape (block, clusters)
        Multinomial counts, each row sums to `clusters`; the blocks have `resamples` rows together.
    """
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // max(clusters, 1))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        # Drawing indices and counting them is many times faster than numpy's multinomial.
        drawn = generator.integers(0, clusters, (rows, clusters))
        drawn += np.arange(rows)[:, None] * clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * clusters)
        yield counts.reshape(rows, clusters).astype(np.float64)


def _cluster_sums(values: Array, clusters: Codes, count: int) -> tuple[NDArray[np.intp], Array, Array]:
    """Find the clusters that hold a finite value; their indices, and sum and number of these values."""
    finite = np.isfinite(values)
    rows = len(values)
    members = sparse.csr_array((np.ones(rows), (clusters, np.arange(rows))), shape=(count, rows))
    sums, numbers = members @ np.where(finite, values, 0.0), members @ finite.astype(np.float64)
    used = np.flatnonzero(numbers.any(axis=1))
    sums, numbers = sums[used], numbers[used]
    if numbers.size and (numbers == numbers[:, :1]).all():
        numbers = numbers[:, :1]  # nearly always so, and it halves the matrix product
    return used, sums, numbers


def bootstrap_interval(
    values: Array,
    clusters: Codes,
    *,
    count: int | None = None,
    strata: Codes | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """Percentile bootstrap interval of column means, resampling whole clusters.

    The mean of a resample is the ratio of the resampled sums to the resampled counts (Davison and
    Hinkley 1997, section 3.8). All columns share the resamples, also between calls with the same
    `count`, `resamples` and `seed`.

    Parameters
    ----------
    values : ndarray, shape (N, C)
        One row a case; what is not finite is left out of its column.
    clusters : ndarray of int, shape (N,)
        Cluster (image) of each case, 0 to count - 1.
    count : int, optional
        Number of clusters; the largest code + 1 by default.
    strata : ndarray of int, shape (N,), optional
        If given, the statistic is the mean over the strata (classes) that occur of the stratum's mean.
    resamples, seed : int
    level : float
        Coverage of the interval.

    Returns
    -------
    low, high : ndarray, shape (C,)
        NaN where fewer than two clusters hold a value: one image says nothing about the spread.
    """
    values = np.asarray(values, dtype=np.float64)
    if count is None:
        count = int(clusters.max()) + 1 if len(clusters) else 0
    low = np.full(values.shape[1], np.nan)
    high = low.copy()
    for start in range(0, values.shape[1], _COLUMNS):
        part = values[:, start : start + _COLUMNS]
        means = _resampled_means(part, clusters, count, strata, resamples, seed)
        edges = np.full((2, part.shape[1]), np.nan)
        quantiles = [(1 - level) / 2, (1 + level) / 2]
        whole = np.isfinite(means).all(axis=0)
        edges[:, whole] = np.quantile(means[:, whole], quantiles, axis=0)
        for column in np.flatnonzero(~whole & np.isfinite(means).any(axis=0)):
            edges[:, column] = np.nanquantile(means[:, column], quantiles)
        _, _, numbers = _cluster_sums(part, clusters, count)
        edges[:, np.broadcast_to((numbers > 0).sum(axis=0) < 2, part.shape[1])] = np.nan
        low[start : start + _COLUMNS], high[start : start + _COLUMNS] = edges
    return low, high


def _resampled_means(
    values: Array, clusters: Codes, count: int, strata: Codes | None, resamples: int, seed: int
) -> Array:
    """Mean (or mean of stratum means) of every column in every resample, shape (resamples, C)."""
    if strata is None:
        parts = [_cluster_sums(values, clusters, count)]
    else:
        parts = [_cluster_sums(values[strata == s], clusters[strata == s], count) for s in np.unique(strata)]
    result = np.full((resamples, values.shape[1]), np.nan)
    start = 0
    for counts in resample_counts(count, resamples, seed):
        total = np.zeros((len(counts), values.shape[1]))
        occurring = np.zeros_like(total)
        for used, sums, numbers in parts:
            drawn = counts if len(used) == count else counts[:, used]
            number = np.broadcast_to(drawn @ numbers, total.shape) if len(used) else np.zeros_like(total)
            mean = np.divide(drawn @ sums, number, out=np.zeros_like(total), where=number > 0)
            total += mean
            occurring += number > 0
        np.divide(total, occurring, out=result[start : start + len(counts)], where=occurring > 0)
        start += len(counts)
    return result


def means(values: Array, strata: Codes | None = None) -> Array:
    """Mean of the finite values of each column, or mean over strata of the stratum's mean.

    Parameters
    ----------
    values : ndarray, shape (N, C)
    strata : ndarray of int, shape (N,), optional

    Returns
    -------
    ndarray, shape (C,)
        NaN for a column without a finite value.
    """
    values = np.asarray(values, dtype=np.float64)
    if strata is not None:
        rows = [means(values[strata == stratum]) for stratum in np.unique(strata)]
        return means(np.stack(rows)) if rows else np.full(values.shape[1], np.nan)
    finite = np.isfinite(values)
    number = finite.sum(axis=0)
    total = np.where(finite, values, 0.0).sum(axis=0)
    return np.divide(total, number, out=np.full(values.shape[1], np.nan), where=number > 0)


def cluster_means(values: Array, clusters: Codes, count: int | None = None) -> Array:
    """Mean of the finite values of each cluster, shape (count, C), NaN where a cluster has none."""
    values = np.asarray(values, dtype=np.float64)
    if count is None:
        count = int(clusters.max()) + 1 if len(clusters) else 0
    used, sums, numbers = _cluster_sums(values, clusters, count)
    result = np.full((count, values.shape[1]), np.nan)
    number = np.broadcast_to(numbers, sums.shape)
    result[used] = np.divide(sums, number, out=np.full(sums.shape, np.nan), where=number > 0)
    return result


def wilcoxon(differences: Array, scale: float = 1.0) -> float:
    """Two-sided p of Wilcoxon's signed-rank test on paired differences.

    Exact up to 50 differences, also with ties (scipy's exact p for ties tries sign patterns one by one,
    which takes seconds); above, scipy's normal approximation with its correction for ties.

    Parameters
    ----------
    differences : ndarray, shape (N,)
        What is not finite is left out; zeros are dropped, as Wilcoxon did.
    scale : float
        Size of the values whose differences these are. Differences are rounded to a millionth of
        it: two methods that agree up to floating point noise are equal, they are not ranked by noise.

    Returns
    -------
    float
        NaN without a finite difference, 1 if all are zero.
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
        return float(stats.wilcoxon(kept, method="asymptotic").pvalue)
    ranks = (2 * stats.rankdata(np.abs(kept))).astype(int)  # twice the rank, as ties have halves
    chance = np.zeros(ranks.sum() + 1)  # of each sum of positive ranks, every sign being as likely as the other
    chance[0] = 1.0
    for rank in ranks:
        chance = 0.5 * chance + 0.5 * np.concatenate([np.zeros(rank), chance[:-rank]])
    positive = int(ranks[kept > 0].sum())
    return float(min(1.0, 2 * min(chance[: positive + 1].sum(), chance[positive:].sum())))


def holm(p: Array) -> Array:
    """Holm's step-down correction (Holm 1979); NaN stays NaN and does not count as a test.

    Parameters
    ----------
    p : ndarray, shape (M,)

    Returns
    -------
    ndarray, shape (M,)
        Corrected p, at most 1, in the order given.
    """
    p = np.asarray(p, dtype=np.float64)
    result = np.full(len(p), np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors)) if len(order) else []
    return result
