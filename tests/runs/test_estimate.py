"""The estimate's disk: what a file costs empty is paid once a file, not for every case."""

from __future__ import annotations

from pathlib import Path

from bench.runs import store
from bench.runs.estimate import disk, duration
from bench.runs.rows import schema_of


def test_disk_of_a_few_rows_leads_to_that_of_many(tmp_path: Path) -> None:
    def rows(number: int) -> list[dict]:
        # numbers of many digits, as results have them: nothing that compresses away
        return [{"case_id": f"{i:06d}/cat", "deletion.auc": (i * 0.7548776662) % 1} for i in range(number)]

    schema = schema_of(rows(1))
    for files, each in ((1, 400), (4, 100)):
        for i in range(files):
            store.write_chunk(tmp_path / f"{i}.parquet", rows(each), schema, {})
        true = sum((tmp_path / f"{i}.parquet").stat().st_size for i in range(files))
        assert abs(disk([rows(4)], schema, 400, files) / true - 1) < 0.5
        assert disk([rows(4)] * 3, schema, 400, files) == 3 * disk([rows(4)], schema, 400, files)
    assert disk([rows(4)], schema, 4, 1) * 100 > 2 * true  # what one would say without the difference


def test_durations_read_well() -> None:
    assert [duration(s) for s in (3, 240, 7200, 400_000)] == ["3 s", "4.0 min", "2.0 h", "4.6 days"]
