"""Pass, fail or undecided: intervals against limits that the metric states; the page, the figure and the reasons."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from made_results import group_of
from rich.console import Console

from bench.analysis.trials.crash_test import CRASH_COLUMNS, FEWEST, crash_table, reason_of, worst
from bench.figures.crash_test import COLOURS, crash_figure
from bench.report.crash_test import crash_markdown, print_crash_test

RIGHT = {"match": {"least": 0.8}, "leak": {"most": 0.1}}
METRICS = {"planted_truth": {"about": {"higher_is_better": {"match": True, "leak": False}, "right": RIGHT}}}
RUNS = {
    # method: (values of match, of leak) on the mechanism "additive"
    "grad_cam": ([1.0] * 24, [0.02] * 24),
    "activation_sum": ([1.0] * 24, [0.5] * 24),
    "layer_cam": ([0.6, 1.0] * 12, [0.02] * 24),  # its interval holds .8
    "edges": ([0.7] * 24, [0.3] * 24),
}


def group_with(one_run, pictures: int = 24, metrics=METRICS):
    for method, (match, leak) in RUNS.items():
        rows = [
            {"case_id": f"{mechanism}{i}", "image_id": f"{mechanism}{i}", "class_name": mechanism}
            | {
                "planted_truth.match": match[i] if mechanism == "additive" else 1.0,
                "planted_truth.leak": leak[i] if mechanism == "additive" else np.nan,
            }
            for i in range(pictures)
            for mechanism in ("additive", "or")
        ]
        root = one_run(method, "-" if method == "edges" else "layer4", rows, metrics=metrics)
    return group_of(root)


def overall(table) -> dict:
    return {(row.mechanism, row.method): row.overall for row in table.itertuples()}


def test_a_method_passes_where_whole_intervals_are_within_the_limits(one_run):
    table = crash_table(group_with(one_run))
    assert list(table.columns) == CRASH_COLUMNS
    expected = {"grad_cam": "pass", "activation_sum": "fail", "layer_cam": "undecided", "edges": "fail"}
    assert overall(table) == {("additive", m): v for m, v in expected.items()} | {("or", m): "pass" for m in RUNS}
    # "or" has no part that is worth nothing: no leak is said of it
    assert set(table.loc[table["mechanism"] == "or", "value"]) == {"match"}
    row = table[(table["method"] == "activation_sum") & (table["value"] == "leak")].iloc[0]
    assert (row["mean"], row["limit"], row["verdict"], row["n"]) == (0.5, "<= 0.1", "fail", 24)
    assert row["reason"] == "never asks for the class"  # its row says "no" under class
    assert worst(table[(table["method"] == "edges") & (table["mechanism"] == "additive")])["value"] == "leak"
    assert worst(table[table["method"] == "grad_cam"]) is None


def test_few_pictures_decide_nothing(one_run):
    table = crash_table(group_with(one_run, FEWEST - 2))
    assert set(table["verdict"]) == {"undecided"}


def test_groups_without_such_a_metric_have_no_verdicts(one_run):
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.auc": 0.5} for i in range(4)]
    table = crash_table(group_of(one_run("grad_cam", "bn2.act", rows)))
    assert table.empty and crash_figure(table) is None and crash_markdown(table) == ""


def test_reasons_are_those_of_the_docs():
    assert reason_of("feature_entropy", True) == "never asks for the class"
    assert "entropy is never negative" in reason_of("grad_entropy", True)
    assert reason_of("grad_cam", True) == "zero where all mean-weighted sums are negative"
    assert reason_of("somebody_elses", True) == ""


def test_tiles_and_words_say_the_same(one_run):
    table = crash_table(group_with(one_run))
    figure = crash_figure(table)
    tiles = [patch for patch in figure.axes[0].patches]
    assert len(tiles) == 8 and {text.get_text() for text in figure.axes[0].texts} == {
        "pass", "leak .50", "match .80", "leak .30",
    }  # fmt: skip
    from matplotlib.colors import to_rgba

    assert sum(tile.get_facecolor() == to_rgba(COLOURS["fail"]) for tile in tiles) == 2
    text = crash_markdown(table)
    assert "grad_cam passes 2 of 2: additive, or" in text and "edges passes 1 of 2: or" in text
    assert "| additive | activation_sum | fail | leak | 0.500 (0.500–0.500) | &lt;= 0.1 | never asks" in text
    console = Console(width=100, record=True, file=StringIO())
    print_crash_test(table, console)
    assert "activation_sum fails: never asks for the class" in console.export_text()


@pytest.mark.parametrize("right", [{"match": 0.8}, {"match": {"least": 0.8, "most": 1}}, {"other": {"least": 1}}])
def test_limits_that_nobody_can_read_are_left_out(one_run, right):
    metrics = {"planted_truth": {"about": {"higher_is_better": {"match": True, "leak": False}, "right": right}}}
    assert crash_table(group_with(one_run, metrics=metrics)).empty
