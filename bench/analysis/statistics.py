"""Uncertainty of means over cases: the cluster bootstrap; arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

# One block of resamples holds at most this many counts, one block of columns this many sums: some
# hundred megabytes however large the table is.
_BLOCK = 4_000_000
_COLUMNS = 256
# Draws are kept up to this many bytes (2,000 resamples of 200,000 images): all calls share them.
_KEPT = 400_000_000


def resample_counts(clusters: int, resamples: int, seed: int) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    """Draw how often each cluster occurs in each bootstrap resample.

    The same arguments give the same draws, so that statistics which are computed in several calls stay paired; fewer
    resamples are the first of more.

    Yields
    ------
    ndarray, shape (block, clusters)
        Multinomial counts in the smallest unsigned integers, each row sums to `clusters`; the blocks have
        `resamples` rows together.
    """
    yield from _kept(clusters, resamples, seed) if clusters * resamples <= _KEPT else _draw(clusters, resamples, seed)


@lru_cache(maxsize=4)
def _kept(clusters: int, resamples: int, seed: int) -> list[NDArray[np.unsignedinteger[Any]]]:
    # One block, as many small strata are many small products.
    return [np.concatenate(list(_draw(clusters, resamples, seed)))]


def _draw(clusters: int, resamples: int, seed: int) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
    generator = np.random.default_rng(seed)
    size = max(1, _BLOCK // max(clusters, 1))
    for start in range(0, resamples, size):
        # Drawing indices and counting them is many times faster than numpy's multinomial.
        drawn = generator.integers(0, clusters, (min(size, resamples - start), clusters))
        counts = np.stack([np.bincount(row, minlength=clusters) for row in drawn])
        yield counts.astype(np.min_scalar_type(counts.max(initial=0)))


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums and numbers of the finite values of clusters; columns with equal gaps share their numbers."""

    used: NDArray[np.intp]  # clusters that hold a value
    sums: Array  # (used, C)
    numbers: Array  # (used, P), one column a pattern of gaps
    pattern: NDArray[np.intp]  # (C,)


def _cluster_sums(values: NDArray[Any], clusters: Codes) -> _Sums:
    finite = np.isfinite(values)
    pattern = np.zeros(values.shape[1], dtype=np.intp)
    if not finite.all():
        patterns: dict[bytes, int] = {}
        # Nearly always one pattern or few, and each that is shared is a column less in the matrix product.
        packed = np.packbits(finite, axis=0).T
        pattern[:] = [patterns.setdefault(column.tobytes(), len(patterns)) for column in packed]
        values = np.where(finite, values, 0)
    _, first = np.unique(pattern, return_index=True)
    used, own = np.unique(clusters, return_inverse=True)
    sums, numbers = values.astype(np.float64), finite[:, first].astype(np.float64)
    if len(used) < len(values) or (own[1:] < own[:-1]).any():
        shape = (len(used), len(values))
        members = sparse.csr_array((np.ones(len(values)), (own, np.arange(len(values)))), shape=shape)
        sums, numbers = members @ sums, members @ numbers
    kept = numbers.any(axis=1)
    if not kept.all():
        used, sums, numbers = used[kept], sums[kept], numbers[kept]
    return _Sums(used, sums, numbers, pattern)


def percentile_interval(resampled: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Both ends, each (C,), of the percentile interval of a statistic in resamples (R, C); NaN where all are NaN."""
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    edges = np.full((2, resampled.shape[1]), np.nan)
    whole = np.isfinite(resampled).all(axis=0)
    edges[:, whole] = np.quantile(resampled[:, whole], quantiles, axis=0)
    for column in np.flatnonzero(~whole & np.isfinite(resampled).any(axis=0)):
        edges[:, column] = np.nanquantile(resampled[:, column], quantiles)
    return edges[0], edges[1]


def resampled_means(
    values: NDArray[Any], clusters: Codes, count: int, strata: Codes | None = None, resamples: int = 2000, seed: int = 0
) -> Array:
    """Mean of every column in every bootstrap resample of whole clusters, by one matrix product.

    The mean of a resample is the ratio of the resampled sums to the resampled counts (Davison and
    Hinkley 1997, section 3.8). All columns share the resamples, also between calls with the same
    `count` and `seed`.

    Parameters
    ----------
    values : ndarray, shape (N, C)
        One row a case; what is not finite is left out of its column.
    clusters, count : ndarray of int, shape (N,), and int
        Cluster (image) of each case, 0 to count - 1.
    strata : ndarray of int, shape (N,), optional
        If given, the statistic is the mean over the strata (classes) that occur of the stratum's mean.

    Returns
    -------
    ndarray, shape (resamples, C)
        NaN where no case with a value was drawn, and in columns with a value in fewer than two clusters.
    """
    result = np.full((resamples, values.shape[1]), np.nan)
    for start in range(0, values.shape[1], _COLUMNS):
        part = values[:, start : start + _COLUMNS]
        whole = _cluster_sums(part, clusters)
        parts = [whole]
        if strata is not None:
            parts = [_cluster_sums(part[strata == s], clusters[strata == s]) for s in np.unique(strata)]
        block = result[:, start : start + _COLUMNS]
        done = 0
        for counts in resample_counts(count, resamples, seed):
            block[done : done + len(counts)] = _means_of(counts, parts, part.shape[1])
            done += len(counts)
        block[:, (whole.numbers > 0).sum(axis=0)[whole.pattern] < 2] = np.nan
    return result


def _means_of(counts: NDArray[Any], parts: list[_Sums], columns: int) -> Array:
    """Mean over the parts (strata) that occur of the mean in each, for some resamples: (len(counts), columns)."""
    total = np.zeros((len(counts), columns))
    occurring = np.zeros_like(total)
    for part in parts:
        step = max(1, _BLOCK // max(len(part.used), 1))
        for rows in [slice(start, start + step) for start in range(0, len(counts), step)]:
            drawn = counts[rows] if len(part.used) == counts.shape[1] else counts[rows, part.used]
            drawn = drawn.astype(np.float64)
            number = (drawn @ part.numbers)[:, part.pattern]
            total[rows] += np.divide(drawn @ part.sums, number, out=np.zeros_like(number), where=number > 0)
            occurring[rows] += number > 0
    return np.divide(total, occurring, out=np.full_like(total, np.nan), where=occurring > 0)


def means(values: NDArray[Any], strata: Codes | None = None) -> Array:
    """Mean of the finite values (N, C) of each column, or the mean over `strata` (N,) of the stratum's mean.

    Returns an array (C,), NaN for a column without a finite value.
    """
    if strata is not None:
        return means(cluster_means(values, strata))
    finite = np.isfinite(values)
    total, number = np.where(finite, values, 0.0).sum(axis=0), finite.sum(axis=0)
    return np.divide(total, number, out=np.full(values.shape[1], np.nan), where=number > 0)


def cluster_means(values: NDArray[Any], clusters: Codes) -> Array:
    """Mean of the finite values of each cluster, shape (largest code + 1, C), NaN where a cluster has none."""
    sums = _cluster_sums(values, clusters)
    result = np.full((int(clusters.max(initial=-1)) + 1, values.shape[1]), np.nan)
    number = sums.numbers[:, sums.pattern]
    result[sums.used] = np.divide(sums.sums, number, out=np.full(sums.sums.shape, np.nan), where=number > 0)
    return result
