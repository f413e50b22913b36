"""Results on disk: a bad file is computed again, never trusted and never fatal."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.analysis.reading import read_rows
from bench.runs import store
from bench.runs.rows import META, schema_of
from bench.types import UserError


def row(name: str, value: float) -> dict:
    empty = dict.fromkeys(META.names)
    return {**empty, "case_id": name, "m.value": value, "m.curve": [value, 0.5]}


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    path = store.chunk_path(tmp_path / "run", 0)
    rows = [row("a", 1.0), row("b", 2.0)]
    store.write_chunk(path, rows, schema_of(rows), {"key": "k", "skipped": [{"case_id": "c", "reason": "torn"}]})
    return path


def test_round_trip(chunk: Path) -> None:
    table, note = store.read_chunk(chunk)
    assert table.column("m.value").to_pylist() == [1.0, 2.0]
    assert table.column("m.curve").to_pylist() == [[1.0, 0.5], [2.0, 0.5]]
    assert note["key"] == "k"
    assert store.read_chunk(chunk, ["case_id", "absent"])[0].column_names == ["case_id"]
    assert [path.name for path in chunk.parent.iterdir()] == ["chunk-00000.parquet"]


def test_valid_only_with_its_key_and_exactly_its_cases(chunk: Path) -> None:
    assert store.valid_chunk(chunk, "k", ["a", "b", "c"])
    assert not store.valid_chunk(chunk, "other", ["a", "b", "c"])
    assert not store.valid_chunk(chunk, "k", ["a", "b"])
    assert not store.valid_chunk(chunk, "k", ["a", "b", "c", "d"])
    assert not store.valid_chunk(chunk.with_name("chunk-00001.parquet"), "k", ["a"])


@pytest.mark.parametrize("cut", [0, 10, 0.5, -1])
def test_truncated(chunk: Path, cut: float) -> None:
    data = chunk.read_bytes()
    chunk.write_bytes(data[: int(len(data) * cut) if isinstance(cut, float) else cut])
    assert not store.valid_chunk(chunk, "k", ["a", "b", "c"])


def test_a_flipped_bit_in_the_data_is_seen(chunk: Path) -> None:
    data = bytearray(chunk.read_bytes())
    position = data.index(b"\x28\xb5\x2f\xfd") + 8  # inside the first compressed page
    data[position] ^= 0x40
    chunk.write_bytes(bytes(data))
    assert not store.valid_chunk(chunk, "k", ["a", "b", "c"])


def test_foreign_parquet(chunk: Path) -> None:
    import pandas as pd

    pd.DataFrame({"case_id": ["a", "b"]}).to_parquet(chunk)
    assert not store.valid_chunk(chunk, "k", ["a", "b"])


def test_runs_with_a_damaged_config_are_left_out(chunk: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = chunk.parent
    (folder / store.CONFIG).write_text("{dataset: d, model: m, method: x, layer: l, protocol: p, metrics: {}, key: k}")
    bad = folder.parent / "bad"
    bad.mkdir()
    (bad / store.CONFIG).write_text("{unclosed: [")
    (folder.parent / "odd").mkdir()
    (folder.parent / "odd" / store.CONFIG).write_text("dataset: d")
    runs = store.find_runs(folder.parent)
    assert [run.path for run in runs] == [folder]
    assert caplog.text.count("left out") == 2
    assert list(read_rows(runs[0], ["case_id", "m.value"])["m.value"]) == [1.0, 2.0]
    chunk.write_bytes(b"junk")
    assert read_rows(runs[0], ["case_id"]).empty


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    store.write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full.*out=DIR"):
        store.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with out=DIR"):
        store.write_text(tmp_path / "file" / "x" / "a.txt", "")


def test_names() -> None:
    assert store.safe_name("a/b c@1") == "a_b_c_1"
    assert store.image_name("x/y") != store.image_name("x_y")
    assert store.hash_key({"a": 1, "b": 2}) == store.hash_key({"b": 2, "a": 1}) != store.hash_key({"a": 1, "b": 3})
