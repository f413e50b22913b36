"""Verdicts on results whose truth is known: equal methods, one that is better, few images, degenerate maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_results import METRICS, entry_of, groups_of, records, write_parts
from scipy import stats

from bench.analysis.comparisons import FEW, alike, compare_group
from bench.analysis.groups import Entry, Group
from bench.analysis.rankings import ranks_table
from bench.analysis.significance import LEAST_IMAGES, holm, paired_p, verdict
from bench.analysis.statistics import resampled_means
from bench.analysis.tables import Column, summarize_group
from bench.analysis.verdicts import answering, best_layer, equal_entries, question_columns, verdicts_of
from bench.report.answers import answers_of
from bench.store.folders import Folder

ABOUT = {
    "box_coverage": {
        "higher_is_better": {"coverage": True, "min_coverage": True},
        "show": ["coverage", "min_coverage"],
    },
    "insertion": {"higher_is_better": {"auc": True}, "show": ["auc"]},
    "deletion": {"higher_is_better": {"auc": False}, "show": ["auc"]},
}
CONTROLS = ("random", "center")


def group_with(
    values: dict[str, dict[str, np.ndarray]],
    images: np.ndarray | None = None,
    instances: np.ndarray | None = None,
    degenerate: dict[str, int] | None = None,
) -> Group:
    """A group in memory: values of each method (at layer ``bn2.act``; controls at none) by ``<metric>.<output>``."""
    outputs = sorted(next(iter(values.values())))
    cases = len(next(iter(values.values()))[outputs[0]])
    images = np.arange(cases) if images is None else images
    entries = [
        Entry(
            key=name, method=name, name=name, layer="-" if name in CONTROLS else "bn2.act",
            category="control" if name in CONTROLS else "gradient", parameters={}, version=1, index=0,
            values=np.stack([own[output] for output in outputs], axis=1), rows=cases, measured={},
            degenerate={"zero": n} if (n := (degenerate or {}).get(name, 0)) else {}, seconds={},
        )
        for name, own in values.items()
    ]  # fmt: skip
    about = pd.DataFrame(
        {"case_id": [str(i) for i in range(cases)], "image_id": images.astype(str), "probability": 0.5}
    )
    about["n_instances"] = 1 if instances is None else instances
    about["class_name"] = "cat"
    labels = dict.fromkeys(output.partition(".")[0] for output in outputs)
    metrics = {
        label: {"name": label, "key": label, "version": 1, "parameters": {}, "about": ABOUT[label]} for label in labels
    }
    folder = Folder(Path("nowhere"), {"weights": "trained"})
    return Group(
        dataset="made", model="net", protocol="key", parameters={}, folders=[folder], parts=[], cases=about,
        images=images.astype(np.int64), classes=np.zeros(cases, dtype=np.int64), entries=entries, outputs=outputs,
        metrics=metrics, curves={},
    )  # fmt: skip


def shares(rng: np.random.Generator, cases: int, shift: float = 0.0) -> np.ndarray:
    return np.clip(rng.beta(4, 4, cases) + shift, 0, 1)


def compared(group: Group, resamples: int = 400) -> pd.DataFrame:
    return compare_group(group, "grad_cam", resamples)


def answers(group: Group) -> dict[str, str]:
    table = summarize_group(group, resamples=400)[1]
    found = answers_of(group, verdicts_of(group, table, "grad_cam"), equal_entries(group), "grad_cam")
    return {f"{answer.question}|{answer.measure}": answer.text for answer in found}


def test_equal_methods_are_called_better_in_at_most_one_of_twenty_tables() -> None:
    """The table of 200 seeds: five methods and two controls of one distribution, 40 images."""
    wrong = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        picture = rng.normal(0, 0.1, 40)
        names = ("grad_cam", "hirescam", "layer_cam", "grad_cam_pp", "eigen_cam", *CONTROLS)
        group = group_with({name: {"insertion.auc": np.clip(shares(rng, 40) + picture, 0, 1)} for name in names})
        wrong += (compared(group)["verdict"] == "better").any()
    assert wrong <= 10


def test_a_method_that_is_better_by_a_tenth_is_found_with_200_images() -> None:
    """Its paired difference is .1 with a standard deviation of .24: 5.9 standard errors."""
    wrong = 0  # at a level of 5 %, three wrong tables of ten have a chance of 1 %
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = {name: {"insertion.auc": shares(rng, 200)} for name in ("grad_cam", "hirescam", *CONTROLS)}
        values["layer_cam"] = {"insertion.auc": shares(rng, 200, 0.1)}
        table = compared(group_with(values))
        own = table[table["method"] == "layer_cam"]
        assert (own["verdict"] == "better").all() and len(own) == 3
        wrong += (table[table["method"] != "layer_cam"]["verdict"] == "better").any()
    assert wrong < 3


@pytest.mark.parametrize("cases", [8, LEAST_IMAGES - 1])
def test_few_images_get_no_verdict(cases: int) -> None:
    rng = np.random.default_rng(0)
    values = {"grad_cam": shares(rng, cases), "layer_cam": np.ones(cases), "random": np.zeros(cases)}
    group = group_with({name: {"insertion.auc": own} for name, own in values.items()})
    assert set(compared(group)["verdict"]) == {"few images"}
    (text,) = answers(group).values()
    assert text == f"no verdict: 20 images are needed (n = {cases} cases on {cases} images)"


def test_cases_of_one_image_are_one_piece_of_evidence() -> None:
    """Ten images of three cases each are ten, not thirty."""
    rng = np.random.default_rng(0)
    values = {name: {"insertion.auc": shares(rng, 30)} for name in ("grad_cam", "random")}
    table = compared(group_with(values, images=np.repeat(np.arange(10), 3)))
    assert set(table["n_images"]) == {10} and set(table["verdict"]) == {"few images"}


def test_a_method_without_maps_is_judged_nowhere() -> None:
    """60 % of its maps say nothing; by its values it would be best of all."""
    rng = np.random.default_rng(0)
    values = {name: {"insertion.auc": shares(rng, 60)} for name in ("grad_cam", "layer_cam", "random")}
    values["eigen_cam"] = {"insertion.auc": np.ones(60)}
    group = group_with(values, degenerate={"eigen_cam": 36})
    (answer,) = verdicts_of(group, compared(group), "grad_cam")
    assert answer.leader["method"] != "eigen_cam" and answer.judged == 2
    text = answers(group)
    assert "more than half of the maps of Eigen-CAM at bn2.act say nothing" in text["Unusable|degenerate maps"]
    table = compared(group)
    assert set(table[table["method"] == "eigen_cam"]["verdict"]) == {""}


def test_nothing_is_said_by_comparison_with_a_reference_without_maps() -> None:
    rng = np.random.default_rng(0)
    values = {name: {"insertion.auc": shares(rng, 60)} for name in ("layer_cam", "random")}
    values["grad_cam"] = {"insertion.auc": np.zeros(60)}
    for zero, expected in ((36, {""}), (0, {"better"})):
        table = compared(group_with(values, degenerate={"grad_cam": zero}))
        assert set(table[(table["method"] == "layer_cam") & (table["against"] == "grad_cam")]["verdict"]) == expected


def test_one_object_and_several_are_two_questions() -> None:
    """Overall the method is far better than random, but only on the pictures with one object."""
    rng = np.random.default_rng(1)
    instances = np.repeat([1, 3], [120, 40])
    several = np.where(instances > 1, rng.normal(0.3, 0.1, 160), np.nan)
    other = np.where(instances > 1, rng.normal(0.3, 0.1, 160), np.nan)
    values = {
        "grad_cam": {"box_coverage.coverage": np.where(instances == 1, 0.8, 0.3) + rng.normal(0, 0.05, 160),
                     "box_coverage.min_coverage": several},
        "random": {"box_coverage.coverage": np.full(160, 0.3) + rng.normal(0, 0.05, 160),
                   "box_coverage.min_coverage": other},
    }  # fmt: skip
    found = answers(group_with(values, instances=instances))
    one = found["One object|box coverage (higher is better)"]
    worst = found["Several objects, the worst-shown one|box coverage, min coverage (higher is better)"]
    assert "1 of 1 methods at layers beat every control" in one and "n = 120 cases" in one
    assert worst.startswith("no method is better than every control") and "n = 40 cases" in worst


def test_the_same_metrics_answer_whatever_else_was_measured() -> None:
    labels = ["irof", "average_drop", "insertion", "deletion(baseline=blur)", "deletion", "pointing_game"]
    metrics = {label: {"name": label.partition("(")[0]} for label in labels}
    group: Any = SimpleNamespace(metrics=metrics, question=lambda name: "one" if "pointing" in name else "faithfulness")
    columns = [Column(f"{label}.auc", (label,), False) for label in labels]
    expected = ["deletion(baseline=blur).auc", "insertion.auc", "average_drop.auc", "irof.auc", "deletion.auc"]
    assert [column.metric for column in answering(group, columns, "faithfulness")] == expected
    shuffled = [columns[at] for at in (1, 5, 2, 3, 4, 0)]
    assert [column.metric for column in answering(group, shuffled, "faithfulness")] == expected


def test_where_a_control_is_best_that_is_what_is_said() -> None:
    rng = np.random.default_rng(0)
    values = {"grad_cam": {"deletion.auc": shares(rng, 50)}, "center": {"deletion.auc": 0.2 * shares(rng, 50)}}
    (text,) = answers(group_with(values)).values()
    assert text.startswith("no method is better than every control: Grad-CAM at bn2.act has the best mean")
    assert "Center has ." in text
    table = summarize_group(group_with(values), resamples=200)[0].set_index("method")
    assert table["no_better_than"].to_dict() == {"grad_cam": "center", "center": ""}


def test_equal_methods_share_a_row_but_equal_hits_do_not_make_them_equal() -> None:
    rng = np.random.default_rng(0)
    first = shares(rng, 30)
    group = group_with({"grad_cam": {"insertion.auc": first}, "hirescam": {"insertion.auc": first * (1 + 1e-6)},
                        "layer_cam": {"insertion.auc": first + 1e-4}})  # fmt: skip
    assert [[entry.method for entry in members] for members in equal_entries(group)] == [
        ["grad_cam", "hirescam"], ["layer_cam"],
    ]  # fmt: skip
    hits = (first > 0.5).astype(float)
    coarse = group_with({name: {"insertion.auc": hits} for name in ("grad_cam", "hirescam")})
    assert len(equal_entries(coarse)) == 2


def test_summary_and_comparisons_cannot_contradict_each_other(finished: Path) -> None:
    (group,) = groups_of(finished)
    summary, comparisons = summarize_group(group, resamples=200)
    rows = {
        (r.metric, r.layer, r.method, r.against): r for r in comparisons[comparisons["cases"] == "all"].itertuples()
    }
    checked = 0
    for row in summary[summary["reference"] != ""].itertuples():
        pair = rows[row.metric, row.layer, row.method, row.reference]
        assert (row.difference, row.p, row.verdict) == (pair.difference, pair.p, pair.verdict)
        inside = row.difference_low <= 0 <= row.difference_high
        assert not (inside and row.verdict in ("better", "worse"))
        checked += 1
    assert checked > 40


def test_comparisons_equal_a_loop_over_rows(finished: Path) -> None:
    """Difference, interval and p of one pair, written out."""
    (group,) = groups_of(finished)
    table = compared(group, 300)
    a, b = (next(e for e in group.entries if e.label == name) for name in ("hirescam@bn2.act", "random"))
    gap = (a.values - b.values)[:, group.outputs.index("deletion.auc")]
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(300):
        counts = np.bincount(rng.integers(0, group.image_count, group.image_count), minlength=group.image_count)
        weights = counts[group.images]
        drawn.append((weights * gap).sum() / weights.sum())
    row = table[(table["method"] == "hirescam") & (table["layer"] == "bn2.act") & (table["against"] == "random")]
    row = row[row["metric"] == "deletion.auc"].iloc[0]
    assert row["difference"] == pytest.approx(gap.mean())
    assert abs(row["difference_low"] - np.quantile(drawn, 0.025)) < 0.01
    # Its p before the correction, among those of the column; Holm's correction keeps their order.
    p = 2 * stats.t.sf(abs(gap.mean()) / np.std(drawn, ddof=1), group.image_count - 1)
    own = table[(table["metric"] == "deletion.auc") & table["p"].notna()]
    assert p <= row["p"] <= len(own) * p * 3


def test_p_is_that_of_a_paired_t_test_on_many_images() -> None:
    """With one case an image the bootstrap's standard error is that of the mean."""
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.05, 0.2, (80, 3))
    drawn = resampled_means(gaps, np.arange(80), 80, None, 8000, 0)
    p = paired_p(gaps.mean(axis=0), drawn, np.full(3, 80))
    np.testing.assert_allclose(np.log(p), np.log(stats.ttest_1samp(gaps, 0).pvalue), rtol=0.06)


def test_p_at_the_ends() -> None:
    drawn = np.zeros((100, 4))
    p = paired_p(np.array([0.0, 0.5, np.nan, 0.1]), drawn, np.array([30, 30, 30, 1]))
    assert p[0] == 1 and p[1] == 0 and np.isnan(p[2:]).all()


def test_one_outlier_is_no_evidence() -> None:
    """A mean that one image makes has a spread as large as itself."""
    gaps = np.zeros((40, 1))
    gaps[3] = -5e6
    drawn = resampled_means(gaps, np.arange(40), 40, None, 2000, 0)
    assert 0.2 < paired_p(gaps.mean(axis=0), drawn, np.array([40]))[0] < 0.5


@pytest.mark.parametrize(
    ("low", "high", "p", "images", "higher", "width", "word"),
    [
        (0.01, 0.10, 0.01, 50, True, 1.0, "better"),
        (0.01, 0.10, 0.01, 50, False, 1.0, "worse"),
        (-0.10, -0.01, 0.01, 50, False, 1.0, "better"),
        (0.01, 0.10, 0.20, 50, True, 1.0, "undecided"),  # Holm's correction took it
        (0.001, 0.015, 0.01, 50, True, 1.0, "better"),  # small, but not nothing
        (-0.01, 0.015, 0.60, 50, True, 1.0, "equal"),
        (-0.01, 0.015, 0.60, 50, True, None, "undecided"),  # no range, so no margin
        (-0.03, 0.03, 0.60, 50, True, 2.0, "equal"),
        (-0.03, 0.03, 0.60, 50, True, 1.0, "undecided"),
        (0.01, 0.10, 0.01, 19, True, 1.0, "few images"),
        (0.01, 0.10, 0.01, 50, None, 1.0, ""),
        (np.nan, np.nan, np.nan, 50, True, 1.0, ""),
    ],
)
def test_words(
    low: float, high: float, p: float, images: int, higher: bool | None, width: float | None, word: str
) -> None:
    assert verdict(low, high, p, images, higher, width) == word
    if higher is not None and word in ("better", "worse"):  # mirrored, the word turns round
        assert verdict(-high, -low, p, images, higher, width) == {"better": "worse", "worse": "better"}[word]


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, np.nan, 0.03])), [0.03, 0.06, np.nan, 0.06])


def test_values_of_all_zero_have_no_infinite_difference(one_run: Any) -> None:
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.auc": 0.0} for i in range(25)]
    one_run("grad_cam", "bn2.act", [row | {"deletion.auc": 0.01 * i} for i, row in enumerate(rows)])
    (group,) = groups_of(one_run("hirescam", "bn2.act", rows))
    summary = summarize_group(group, resamples=100)[0]
    numbers = summary[["mean", "ci_low", "ci_high"]].to_numpy(dtype=float)
    assert np.isfinite(numbers).all()
    assert np.isfinite(summary.loc[summary["method"] == "hirescam", ["difference", "p"]].to_numpy(dtype=float)).all()


def test_a_method_without_values_leaves_the_others_their_ranks(finished: Path) -> None:
    (group,) = groups_of(finished)
    at = group.outputs.index("deletion.auc")
    whole = ranks_table(group)
    group.entries[0].values[:, at] = np.nan
    ranks = ranks_table(group)
    own = ranks[ranks["metric"] == "deletion.auc"]
    assert len(own) == len(whole[whole["metric"] == "deletion.auc"]) - 1 and own["average_rank"].notna().all()


def test_alike_looks_at_each_pair_alone() -> None:
    """A millionth of the largest value of all would hide that small values differ."""
    assert alike(np.array([1e6, 1e-3]), np.array([1e6, 1e-3]))
    assert not alike(np.array([1e6, 1e-3]), np.array([1e6, 2e-3]))


def test_columns_in_short_answer_one_question_each(finished: Path) -> None:
    (group,) = groups_of(finished)
    summary, comparisons = summarize_group(group, resamples=50)
    columns = question_columns(group, set(summary["metric"]))
    questions = [group.question(column.metric) for column in columns]
    assert questions == ["one object", "several objects", "faithfulness"]
    assert best_layer(group, verdicts_of(group, comparisons, "grad_cam")) in group.layers


def test_degenerate_share_decides_over_all_cases_not_over_those_with_a_value(results: Any) -> None:
    """A sanity metric that averages one map of three must not make its method the best."""
    root = results(cases=24)
    (folder,) = root.glob("*/*/")
    rows = [row | {"degenerate": "zero" if i % 3 else ""} for i, row in enumerate(records(root, "grad_cam", "bn2.act"))]
    write_parts(folder, [(entry_of("grad_cam", "bn2.act"), rows)], METRICS, first=50)
    (group,) = groups_of(root)
    entry = next(e for e in group.entries if e.label == "grad_cam@bn2.act")
    assert not entry.ranked and sum(entry.degenerate.values()) == 16
    for answer in verdicts_of(group, summarize_group(group, resamples=50)[1], "grad_cam"):
        assert answer.leader is None or (answer.leader["method"], answer.leader["layer"]) != ("grad_cam", "bn2.act")


@pytest.mark.parametrize("case", [0, FEW - 1, FEW, 3 * FEW])
def test_one_case_that_differs_tells_two_columns_apart(case):
    """Wherever it stands: the first cases are looked at before the others."""
    values = np.random.default_rng(0).random((4 * FEW, 2))
    values[5] = np.nan
    other = values * (1 + 1e-9)
    assert alike(values, other)
    other[case, 1] += 0.01
    assert not alike(values, other)


def test_a_mean_of_fewer_cases_leads_no_column() -> None:
    """The easy half of the cases would put a method first, or a control before it."""
    rng = np.random.default_rng(0)
    easy = np.linspace(0.8, 0.2, 60)
    values = {name: {"insertion.auc": easy + rng.normal(0, 0.01, 60)} for name in ("grad_cam", "layer_cam", *CONTROLS)}
    for name in ("layer_cam", "random"):
        values[name]["insertion.auc"][30:] = np.nan
    group = group_with(values)
    (verdict,) = [v for v in verdicts_of(group, compared(group), "grad_cam") if v.metric == "insertion.auc"]
    assert verdict.leader and verdict.leader["method"] == "grad_cam" and verdict.n == verdict.leader["n"] == 60
    assert verdict.control and verdict.control["method"] == "center"


def test_controls_with_fewer_cases_are_not_called_missing() -> None:
    rng = np.random.default_rng(0)
    values = {name: {"insertion.auc": rng.random(60)} for name in ("grad_cam", *CONTROLS)}
    missing = answers(group_with({"grad_cam": values["grad_cam"]}))
    for name in CONTROLS:
        values[name]["insertion.auc"][30:] = np.nan
    for table, expected in (
        (missing, "no control was run"),
        (answers(group_with(values)), "every control has fewer cases"),
    ):
        (text,) = (text for key, text in table.items() if "insertion" in key)
        assert f"{expected}, so nothing says how good that is" in text


@pytest.mark.parametrize(("output", "width"), [("deletion.auc", 1), ("deletion.correlation", 2), ("irof.aoc", None)])
def test_the_margin_of_equal_follows_from_each_value_s_own_range(output: str, width: float | None) -> None:
    group = group_with({"grad_cam": {"deletion.auc": np.zeros(3)}})
    name = output.partition(".")[0]
    node = {"name": name, "key": name, "version": 1, "parameters": {}, "about": {}}
    assert replace(group, metrics={name: node}).width(output) == width
