"""Metrics on maps of known quality: tau against SciPy's, a metric that sees everything and ones that see nothing."""

from __future__ import annotations

import numpy as np
import pytest
from made_results import group_of
from rich.console import Console
from scipy.stats import kendalltau

from bench.analysis.trials.metric_trial import KINDS, TRIAL_COLUMNS, order, trial_table
from bench.figures.crash_test import trial_figure
from bench.report.crash_test import print_metric_trial, trial_markdown

DEGREES = {"blur": 4, "shift": 4, "missing": 3, "noise": 4}
MAPS = ["truth", *(f"{kind}_{i}" for kind, n in DEGREES.items() for i in range(1, n + 1)), "squared", "root", "uniform"]
ABOUT = {
    "about": {"higher_is_better": {"good": True, "bad": False, "flat": True, "count": None}, "passes": "steps - 1"}
}
METRICS = {name: {"steps": 7, **ABOUT} for name in ("toy", "toy_steps_14", "toy_baseline_blur", "toy_seed_1")}


def value(name: str, i: int) -> float:
    """Quality of a map: 1 for the truth, .1 less a degree; a transform costs .05."""
    base = {"truth": 1.0, "squared": 0.75, "root": 0.85, "uniform": 0.0}.get(name)
    return (1 - 0.1 * int(name[-1]) if base is None else base) + 0.001 * (i % 3)


@pytest.fixture
def table(one_run):
    for name in MAPS:
        rows = [
            {
                "case_id": str(i), "image_id": str(i), "class_name": "additive",
                "toy.good": value(name, i), "toy.bad": value(name, i), "toy.flat": 0.5, "toy.count": 3.0,
                "toy_steps_14.good": value(name, i) + 0.1, "toy_baseline_blur.good": value(name, i) + 0.4,
                "toy_seed_1.good": value(name, i) - 0.02 * (name == "noise_4"),
            }
            for i in range(24)
        ]  # fmt: skip
        root = one_run(name, "-", rows, metrics=METRICS)
    return trial_table(group_of(root))


def test_orders_are_kendalls_tau() -> None:
    values = np.random.default_rng(0).random((5, 40))
    expected = [kendalltau([4, 3, 2, 1, 0], column).statistic for column in values.T]
    np.testing.assert_allclose(order(values, 0), expected, atol=1e-12)
    tied = np.array([[1.0], [1.0], [0.5]])
    assert order(tied, 1e-9)[0] == pytest.approx(2 / 3) and order(tied, 0.6)[0] == 0
    assert np.isnan(order(np.array([[1.0], [np.nan]]), 0)[0])


def test_a_metric_that_sees_every_fault_is_trusted(table) -> None:
    assert list(table.columns) == TRIAL_COLUMNS
    rows = table.set_index("metric")
    assert set(rows.index) == {"toy.good", "toy.bad", "toy.flat"}  # no direction, no order; variants have no row
    good = rows.loc["toy.good"]
    assert good["best"] and good["trusted_for"] == ", ".join(KINDS) and good["n"] == 24
    assert all(good[f"tau_{kind}"] == good[f"tau_{kind}_low"] == 1 for kind in KINDS) and good["sees_one"] == 1
    assert good["false_alarm"] == pytest.approx(0.05)  # of a span of 1
    assert good["steps"] == pytest.approx(0.1) and good["seed"] == pytest.approx(0.02)
    assert good["baseline"] == pytest.approx(0.3)  # against the variant of as many steps
    assert good["passes"] == "steps - 1"


def test_a_metric_that_prefers_faults_or_sees_none_is_not(table) -> None:
    rows = table.set_index("metric")
    bad, flat = rows.loc["toy.bad"], rows.loc["toy.flat"]
    assert not bad["best"] and bad["best_map"] == "uniform" and bad["trusted_for"] == ""
    assert all(bad[f"tau_{kind}"] == -1 for kind in KINDS) and bad["sees_one"] == 0
    assert flat["trusted_for"] == "" and flat["sees_one"] == 0.5 and all(flat[f"tau_{kind}"] == 0 for kind in KINDS)


def test_other_groups_have_no_trial(finished) -> None:
    table = trial_table(group_of(finished))
    assert table.empty and trial_figure(table) is None and trial_markdown(table) == ""


def test_words_and_tiles(table) -> None:
    text = trial_markdown(table)
    assert "| toy.good | yes | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | blur, shift, missing, noise |" in text
    assert "| toy.bad | uniform | -1.00" in text
    console = Console(width=120, record=True, quiet=False)
    print_metric_trial(table, console)
    assert "toy.flat" in console.export_text()
    assert len(trial_figure(table).axes[0].patches) == 3 * 6
