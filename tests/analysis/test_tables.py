"""Summary and breakdown against plain loops over the rows, and what readers of the csv rely on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_results import (
    METHODS,
    METRICS,
    entry_of,
    full,
    group_of,
    groups_of,
    protocol_folder,
    records,
    rows_of,
    write_parts,
)

from bench.analysis.groups import natural
from bench.analysis.rankings import agreement_table, ranks_table
from bench.analysis.tables import breakdown_group, shown_columns, summarize, summarize_group, to_csv
from bench.analysis.verdicts import equal_entries, verdicts_of
from bench.report.grid import make_grid
from bench.report.notes import notes

COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "mean", "ci_low", "ci_high", "n", "n_images", "degenerate",
    "reference", "difference", "difference_low", "difference_high", "p", "verdict", "no_better_than", "reported",
    "reported_source", "weights", "protocol",
]  # fmt: skip


BEST = {
    "deletion.auc": 0.0, "insertion.auc": 1.0, "pointing_game.hit": 1.0,
    "box_coverage.coverage": 1.0, "box_coverage.min_coverage": 1.0, "box_coverage.purity": 1.0,
}  # fmt: skip


def cell(table, method, layer, metric):
    found = table[(table["method"] == method) & (table["layer"] == layer) & (table["metric"] == metric)]
    assert len(found) == 1
    return found.iloc[0]


def test_columns_and_rows(finished):
    table = summarize(groups_of(finished), resamples=50)
    assert list(table.columns) == COLUMNS
    outputs = {"deletion.auc", "insertion.auc", "pointing_game.hit", "pointing_game.hit_class_mean"}
    outputs |= {"box_coverage.coverage", "box_coverage.min_coverage", "box_coverage.purity"}
    assert set(table["metric"]) == outputs
    assert len(table) == 10 * len(outputs)
    assert not table.duplicated(["dataset", "model", "protocol", "metric", "layer", "method"]).any()


def test_means_and_nan_handling(finished):
    table = summarize(groups_of(finished), resamples=50)
    for method, layer in (("hirescam", "bn2.act"), ("random", "-")):
        rows = rows_of(finished, method, layer)
        found = cell(table, method, layer, "box_coverage.coverage")
        assert found["n"] == 23  # case 3 has none
        assert found["n_images"] == rows.loc[rows["box_coverage.coverage"].notna(), "image_id"].nunique()
        assert found["mean"] == pytest.approx(rows["box_coverage.coverage"].mean())
        assert cell(table, method, layer, "deletion.auc")["n"] == 24
        hits = rows.groupby("class_name")["pointing_game.hit"].mean()
        assert cell(table, method, layer, "pointing_game.hit_class_mean")["mean"] == pytest.approx(hits.mean())
    assert (table["ci_low"] <= table["mean"]).all() and (table["mean"] <= table["ci_high"]).all()


def test_difference_to_the_reference_at_the_same_layer(finished):
    table = summarize(groups_of(finished), resamples=300)
    for layer in ("blocks.6.0.bn2.act", "bn2.act"):
        for metric in ("box_coverage.coverage", "deletion.auc"):
            found = cell(table, "hirescam", layer, metric)
            gap = rows_of(finished, "hirescam", layer)[metric] - rows_of(finished, "grad_cam", layer)[metric]
            assert found["reference"] == "grad_cam"
            assert found["difference"] == pytest.approx(gap.mean())
            assert found["difference_low"] < found["difference"] < found["difference_high"]
    # One sign for all: a method with higher coverage has a positive difference.
    found = cell(table, "activation_sum", "bn2.act", "box_coverage.coverage")
    reference = cell(table, "grad_cam", "bn2.act", "box_coverage.coverage")
    assert np.sign(found["difference"]) == np.sign(found["mean"] - reference["mean"]) != 0


def test_methods_without_a_layer_are_compared_at_the_last_layer(finished):
    found = cell(summarize(groups_of(finished), resamples=50), "center", "-", "deletion.auc")
    gap = rows_of(finished, "center", "-")["deletion.auc"] - rows_of(finished, "grad_cam", "bn2.act")["deletion.auc"]
    assert found["difference"] == pytest.approx(gap.mean())


def test_reference_and_its_absence_leave_differences_empty(finished):
    table = summarize(groups_of(finished), resamples=50)
    own = table[table["method"] == "grad_cam"]
    assert (own["reference"] == "").all() and own[["difference", "difference_low", "p"]].isna().all(axis=None)
    others = table[table["method"] != "grad_cam"]
    assert others[["difference", "p"]].notna().all(axis=None)
    absent = summarize(groups_of(finished), reference="score_cam", resamples=50)
    assert (absent["reference"] == "").all() and absent["difference"].isna().all()


def test_paired_difference_uses_the_cases_both_have(one_run):
    base = [{"case_id": str(i), "image_id": str(i), "deletion.auc": 0.1 * i} for i in range(6)]
    one_run("grad_cam", "bn2.act", [base[i] | {"deletion.auc": 0.1 * i + 1} for i in range(4)])
    root = one_run("hirescam", "bn2.act", base)
    found = cell(summarize(groups_of(root), resamples=50), "hirescam", "bn2.act", "deletion.auc")
    assert found["n"] == 6 and found["mean"] == pytest.approx(0.25)
    assert found["difference"] == pytest.approx(-1.0)
    assert found["difference_low"] == pytest.approx(-1.0) and found["difference_high"] == pytest.approx(-1.0)


def test_equal_methods_differ_by_nothing(one_run):
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.auc": 0.1 + 0.01 * i} for i in range(12)]
    one_run("grad_cam", "bn2.act", rows)
    root = one_run("hirescam", "bn2.act", rows)
    found = cell(summarize(groups_of(root), resamples=50), "hirescam", "bn2.act", "deletion.auc")
    assert (found["difference"], found["difference_low"], found["difference_high"], found["p"]) == (0, 0, 0, 1)


def test_degenerate_share(finished):
    table = summarize(groups_of(finished), resamples=50)
    shares = table.groupby(["method", "layer"])["degenerate"].unique()
    assert shares["grad_entropy", "bn2.act"] == [1.0]
    assert shares["grad_entropy", "blocks.6.0.bn2.act"] == [0.0]


def test_bytes_do_not_depend_on_order_and_number_of_parts(finished, tmp_path):
    first = to_csv(summarize(groups_of(finished), resamples=100))
    assert to_csv(summarize(list(reversed(groups_of(finished))), resamples=100)) == first
    assert b"\r" not in first.encode()
    # The same rows in other parts, one a case and entry, those of half the methods in another root's folder.
    for number, (method, layer) in enumerate(METHODS[::-1]):
        folder = protocol_folder(tmp_path / "ab"[number % 2] / "deeper", "collage", "efficientnet_lite0")
        write_parts(folder, [(entry_of(method, layer), records(finished, method, layer)[::-1])], METRICS, size=1)
    assert to_csv(summarize(groups_of(tmp_path), resamples=100)) == first


def test_damaged_parts_are_named_and_left_out(results, caplog):
    """A bit flipped anywhere; the file stays where it is, as the runner has to see it."""
    root = results()
    path = min(root.rglob("part-*.parquet"))
    data = bytearray(path.read_bytes())
    for place in np.random.default_rng(0).integers(0, len(data), 25):
        data[place] ^= 1 << int(place % 8)
        path.write_bytes(data)
        caplog.clear()
        group = group_of(root)
        assert len(group.cases) == 8 and str(path) in caplog.text and path.is_file()
        data[place] ^= 1 << int(place % 8)
    path.write_bytes(data)
    assert len(group_of(root).cases) == 24


def test_breakdown_by_instances_probability_and_size(finished):
    table = breakdown_group(group_of(finished), resamples=50)
    rows = rows_of(finished, "hirescam", "bn2.act")
    mine = table[(table["method"] == "hirescam") & (table["layer"] == "bn2.act")]
    mine = mine[mine["metric"] == "box_coverage.coverage"].set_index(["by", "bin"])
    for name, mask in {
        ("n_instances", "1"): rows["n_instances"] == 1,
        ("n_instances", "3-4"): rows["n_instances"].isin([3, 4]),
        ("n_instances", "5+"): rows["n_instances"] >= 5,
        ("probability", "<.2"): rows["probability"] < 0.2,
        ("probability", ".2-.6"): rows["probability"].between(0.2, 0.6),
        ("box_area", ">30%"): rows["box_area"] > 0.3,
    }.items():
        assert mine.loc[name, "mean"] == pytest.approx(rows.loc[mask, "box_coverage.coverage"].mean())
    assert mine.groupby("by")["n"].sum().eq(23).all()  # every case is in one bin of each kind


def test_layers_are_ordered_as_the_network_has_them(finished):
    assert sorted(["features.22", "features.4", "layer10", "layer2"], key=natural) == [
        "features.4", "features.22", "layer2", "layer10"]  # fmt: skip
    group = group_of(finished)
    assert group.layers == ["blocks.6.0.bn2.act", "bn2.act"]
    assert [e.category for e in group.entries[:4]][-1] == "control" and group.entries[-1].layer == "-"
    assert group.higher_is_better("deletion.auc") is False
    assert group.higher_is_better("pointing_game.hit_class_mean") is True


def test_two_data_sets_stay_apart(results, tmp_path):
    few = (("grad_cam", "bn2.act"), ("hirescam", "bn2.act"))
    results("both", dataset="one", seed=1, cases=8, methods=few)
    root = results("both", dataset="two", seed=2, cases=8, methods=few)
    table = summarize(groups_of(root), resamples=50)
    assert set(table["dataset"]) == {"one", "two"}
    alone = summarize([group for group in groups_of(root) if group.dataset == "one"], resamples=50)
    pd.testing.assert_frame_equal(table[table["dataset"] == "one"].reset_index(drop=True), alone)


def test_nothing_gives_an_empty_table_with_columns(tmp_path):
    table = summarize(groups_of(tmp_path))
    assert list(table.columns) == COLUMNS and table.empty


def test_maps_without_a_metric_have_a_row_each(one_run):
    """As with `target=predicted` and metrics that need boxes: which method and layer was run is not lost."""
    rows = [full({"case_id": "a", "image_id": "a"}), full({"case_id": "b", "image_id": "b", "degenerate": "zero"})]
    root = one_run("grad_cam", "bn2.act", rows, metrics={})
    table = summarize(groups_of(root), resamples=20)
    (row,) = table.to_dict("records")
    assert (row["method"], row["layer"], row["metric"], row["n"]) == ("grad_cam", "bn2.act", "", 0)
    assert np.isnan(row["mean"]) and row["verdict"] == "" and row["degenerate"] == 0.5


def test_degenerate_rows_are_never_marked_nor_ranked(results):
    """grad_entropy at the last layer vanished everywhere; here it would be best of all."""
    root = results(cases=36)
    (folder,) = root.glob("*/*/")
    rows = [row | BEST for row in records(root, "grad_entropy", "bn2.act")]
    write_parts(folder, [(entry_of("grad_entropy", "bn2.act"), rows)], METRICS, first=50)
    group = group_of(root)
    summary, comparisons = summarize_group(group, resamples=20)
    assert cell(summary, "grad_entropy", "bn2.act", "deletion.auc")["mean"] == 0.0  # the table still has it
    grid = make_grid(group, summary, equal_entries(group))
    (at,) = [i for i, entry in enumerate(grid.entries) if not entry.ranked]
    assert grid.entries[at].label == "grad_entropy@bn2.act"
    assert not any(one.best for one in grid.cells[at])
    leaders = [answer.leader for answer in verdicts_of(group, comparisons, "grad_cam") if answer.leader]
    assert not any((row["method"], row["layer"]) == ("grad_entropy", "bn2.act") for row in leaders)
    ranks = ranks_table(group)
    assert (ranks["k"] == len(group.entries) - 1).all()
    assert not ((ranks["method"] == "grad_entropy") & (ranks["layer"] == "bn2.act")).any()
    assert (agreement_table(group)["k"] == len(group.entries) - 1).all()
    assert any("grad_entropy@bn2.act is degenerate in 100 %" in line for line in notes(group, "grad_cam"))


def test_headings_have_parameters_only_where_two_variants_stand_side_by_side(one_run):
    labels = {"deletion(steps=7)": METRICS["deletion"], "box_coverage(max_area=0.5)": METRICS["box_coverage"]}
    row = {"case_id": "a", "image_id": "a", "deletion(steps=7).auc": 0.5, "box_coverage(max_area=0.5).coverage": 0.5}
    row |= {"box_coverage(max_area=0.5).purity": 0.5}
    alone = shown_columns(group_of(one_run("grad_cam", "bn2.act", [row], metrics=labels)))
    assert [column.title for column in alone] == ["deletion AUC ↓", "coverage ↑", "purity ↑"]
    row |= {"deletion.auc": 0.5, "box_coverage.coverage": 0.5, "box_coverage.purity": 0.5}
    both = shown_columns(group_of(one_run("grad_cam", "bn2.act", [row], metrics=labels | METRICS, name="both")))
    assert [column.title for column in both] == [
        "deletion(steps=7) AUC ↓",
        "box coverage(max area=0.5) coverage ↑",
        "box coverage(max area=0.5) purity ↑",
        "deletion AUC ↓",
        "box coverage coverage ↑",
        "box coverage purity ↑",
    ]
