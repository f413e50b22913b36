"""Average ranks and Kendall's tau against scipy, hand values and slow loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from made_results import group_of
from scipy import stats

from bench.analysis.rankings import (
    AGREEMENT_COLUMNS,
    RANK_COLUMNS,
    agreement_table,
    average_ranks,
    complete_images,
    mean_taus,
    ranks_table,
)


@pytest.fixture(scope="module")
def group(finished):
    return group_of(finished)


def test_average_ranks_by_hand():
    values = np.array([[0.9, 0.5, 0.5], [0.2, 0.3, 0.1]])
    np.testing.assert_allclose(average_ranks(values, True), [1.5, 1.75, 2.75])
    np.testing.assert_allclose(average_ranks(values, False), [2.5, 2.25, 1.25])


def test_values_equal_up_to_rounding_share_a_rank():
    np.testing.assert_allclose(average_ranks(np.full((10, 3), 0.25), True), 2.0)
    noisy = np.full((10, 3), 0.25) + 1e-9 * np.random.default_rng(2).normal(size=(10, 3))
    np.testing.assert_allclose(average_ranks(noisy, True), 2.0)


def test_one_huge_image_does_not_make_the_others_equal():
    values = np.array([[-5e6, 1.0], *[[0.2, 0.1]] * 9])
    np.testing.assert_allclose(average_ranks(values, True), [1.1, 1.9])


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


def test_too_little_to_rank(one_run):
    root = one_run("grad_cam", "bn2.act", [{"case_id": "a", "image_id": "a", "deletion.auc": 0.5}])
    group = group_of(root)
    assert ranks_table(group).empty and agreement_table(group).empty
