"""Statistics of a whole data set against loops over its cases, whatever the parts and their order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_results import CASE, entry_of, full, group_of, groups_of, protocol_folder, rows_of, write_parts

from bench.analysis.curves import each_entry, mean_curves, read_curves, statistic_curves, statistics_of
from bench.analysis.statistics import resample_counts
from bench.analysis.tables import shown_columns, summarize, to_csv
from bench.options import conf_node, named_function
from bench.report import report
from bench.store.folders import find_folders
from bench.store.parts import write_part
from bench.types import UserError

CASES, LEVELS = 30, 9
METRICS = {name: conf_node("metric", name) for name in ("max_box_acc", "pxap", "instance_boxes")}
CURVES = {
    "max_box_acc": ["correct_30", "correct_50", "correct_70", "largest_50"],
    "pxap": ["positives", "negatives"],
    "instance_boxes": ["f1_curve"],
}


def made(seed: int, missing: tuple[int, ...] = ()) -> list[dict]:
    """Rows with the curves of these metrics; two cases an image, case 5 and `missing` without ground truth."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(CASES):
        row = {"case_id": f"{i:03d}", "image_id": f"{i // 2:03d}"}
        peak = rng.integers(2, 7)
        for name in CURVES["max_box_acc"]:
            hit = np.abs(np.arange(LEVELS) - peak) <= rng.integers(0, 4)
            row[f"max_box_acc.{name}"] = hit.astype(float).tolist()
        row["pxap.positives"] = rng.integers(0, 9, LEVELS).astype(float).tolist()
        row["pxap.negatives"] = np.sort(rng.integers(0, 30, LEVELS))[::-1].astype(float).tolist()
        row["instance_boxes.f1_curve"] = rng.random(LEVELS).astype(np.float32).tolist()
        row |= {"max_box_acc.best_iou": rng.random(), "pxap.ap": rng.random(), "instance_boxes.recall": rng.random()}
        if i in (5, *missing):
            row |= {key: [float("nan")] * LEVELS for key, value in row.items() if isinstance(value, list)}
        rows.append(row)
    return rows


@pytest.fixture
def root(one_run):
    one_run("grad_cam", "bn2.act", made(1), metrics=METRICS)
    return one_run("hirescam", "bn2.act", made(2), metrics=METRICS)


def slow(rows: list[dict], statistic: str) -> float:
    """The statistic of a list of cases (repeated ones count again), by loops over thresholds."""
    rows = [row for row in rows if row["case_id"] != "005"]
    metric, name = statistic.split(".")

    def best(column: str) -> float:
        return max(sum(row[f"{metric}.{column}"][t] for row in rows) / len(rows) for t in range(LEVELS))

    if name == "max_box_acc_v2":
        return (best("correct_30") + best("correct_50") + best("correct_70")) / 3
    if name == "max_box_acc":
        return best("largest_50")
    if name == "best_f1":
        return best("f1_curve")
    positive = [sum(row["pxap.positives"][t] for row in rows) for t in range(LEVELS)]
    negative = [sum(row["pxap.negatives"][t] for row in rows) for t in range(LEVELS)]
    area, recall = 0.0, 0.0
    for t in reversed(range(LEVELS)):  # thresholds from high to low
        hit, false = sum(positive[t:]), sum(negative[t:])
        area += 0 if hit == 0 else hit / (hit + false) * (hit / sum(positive) - recall)
        recall = hit / sum(positive)
    return area


STATISTICS = ["max_box_acc.max_box_acc_v2", "max_box_acc.max_box_acc", "pxap.pxap", "instance_boxes.best_f1"]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_values_and_intervals_equal_loops(root, statistic):
    table = summarize(groups_of(root), resamples=400).set_index(["method", "metric"])
    found = table.loc["hirescam", statistic]
    mine, theirs = made(2), made(1)
    assert found["n"] == CASES - 1 and 0 <= found["p"] <= 1 and found["reference"] == "grad_cam"
    assert found["mean"] == pytest.approx(slow(mine, statistic), rel=1e-6)
    assert found["difference"] == pytest.approx(slow(mine, statistic) - slow(theirs, statistic), rel=1e-5)
    values, gaps = [], []
    for draw in np.concatenate(list(resample_counts(CASES // 2, 100, 0))):  # images; a quarter of the resamples
        pick = [i for i in range(CASES) for _ in range(int(draw[i // 2]))]
        values.append(slow([mine[i] for i in pick], statistic))
        gaps.append(values[-1] - slow([theirs[i] for i in pick], statistic))
    ends = [*np.percentile(values, [2.5, 97.5]), *np.percentile(gaps, [2.5, 97.5])]
    keys = ["ci_low", "ci_high", "difference_low", "difference_high"]
    assert found[keys].tolist() == pytest.approx(ends, rel=1e-5)


def test_the_threshold_is_chosen_for_the_data_set_not_for_each_case(root):
    table = summarize(groups_of(root), resamples=8).set_index(["method", "metric"])
    each = np.mean([max(row["max_box_acc.largest_50"]) for row in made(2) if row["case_id"] != "005"])
    assert table.loc["hirescam", "max_box_acc.max_box_acc"]["mean"] < each - 0.05


def test_parts_of_any_size_in_any_order_give_the_same_bytes(root, tmp_path):
    """As if the cases had another order and other cases went into each part."""
    before = to_csv(summarize(groups_of(root), resamples=100))
    rng = np.random.default_rng(0)
    order = rng.permutation(CASES)
    folder = protocol_folder(tmp_path / "other", "data", "net")
    seeds = {"grad_cam": 1, "hirescam": 2}
    both = [(entry_of(m, "bn2.act"), [full(made(seed)[i]) for i in order]) for m, seed in seeds.items()]
    start, number = 0, 0
    while start < CASES:
        size = int(rng.integers(1, 9))
        write_parts(folder, [(e, rows[start : start + size]) for e, rows in both], METRICS, first=97 - 3 * number)
        start, number = start + size, number + 1
    assert number > 4
    assert to_csv(summarize(groups_of(tmp_path / "other"), resamples=100)) == before


def test_difference_is_over_the_cases_that_both_have(one_run):
    one_run("grad_cam", "bn2.act", made(1), metrics=METRICS)
    root = one_run("hirescam", "bn2.act", made(2, missing=(8, 9, 20)), metrics=METRICS)
    found = summarize(groups_of(root), resamples=100).set_index(["method", "metric"]).loc["hirescam", "pxap.pxap"]
    mine, theirs = ([row for i, row in enumerate(made(seed)) if i not in (8, 9, 20)] for seed in (2, 1))
    assert found["n"] == CASES - 4
    assert found["difference"] == pytest.approx(slow(mine, "pxap.pxap") - slow(theirs, "pxap.pxap"), rel=1e-5)
    assert found["difference_low"] < found["difference"] < found["difference_high"]


def test_equal_methods_differ_by_nothing(one_run):
    one_run("grad_cam", "bn2.act", made(1), metrics=METRICS)
    root = one_run("hirescam", "bn2.act", made(1), metrics=METRICS)
    table = summarize(groups_of(root), resamples=40)
    mine = table[(table["method"] == "hirescam") & table["metric"].isin(STATISTICS)]
    assert len(mine) == 4 and (mine[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)


def test_blocks_of_columns_change_nothing(root, monkeypatch):
    group = group_of(root)
    names = {name for columns in statistic_curves(group).values() for name in columns}
    curves = read_curves(group, names, group.entries[:1])[group.entries[0].label]
    whole = statistics_of(group, curves, 50, 0)
    monkeypatch.setattr("bench.analysis.curves._COLUMNS", 4)
    assert set(whole) == set(STATISTICS)
    for name, found in statistics_of(group, curves, 50, 0).items():
        np.testing.assert_allclose(found.resampled, whole[name].resampled, rtol=1e-12)


@pytest.mark.parametrize("held", [0, 2**30])
def test_curves_are_read_in_the_order_of_the_cases(finished, monkeypatch, held):
    """With the values where there is room, else part by part."""
    monkeypatch.setattr("bench.analysis.loading.HELD", held)
    group = group_of(finished)
    entry = group.entries[2]
    rows = rows_of(finished, entry.method, entry.layer).loc[group.cases["case_id"]]
    assert bool(entry.curves) == bool(held)
    curves = read_curves(group, ["deletion.curve", "absent"], [entry])[entry.label]
    assert list(curves) == ["deletion.curve"]
    np.testing.assert_array_equal(curves["deletion.curve"], np.stack(rows["deletion.curve"]).astype(np.float32))
    average, resampled = mean_curves(curves["deletion.curve"], group, np.ones(len(rows), dtype=bool), 200, 0)
    np.testing.assert_allclose(average, np.stack(rows["deletion.curve"]).mean(axis=0), rtol=1e-6)
    error = resampled.std(axis=0) / np.sqrt(len(resampled))
    assert resampled.std(axis=0)[3] > 0 and (np.abs(resampled.mean(axis=0) - average) <= 4 * error + 1e-9).all()


def test_a_few_entries_at_a_time_give_the_same_curves(finished, monkeypatch):
    group = group_of(finished)
    whole = {e.label: curves for e, curves in each_entry(group, ["deletion.curve"], group.entries)}
    monkeypatch.setattr("bench.analysis.loading.HELD", 3 * 24 * 15 * 4)  # three entries' curves
    blocks = []
    read = read_curves
    monkeypatch.setattr("bench.analysis.curves.read_curves", lambda *all: blocks.append(len(all[2])) or read(*all))
    group = group_of(finished)
    for entry, curves in each_entry(group, ["deletion.curve"], group.entries):
        np.testing.assert_array_equal(curves["deletion.curve"], whole[entry.label]["deletion.curve"])
    assert blocks == [3, 3, 3, 1]


@pytest.mark.parametrize("held", [0, 2**30])
def test_missing_and_odd_curves_are_gaps(one_run, monkeypatch, held):
    monkeypatch.setattr("bench.analysis.loading.HELD", held)
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.curve": [0.1 * i, 0.5, 0.2]} for i in range(4)]
    rows[1]["deletion.curve"], rows[2]["deletion.curve"] = None, [0.5]
    group = group_of(one_run("grad_cam", "bn2.act", rows))
    curve = read_curves(group, ["deletion.curve"], group.entries)["grad_cam@bn2.act"]["deletion.curve"]
    np.testing.assert_array_equal(np.isnan(curve).any(axis=1), [False, True, True, False])
    np.testing.assert_allclose(curve[3], [0.3, 0.5, 0.2], rtol=1e-6)


@pytest.mark.parametrize("held", [0, 2**30])
def test_a_part_without_cases_hides_no_metric(finished, tmp_path, monkeypatch, held):
    """All pictures of its cases were bad: it has the columns that describe a case, and none of a metric."""
    monkeypatch.setattr("bench.analysis.loading.HELD", held)
    whole = group_of(finished)
    root = Path(shutil.copytree(finished, tmp_path / "copy"))
    (folder,) = find_folders(root)
    note = {"cases": [], "entries": [], "metrics": {}, "skipped": [{"case_id": "a", "reason": "no image"}]}
    note |= {"made": {}, "batch": 16, "score_batch": 64, "protocol": folder.protocol["key"]}
    write_part(folder.path, 0, [], CASE, note)
    group = group_of(root)
    assert group.outputs == whole.outputs and len(group.outputs) == 6 and len(group.parts) == len(whole.parts) + 1
    for entry, before in zip(group.entries, whole.entries, strict=True):
        np.testing.assert_array_equal(entry.values, before.values)
        assert set(entry.curves) == set(before.curves) and bool(entry.curves) == bool(held)


@pytest.mark.parametrize(
    "target", ["os.system", "metrics.localization.no_such", "metricsx.f", "metrics.no_such.f", "bench.store.files.os"]
)
def test_only_functions_of_the_program_are_called(target):
    with pytest.raises(UserError, match="dataset_statistics"):
        named_function(target, "dataset_statistics")


def test_shown_where_the_config_names_it(root, one_run):
    """A statistic named in ``about.show`` is a column of the printed table and of summary.md."""
    about = METRICS["max_box_acc"]["about"] | {"show": ["max_box_acc_v2", "best_iou"]}
    metrics = METRICS | {"max_box_acc": METRICS["max_box_acc"] | {"about": about}}
    shown_root = one_run("grad_cam", "bn2.act", made(1), name="shown", metrics=metrics)
    group = group_of(shown_root)
    assert [(c.metric, c.better) for c in shown_columns(group)][:2] == [
        ("max_box_acc.max_box_acc_v2", True),
        ("max_box_acc.best_iou", True),
    ]
    report(shown_root)
    assert f"{slow(made(1), 'max_box_acc.max_box_acc_v2'):.3f}" in (shown_root / "summary.md").read_text()
    assert "max_box_acc.max_box_acc_v2" in (shown_root / "summary.csv").read_text()
