"""The estimate's disk: what a file costs empty is paid once a file, not for every case."""

from __future__ import annotations

from pathlib import Path

from bench import store
from bench.estimate import disk, duration
from bench.rows import schema_of


def test_disk_of_a_few_rows_leads_to_that_of_many(tmp_path: Path) -> None:
    def rows(number: int) -> list[dict]:
        # numbers of many digits, as results have them: nothing that compresses away
        return [{"case_id": f"{i:06d}/cat", "deletion.auc": (i * 0.7548776662) % 1} for i in range(number)]

    schema = schema_of(rows(1))
    single, few, many = (disk(tmp_path, [rows(n)], schema) for n in (1, 4, 400))
    assert store.read_chunk(tmp_path / "sample.parquet")[0].num_rows == 400
    predicted = single + (few - single) / 3 * 399
    assert abs(predicted / many - 1) < 0.5
    assert few / 4 * 400 > 2 * many  # what one would say without the difference
    assert disk(tmp_path, [rows(4)] * 3, schema) == 3 * few


def test_durations_read_well() -> None:
    assert [duration(s) for s in (3, 240, 7200, 400_000)] == ["3 s", "4.0 min", "2.0 h", "4.6 days"]
