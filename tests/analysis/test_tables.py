"""Summary and breakdown against plain loops over the rows, and what readers of the csv rely on."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from made_results import group_of, groups_of

from bench.analysis.groups import category_of, group_runs, load_group, method_labels, natural
from bench.analysis.reading import read_rows
from bench.analysis.tables import breakdown, summarize, to_csv
from bench.runs.store import Run, find_runs

COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "mean", "ci_low", "ci_high", "n", "degenerate",
    "reference", "difference", "difference_low", "difference_high", "p", "reported", "reported_source", "protocol",
]  # fmt: skip


def rows_of(root, method, layer):
    (run,) = [r for r in find_runs(root) if (r.config["method"], r.config["layer"]) == (method, layer)]
    return read_rows(run).set_index("case_id")


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
    runs = find_runs(finished)
    table = summarize(runs, resamples=50)
    own = table[table["method"] == "grad_cam"]
    assert (own["reference"] == "").all() and own[["difference", "difference_low", "p"]].isna().all(axis=None)
    others = table[(table["method"] != "grad_cam") & ~table["metric"].str.endswith("class_mean")]
    assert others[["difference", "p"]].notna().all(axis=None)
    absent = summarize(runs, reference="score_cam", resamples=50)
    assert (absent["reference"] == "").all() and absent["difference"].isna().all()


def test_p_is_wilcoxon_on_images_with_holm_over_the_metric(finished):
    table = summarize(groups_of(finished), resamples=50)
    metric = "deletion.auc"
    pairs = [("hirescam", la) for la in ("blocks.6.0.bn2.act", "bn2.act")]
    pairs += [(m, la) for _, la in pairs for m in ("grad_entropy", "activation_sum")] + [
        ("random", "-"),
        ("center", "-"),
    ]
    raw = []
    for method, layer in pairs:
        at = layer if layer != "-" else "bn2.act"
        gap = rows_of(finished, method, layer)[metric] - rows_of(finished, "grad_cam", at)[metric]
        image = rows_of(finished, method, layer)["image_id"]
        assert image.nunique() < len(image)  # several cases on one image
        raw.append(stats.wilcoxon(gap.groupby(image).mean()).pvalue)
    order, largest = np.argsort(raw), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, raw[i] * (len(raw) - place)))
        assert cell(table, *pairs[i], metric)["p"] == pytest.approx(largest)


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


def test_bytes_do_not_depend_on_the_order_in_which_results_are_found(finished, tmp_path):
    first = to_csv(summarize(groups_of(finished), resamples=100))
    assert to_csv(summarize(list(reversed(find_runs(finished))), resamples=100)) == first
    # The same rows in other chunks, in other folders.
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved / "deeper")
    for folder in (moved / "deeper").glob("*/*/*@*"):
        chunks = sorted(folder.glob("chunk-*.parquet"))
        spare = [chunk.rename(chunk.with_name(f"{chunk.stem}.moved")) for chunk in chunks]
        for chunk, new in zip(spare, reversed(chunks), strict=True):
            chunk.rename(new)
    assert to_csv(summarize(groups_of(moved), resamples=100)) == first
    assert b"\r" not in first.encode()


def test_missing_chunk_is_counted_not_fatal(results):
    root = results()
    run = next(r for r in find_runs(root) if r.config["method"] == "hirescam")
    (run.path / "chunk-00000.parquet").write_bytes(b"PAR1 truncated")
    found = cell(summarize(groups_of(root), resamples=50), "hirescam", run.config["layer"], "deletion.auc")
    assert found["n"] == 8


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


def test_parameter_variants_get_their_own_names(one_run, tmp_path):
    def run(method, **parameters):
        return Run(tmp_path / f"{method}@bn2.act-{len(parameters)}", {"method": method, "layer": "x",
                   "method_parameters": parameters}, {})  # fmt: skip

    runs = [run("a", bins=256, base=2), run("a", bins=64, base=2), run("b", bins=256)]
    assert method_labels(runs) == ["a(bins=256)", "a(bins=64)", "b"]


def test_layers_are_ordered_as_the_network_has_them(finished):
    assert sorted(["features.22", "features.4", "layer10", "layer2"], key=natural) == [
        "features.4", "features.22", "layer2", "layer10"]  # fmt: skip
    group = group_of(finished)
    assert group.layers == ["blocks.6.0.bn2.act", "bn2.act"]
    assert [e.category for e in group.entries[:4]][-1] == "control" and group.entries[-1].layer == "-"
    assert group.higher_is_better("deletion.auc") is False
    assert group.higher_is_better("pointing_game.hit_class_mean") is True


def test_category_comes_from_the_config():
    names = ("grad_cam", "grad_entropy_value", "activation_sum", "random", "no_such_method", "../../x")
    assert [category_of(name) for name in names] == ["gradient", "entropy", "control", "control", "other", "other"]


def test_two_data_sets_stay_apart(results, tmp_path):
    few = (("grad_cam", "bn2.act"), ("hirescam", "bn2.act"))
    results("both", dataset="one", seed=1, cases=8, methods=few)
    root = results("both", dataset="two", seed=2, cases=8, methods=few)
    table = summarize(groups_of(root), resamples=50)
    assert set(table["dataset"]) == {"one", "two"}
    alone = summarize([r for r in find_runs(root) if r.config["dataset"] == "one"], resamples=50)
    pd.testing.assert_frame_equal(table[table["dataset"] == "one"].reset_index(drop=True), alone)


def test_nothing_gives_an_empty_table_with_columns(tmp_path):
    table = summarize(groups_of(tmp_path))
    assert list(table.columns) == COLUMNS and table.empty
