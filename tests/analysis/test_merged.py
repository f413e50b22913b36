"""The merged file beside the chunks: the same rows from one file, and never instead of newer or other chunks."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.analysis.merged import AHEAD, MAP_COLUMNS, MERGED, merge, read_merged
from bench.analysis.reading import read_frame, read_rows, read_table
from bench.report import report
from bench.runs import store
from bench.runs.store import Run, find_runs


@pytest.fixture
def run(one_run) -> Run:
    """40 cases in three chunks of a run with a key, one curve and maps; a fourth chunk has only bad pictures."""
    rows = [
        {
            "case_id": f"{i:03d}", "deletion.auc": i / 40, "deletion.curve": [i / 40, 0.5], "map": [1.0] * 4,
            "map_shape": [2, 2], "map_scale": 1.0, "degenerate": "zero" if i == 7 else "",
        }
        for i in range(40)
    ]  # fmt: skip
    (one,) = find_runs(one_run("grad_cam", "bn2.act", rows, key="k"))
    emptied(one, 3)
    return one


def emptied(run: Run, index: int) -> None:
    """Write a chunk as it is where all its pictures are bad: no rows, and no metric's columns."""
    table, note = store.read_chunk(store.chunk_path(run.path, 0))
    about = [name for name in table.column_names if "." not in name]
    store.write_table(store.chunk_path(run.path, index), table.select(about).slice(0, 0), note)


def rewritten(path: Path, value: float) -> None:
    """Give a chunk's first case another value; the file keeps its size."""
    table, note = store.read_chunk(path)
    values = [value, *table["deletion.auc"].to_pylist()[1:]]
    at = table.column_names.index("deletion.auc")
    store.write_table(path, table.set_column(at, table.schema.field(at), [values]), note)


def test_the_same_rows_as_the_chunks_without_opening_one(run: Run, reads: list) -> None:
    columns = [name for name in read_rows(run).columns if name not in MAP_COLUMNS]
    before, curves = read_frame(run, [name for name in columns if name != "deletion.curve"], ["deletion.curve"])
    merge(run)
    reads.clear()
    after, merged_curves = read_frame(run, [name for name in columns if name != "deletion.curve"], ["deletion.curve"])
    assert {path.name for path, _ in reads} == {MERGED}
    assert before.equals(after) and before["chunk"].tolist() == [0] * 16 + [1] * 16 + [2] * 8
    assert (curves["deletion.curve"] == merged_curves["deletion.curve"]).all()
    assert before["deletion.auc"].tolist() == [i / 40 for i in range(40)]
    assert read_rows(run, columns).equals(read_rows(run)[columns])


def test_maps_are_read_from_the_chunks(run: Run) -> None:
    merge(run)
    assert not set(pq.read_schema(run.path / MERGED).names) & set(MAP_COLUMNS)
    assert read_merged(run, ["case_id", "map"]) is None
    assert read_rows(run, ["case_id", "map"])["map"][39].tolist() == [1.0] * 4


def test_changed_chunks_count_not_the_merged_file(run: Run) -> None:
    merge(run)
    first = store.chunk_path(run.path, 0)
    rewritten(first, 0.75)
    assert read_merged(run, ["case_id"]) is None
    assert read_rows(run, ["deletion.auc"])["deletion.auc"][0] == 0.75
    merge(run)
    assert read_merged(run, ["deletion.auc"])["deletion.auc"][0].as_py() == 0.75
    store.chunk_path(run.path, 2).unlink()
    assert len(read_rows(run, ["case_id"])) == 32
    store.chunk_path(run.path, 1).rename(store.chunk_path(run.path, 5))
    merge(run)
    assert set(read_table(run, ["case_id"])["chunk"].to_pylist()) == {0, 5}


def test_a_current_file_is_not_written_again_and_one_chunk_needs_none(run: Run) -> None:
    merge(run)
    before = (run.path / MERGED).stat().st_mtime_ns
    merge(run)
    assert (run.path / MERGED).stat().st_mtime_ns == before
    for path in sorted(run.path.glob("*.parquet"))[:1] + sorted(run.path.glob("chunk-*.parquet"))[1:]:
        path.unlink()
    merge(run)
    assert not (run.path / MERGED).exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_merged_file_is_not_trusted(run: Run, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    merge(run)
    path = run.path / MERGED
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[:-50]
    elif damage == "flipped":
        data[data.index(b"bn2.act") if b"bn2.act" in data else data.index(b"039")] ^= 0x40
    path.write_bytes(b"PAR1junk" if damage == "foreign" else bytes(data))
    assert read_rows(run, ["case_id", "deletion.auc"])["case_id"].tolist() == [f"{i:03d}" for i in range(40)]
    assert ("instead" in caplog.text) == (damage == "flipped")
    merge(run)


def test_another_runs_merged_file_is_not_trusted(run: Run) -> None:
    merge(run)
    assert read_merged(Run(run.path, run.config | {"key": "other"}, {}), ["case_id"]) is None


def test_unreadable_chunks_are_not_merged_over(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    path = store.chunk_path(run.path, 1)
    path.write_bytes(path.read_bytes()[:-20])
    merge(run)
    assert not list(run.path.glob("*merged*")) and "stays unmerged" in caplog.text
    assert len(read_rows(run, ["case_id"])) == 24


def test_a_run_of_bad_pictures_has_nothing_to_merge(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(3):
        emptied(run, i)
    merge(run)
    assert not list(run.path.glob("*merged*")) and "no case" in caplog.text


def test_many_chunks_are_merged_some_at_a_time(one_run) -> None:
    rows = [{"case_id": f"{i:05d}", "deletion.auc": 0.5, "map": None, "map_shape": None, "map_scale": None}
            for i in range(16 * AHEAD + 40)]  # fmt: skip
    (run,) = find_runs(one_run("grad_cam", "bn2.act", rows, key="k"))
    merge(run)
    with pq.ParquetFile(run.path / MERGED) as file:
        assert [file.metadata.row_group(i).num_rows for i in range(2)] == [16 * AHEAD, 40]
    assert read_rows(run, ["case_id"])["case_id"].tolist() == [row["case_id"] for row in rows]


def test_the_report_is_the_same_from_merged_files(results) -> None:
    root = results(cases=40, methods=[("grad_cam", "bn2.act"), ("random", "-")], gallery=0)
    report(root)
    files = [*sorted(root.glob("*.csv")), *sorted((root / "tables").iterdir()), root / "report.html"]
    before = [path.read_bytes() for path in files]
    for run in find_runs(root):
        merge(Run(run.path, {"key": run.config.get("key"), **run.config}, {}))
        assert (run.path / MERGED).is_file()
    report(root)
    assert [path.read_bytes() for path in files] == before
