"""Parts join into one group and one table, whoever reads them; newer ones count, damaged ones do not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_results import METRICS, entry_of, group_of, make_results, metric_node, records, rows_of, write_parts

from bench.analysis.reading import load_results
from bench.types import UserError

POINTING = {"pointing_game": METRICS["pointing_game"]}
OTHERS = {name: node for name, node in METRICS.items() if name != "pointing_game"}
PLACE = ("hirescam", "bn2.act")


def without(rows, metric):
    return [{name: value for name, value in row.items() if not name.startswith(metric)} for row in rows]


def only(rows, metric):
    kept = [{name: value for name, value in row.items() if "." not in name or name.startswith(metric)} for row in rows]
    return [row | {"map": None, "map_shape": None} for row in kept]


@pytest.fixture
def later(finished, tmp_path):
    """The finished results once more, with the pointing game in parts of its own that two methods have."""
    root = make_results(tmp_path / "later", gallery=4)
    (folder,) = root.glob("*/*/")
    places = [("grad_cam", "bn2.act"), PLACE]
    rows = {place: records(finished, *place) for place in places}
    for path in folder.glob("part-*"):
        path.unlink()
    write_parts(folder, [(entry_of(*place), without(own, "pointing_game")) for place, own in rows.items()], OTHERS)
    write_parts(folder, [(entry_of(*place), only(own, "pointing_game")) for place, own in rows.items()], POINTING)
    return root


def test_a_later_metrics_parts_join_the_rows(later, finished):
    group, whole = group_of(later), group_of(finished)
    assert group.outputs == whole.outputs and len(group.cases) == 24 and len(group.entries) == 2
    for entry in group.entries:
        (before,) = [e for e in whole.entries if e.label == entry.label]
        np.testing.assert_array_equal(entry.values, before.values)
        assert entry.rows == 24 and entry.measured == dict.fromkeys(METRICS, 24)
    table = load_results(later)
    assert len(table) == 2 * 24 and table["map"].notna().sum() == 2 * 4
    found = table[table["method"] == "hirescam"].set_index("case_id")
    expected = rows_of(finished, *PLACE)
    for name in ("pointing_game.hit", "deletion.auc"):
        assert found[name].tolist() == expected.loc[found.index, name].tolist()


def test_only_what_was_asked_for(finished):
    cases = ["0001/cup", "0002/moped"]
    group = group_of(finished, cases=cases, entries=[entry_of(*PLACE)["key"]],
                     metrics=[metric_node("deletion", METRICS["deletion"])["key"]])  # fmt: skip
    assert [entry.label for entry in group.entries] == ["hirescam@bn2.act"] and list(group.metrics) == ["deletion"]
    assert group.outputs == ["deletion.auc"] and group.cases["case_id"].tolist() == cases
    np.testing.assert_array_equal(group.entries[0].values[:, 0], rows_of(finished, *PLACE).loc[cases, "deletion.auc"])
    assert group_of(finished, entries=["none"]) is None


@pytest.mark.parametrize("last", [False, True])
def test_of_duplicates_the_part_that_sorts_last_counts(results, last):
    root = results()
    (folder,) = root.glob("*/*/")
    (original,) = folder.glob("part-00000-*")
    for size in range(1, 16):  # the name follows from the cases: some sort before, some after
        rows = [row | {"deletion.auc": 0.125} for row in records(root, *PLACE)[:size]]
        (path,) = write_parts(folder, [(entry_of(*PLACE), rows)], METRICS)
        if (path.name > original.name) == last:
            break
        path.unlink()
    group = group_of(root)
    (entry,) = [e for e in group.entries if e.label == "hirescam@bn2.act"]
    assert entry.rows == 24 and (group.values(entry, "deletion.auc") == 0.125).sum() == (size if last else 0)
    table = load_results(root)
    assert len(table) == 240 and not table.duplicated(["method", "layer", "case_id"]).any()
    assert (table["deletion.auc"] == 0.125).sum() == (size if last else 0)


@pytest.mark.parametrize("first", [0, 9])
def test_the_highest_version_counts_wherever_it_is(results, first, caplog):
    root = results(methods=(PLACE, ("random", "-")))
    (folder,) = root.glob("*/*/")
    rows = [row | {"deletion.auc": 0.125} for row in records(root, *PLACE)[:5]]
    write_parts(folder, [(entry_of(*PLACE, version=2), rows)], METRICS, first=first)
    group = group_of(root)
    (entry,) = [e for e in group.entries if e.label == "hirescam@bn2.act"]
    assert entry.version == 2 and entry.rows == 5
    assert np.isfinite(group.values(entry, "deletion.auc")).sum() == 5
    assert "hirescam@bn2.act" in caplog.text and "version" in caplog.text
    table = load_results(root)
    assert (table["method"] == "hirescam").sum() == 5 and (table["method"] == "random").sum() == 24


def test_the_highest_version_of_a_metric_counts(results):
    root = results(methods=(PLACE, ("random", "-")))
    (folder,) = root.glob("*/*/")
    newer = {"deletion": METRICS["deletion"] | {"about": METRICS["deletion"]["about"] | {"version": 2}}}
    rows = [row | {"deletion.auc": 0.125} for row in only(records(root, *PLACE), "deletion")[:5]]
    write_parts(folder, [(entry_of(*PLACE), rows)], newer, first=0)
    group = group_of(root)
    deleted = {e.label: group.values(e, "deletion.auc") for e in group.entries}
    assert np.isfinite(deleted["hirescam@bn2.act"]).sum() == 5 and np.isnan(deleted["random"]).all()
    assert all(np.isfinite(group.values(e, "insertion.auc")).all() for e in group.entries)
    table = load_results(root)
    assert len(table) == 48 and table["deletion.auc"].notna().sum() == 5 and table["insertion.auc"].notna().all()


def test_pandas_and_duckdb_read_a_folder_as_it_is(finished):
    (folder,) = finished.glob("*/*/_protocol.yaml")
    table = pd.concat([pd.read_parquet(path) for path in folder.parent.glob("part-*.parquet")])
    assert len(pd.read_parquet(folder.parent)) == len(table) == 10 * 24
    duckdb = pytest.importorskip("duckdb")
    query = f"select method, layer, avg(\"deletion.auc\") from '{folder.parent}/part-*.parquet' group by all"
    for method, layer, mean in duckdb.sql(query).fetchall():
        assert mean == pytest.approx(rows_of(finished, method, layer)["deletion.auc"].mean())


def test_maps_boxes_and_curves_are_arrays(finished):
    table = load_results(finished)
    assert list(table.columns[:6]) == ["dataset", "model", "protocol", "method", "layer", "case_id"]
    assert len(table) == 240 and table["dataset"].eq("collage").all()
    row = table[(table["method"] == "grad_cam") & (table["case_id"] == "0001/cup")].iloc[0]
    raw = rows_of(finished, "grad_cam", row["layer"]).loc["0001/cup"]
    assert row["map"].shape == (7, 7) and row["map"].dtype == np.float32
    np.testing.assert_array_equal(row["map"].ravel(), raw["map"])
    assert row["boxes"].shape == (row["n_instances"], 4) and row["other_boxes"].shape == (1, 4)
    np.testing.assert_array_equal(row["boxes"].ravel(), raw["boxes"])
    assert row["deletion.curve"].shape == (15,)
    assert table.loc[table["case_id"] == "0020/moped", "map"].isna().all()
    assert table["other_boxes"].iloc[0].shape == (0, 4)


def test_no_results_are_an_error_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no results under"):
        load_results(tmp_path)
