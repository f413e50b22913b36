"""Bootstrap, Wilcoxon and Holm against slow loops, hand values and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.analysis.significance import holm
from bench.analysis.statistics import (
    cluster_means,
    means,
    percentile_interval,
    resample_counts,
    resampled_means,
)


def bootstrap_interval(values, clusters, count=None, strata=None, resamples=2000, seed=0):
    """Interval of column means as the tables make it, from the two functions that they use."""
    count = count or int(clusters.max()) + 1
    return percentile_interval(resampled_means(values, clusters, count, strata, resamples, seed))


def slow_interval(values, clusters, count, strata=None, resamples=200, seed=0, level=0.95):
    """Put the cases of every drawn image into a list and average them, one resample at a time."""
    ends = []
    draws = np.concatenate(list(resample_counts(count, resamples, seed)))
    for column in values.T:
        found = []
        for draw in draws:
            chosen = [i for i, c in enumerate(clusters) for _ in range(int(draw[c])) if np.isfinite(column[i])]
            if strata is None:
                groups = [chosen]
            else:
                groups = [[i for i in chosen if strata[i] == s] for s in sorted(set(strata))]
            averages = [np.mean(column[group]) for group in groups if group]
            if averages:
                found.append(np.mean(averages))
        ends.append(np.percentile(found, [50 * (1 - level), 50 * (1 + level)]))
    return np.array(ends).T


@pytest.mark.parametrize("with_strata", [False, True])
@pytest.mark.parametrize("nan_share", [0.0, 0.3])
def test_bootstrap_equals_slow_loop(with_strata, nan_share):
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 9, 25)
    values = rng.normal(size=(25, 3)) + clusters[:, None]
    values[rng.random(values.shape) < nan_share] = np.nan
    strata = rng.integers(0, 3, 25) if with_strata else None
    given = bootstrap_interval(values, clusters, count=9, strata=strata, resamples=200)
    np.testing.assert_allclose(given, slow_interval(values, clusters, 9, strata), rtol=1e-10)


def test_bootstrap_keeps_cases_of_one_image_together():
    """Ten copies of every case carry no new information, so the interval must not shrink."""
    rng = np.random.default_rng(2)
    values, clusters = rng.normal(size=(30, 1)), np.arange(30)
    once = bootstrap_interval(values, clusters)
    copied = bootstrap_interval(np.repeat(values, 10, axis=0), np.repeat(clusters, 10))
    np.testing.assert_allclose(once, copied, rtol=1e-9)
    alone = bootstrap_interval(np.repeat(values, 10, axis=0), np.arange(300))
    assert alone[1] - alone[0] < 0.5 * (once[1] - once[0])


def test_interval_covers_the_truth_on_clustered_data():
    """95 % intervals of clustered data hold the true mean in 90 to 98 % of 300 experiments."""
    rng = np.random.default_rng(3)
    hits = 0
    for experiment in range(300):
        sizes = rng.integers(1, 5, 60)
        clusters = np.repeat(np.arange(60), sizes)
        values = rng.normal(size=60)[clusters] + 0.5 * rng.normal(size=len(clusters))
        low, high = bootstrap_interval(values[:, None], clusters, resamples=300, seed=experiment)
        hits += low[0] <= 0 <= high[0]
    assert 0.90 * 300 <= hits <= 0.98 * 300


def test_blocks_of_columns_and_resamples_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    values, clusters = rng.normal(size=(40, 7)), rng.integers(0, 20, 40)
    whole = bootstrap_interval(values, clusters, count=20, resamples=100)
    monkeypatch.setattr("bench.analysis.statistics._BLOCK", 60)
    monkeypatch.setattr("bench.analysis.statistics._COLUMNS", 2)
    np.testing.assert_allclose(bootstrap_interval(values, clusters, count=20, resamples=100), whole, rtol=1e-12)


def test_counts_are_a_multinomial_draw_and_repeatable():
    counts = np.concatenate(list(resample_counts(50, 4000, 7)))
    assert counts.shape == (4000, 50) and (counts.sum(axis=1) == 50).all()
    # Var of one count is n p (1 - p) = 0.98, covariance of two -n p^2 = -0.02; standard errors 0.04 and 0.016.
    assert abs(counts[:, 0].var() - 0.98) < 0.12
    assert abs(np.cov(counts[:, 0], counts[:, 1])[0, 1] + 0.02) < 0.05
    np.testing.assert_array_equal(counts, np.concatenate(list(resample_counts(50, 4000, 7))))


def test_one_image_has_no_interval_and_empty_columns_are_nan():
    values = np.array([[1.0, np.nan], [2.0, np.nan]])
    low, high = bootstrap_interval(values, np.zeros(2, dtype=int))
    assert np.isnan(low).all() and np.isnan(high).all()
    np.testing.assert_array_equal(means(values), [1.5, np.nan])


def test_large_table_in_blocks():
    """50,000 rows x 100 columns: intervals are those of the normal approximation (2,000 resamples take 2 s)."""
    rng = np.random.default_rng(5)
    values = rng.random((50_000, 100), dtype=np.float32)
    low, high = bootstrap_interval(values, np.arange(50_000), resamples=100)
    half = 1.96 * np.sqrt(1 / 12 / 50_000)
    centre = values.mean(axis=0)
    assert np.all((low < centre) & (centre < high))
    np.testing.assert_allclose((high - low).mean() / 2, half, rtol=0.06)


def test_gaps_of_several_patterns_equal_one_column_at_a_time():
    """Columns share the product of their numbers only where their gaps are the same."""
    rng = np.random.default_rng(8)
    values, clusters, strata = rng.normal(size=(60, 9)), rng.integers(0, 25, 60), rng.integers(0, 4, 60)
    values[:20, 1] = values[:20, 5] = values[7, 3] = values[55:, 4] = np.nan
    values[:, 6] = np.nan
    values[3:, 7] = np.nan
    for by in (None, strata):
        whole = resampled_means(values, clusters, 25, by, 80)
        alone = [resampled_means(values[:, i : i + 1], clusters, 25, by, 80) for i in range(9)]
        np.testing.assert_allclose(whole, np.concatenate(alone, axis=1), rtol=1e-12)
        assert np.isnan(whole[:, 6]).all() and np.isfinite(whole[:, 1]).all()


def test_fewer_resamples_are_the_first_of_more_and_large_draws_are_the_same(monkeypatch):
    more = np.concatenate(list(resample_counts(300, 60, 3)))
    np.testing.assert_array_equal(np.concatenate(list(resample_counts(300, 20, 3))), more[:20])
    assert more.dtype == np.uint8
    monkeypatch.setattr("bench.analysis.statistics._KEPT", 10)
    np.testing.assert_array_equal(np.concatenate(list(resample_counts(300, 60, 3))), more)
    (one,) = resample_counts(1, 5, 0)  # one image, drawn once each time
    assert one.tolist() == [[1]] * 5


def test_percentiles_by_hand_and_with_resamples_that_drew_nothing():
    low, high = percentile_interval(np.array([[1.0, np.nan], [3.0, np.nan], [2.0, 5.0]]))
    np.testing.assert_allclose([low, high], [[1.05, 5.0], [2.95, 5.0]])


def test_class_mean_weighs_classes_equally():
    values, strata = np.array([[1.0], [1.0], [1.0], [0.0], [np.nan]]), np.array([0, 0, 0, 1, 2])
    assert means(values, strata)[0] == 0.5  # the plain mean is 0.75; class 2 does not occur
    np.testing.assert_array_equal(cluster_means(values, strata)[:, 0], [1.0, 0.0, np.nan])


def test_holm_hand_values():
    # Ordered .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone: .04 .06 .06 .06.
    np.testing.assert_allclose(holm([0.04, 0.01, np.nan, 0.03, 0.02]), [0.06, 0.04, np.nan, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1.0, 1.0])
    assert len(holm([])) == 0


def test_holm_equals_closed_testing_by_bonferroni():
    """Holm is the closure of Bonferroni: the largest Bonferroni p over all subsets that contain the test."""
    p = np.random.default_rng(6).random(6) ** 3
    for i, corrected in enumerate(holm(p)):
        others = [j for j in range(6) if j != i]
        subsets = [[i, *rest] for size in range(6) for rest in itertools.combinations(others, size)]
        largest = max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets)
        assert corrected == pytest.approx(largest)
