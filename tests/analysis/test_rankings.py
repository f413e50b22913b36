"""Friedman, Nemenyi and Kendall against scipy, hand values and slow loops; tables and figures of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_results import group_of
from matplotlib.figure import Figure
from scipy import stats

from bench.analysis.rankings import (
    AGREEMENT_COLUMNS,
    RANK_COLUMNS,
    agreement_table,
    cliques,
    complete_images,
    mean_taus,
    rank_methods,
    ranks_table,
)
from bench.figures.ranks import agreement_figure, draw_cliques, ranks_figure


@pytest.fixture(scope="module")
def group(finished):
    return group_of(finished)


@pytest.mark.parametrize("with_ties", [False, True])
def test_friedman_equals_scipy(with_ties):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (30, 5)).astype(float) if with_ties else rng.normal(size=(30, 5))
    values[:, 2] += 0.8
    found = rank_methods(values, higher_is_better=True)
    expected = stats.friedmanchisquare(*values.T)
    assert found.chi_square == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)


def test_average_ranks_by_hand():
    values = np.array([[0.9, 0.5, 0.5], [0.2, 0.3, 0.1]])
    np.testing.assert_allclose(rank_methods(values, True).average, [1.5, 1.75, 2.75])
    np.testing.assert_allclose(rank_methods(values, False).average, [2.5, 2.25, 1.25])


def test_critical_difference_is_the_published_one():
    """Demsar 2006, section 3.2.2: four classifiers on 14 data sets, CD = 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25."""
    values = np.random.default_rng(1).normal(size=(14, 4))
    assert rank_methods(values, True).critical_difference == pytest.approx(1.25, abs=0.005)


def test_equal_methods_are_no_evidence():
    found = rank_methods(np.full((10, 3), 0.25), True)
    assert found.p == 1.0 and np.isnan(found.chi_square)
    np.testing.assert_allclose(found.average, 2.0)
    noisy = np.full((10, 3), 0.25) + 1e-9 * np.random.default_rng(2).normal(size=(10, 3))
    np.testing.assert_allclose(rank_methods(noisy, True).average, 2.0)


def test_cliques():
    average = np.array([1.0, 1.5, 2.2, 4.0, 4.5])
    assert cliques(average, 0.9) == [(0, 1), (1, 2), (3, 4)]
    assert cliques(average, 10) == [(0, 4)]
    assert cliques(average, 0.1) == []
    for first, last in itertools.combinations(range(5), 2):
        joined = any(a <= first and last <= b for a, b in cliques(average, 0.9))
        assert joined == (average[last] - average[first] <= 0.9)


def test_tau_within_images_equals_a_loop(monkeypatch):
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(17, 6)), rng.integers(0, 4, (17, 6)).astype(float)
    second[4] = 1.0  # all ties: no order to agree with
    third = first + rng.normal(size=(17, 6))
    third[7, 2] = np.nan  # a gap takes the row out of this array's pairs only
    for block in (500, 5):
        monkeypatch.setattr("bench.analysis.rankings._BLOCK", block)
        found = mean_taus([first, second, third])
        for (i, a), (j, b) in itertools.combinations(enumerate((first, second, third)), 2):
            left_out = ({4} if 1 in (i, j) else set()) | ({7} if 2 in (i, j) else set())
            rows = [n for n in range(17) if n not in left_out]
            expected = np.mean([stats.kendalltau(a[n], b[n]).statistic for n in rows])
            assert found[i, j] == pytest.approx(expected) == found[j, i]
    assert np.isnan(mean_taus([np.ones((3, 4)), second[:3, :4]])[0, 1])
    assert mean_taus([]).shape == (0, 0)


def test_ranks_table(group):
    table = ranks_table(group)
    assert list(table.columns) == RANK_COLUMNS
    part = table[table["metric"] == "deletion.auc"].set_index(["method", "layer"])
    assert len(part) == 9 and part["average_rank"].mean() == pytest.approx(5)  # one is degenerate
    assert (part["n"] == 16).all() and (part["k"] == 9).all()
    # At this layer grad_cam was made to be worst and activation_sum best: rank 1 is the LOWEST deletion AUC.
    ranks = part["average_rank"].xs("blocks.6.0.bn2.act", level="layer")
    assert ranks.idxmin() == "activation_sum" and ranks.idxmax() == "grad_cam"
    values = complete_images(group, "deletion.auc")
    assert part["chi_square"].iloc[0] == pytest.approx(stats.friedmanchisquare(*values.T).statistic)


def test_only_complete_images_are_ranked(group):
    values = complete_images(group, "box_coverage.coverage")
    alone = group.cases.loc[group.cases["case_id"] == "0003/cat", "image_id"].item()
    lost = (group.cases["image_id"] == alone).sum() == 1  # the case without a value, if no other is on its image
    assert len(values) == group.cases["image_id"].nunique() - int(lost)
    assert np.isfinite(values).all()


def test_agreement_table_aligns_directions(group):
    table = agreement_table(group)
    assert list(table.columns) == AGREEMENT_COLUMNS
    assert len(table) == 6 * 5 // 2
    found = table.set_index(["metric", "other_metric"])
    row = found.loc["deletion.auc", "insertion.auc"]
    columns = [complete_images(group, name).mean(axis=0) for name in ("deletion.auc", "insertion.auc")]
    assert row["tau"] == pytest.approx(stats.kendalltau(-columns[0], columns[1]).statistic)
    # Low deletion and high insertion AUC are both good: made from one level, they agree.
    assert row["tau"] > 0.7 and row["tau_within"] > 0.5 and row["k"] == 9


def test_figures(group):
    ranks, agreement = ranks_table(group), agreement_table(group)
    figure = ranks_figure(group, ranks)
    first = figure.axes[0]
    assert first.get_title().startswith("deletion AUC ↓\np < .001, n = 16, CD = ")
    markers = [line for line in first.lines if line.get_linestyle() == "None"]
    drawn = [(y, x) for line in markers for x, y in line.get_xydata()]
    expected = sorted(ranks.loc[ranks["metric"] == "deletion.auc", "average_rank"])
    np.testing.assert_allclose([x for _, x in sorted(drawn)], expected)  # best on top
    assert first.yaxis_inverted() and len(first.get_yticklabels()) == 9
    matrix = agreement_figure(group, agreement).axes[0].images[0].get_array()
    place = {"deletion.auc": 0, "insertion.auc": 1}
    row = agreement.set_index(["metric", "other_metric"]).loc[tuple(place)]
    assert matrix[1, 0] == pytest.approx(row["tau"]) and matrix[0, 1] == pytest.approx(row["tau_within"])
    assert matrix.mask.diagonal().all()


def test_bars_of_a_lane_do_not_touch_and_all_are_in_the_picture():
    average = np.array([1.0, 1.5, 2.1, 2.6, 3.1, 5, 5.2, 7, 7.3, 7.6])
    ax = Figure().subplots()
    lanes = draw_cliques(ax, average, 1.2, len(average))
    bars = [(line.get_xdata()[0], *line.get_ydata().round()) for line in ax.lines]
    assert sorted(bar[1:] for bar in bars) == cliques(average, 1.2)
    assert lanes == len({x for x, *_ in bars}) == 3
    for x in {x for x, *_ in bars}:
        spans = sorted(line.get_ydata().tolist() for line in ax.lines if line.get_xdata()[0] == x)
        assert all(last < first for (_, last), (first, _) in itertools.pairwise(spans))


def test_too_little_to_rank(one_run):
    root = one_run("grad_cam", "bn2.act", [{"case_id": "a", "image_id": "a", "deletion.auc": 0.5}])
    group = group_of(root)
    assert ranks_table(group).empty and agreement_table(group).empty
    assert ranks_figure(group, ranks_table(group)) is None
    assert agreement_figure(group, agreement_table(group)) is None
