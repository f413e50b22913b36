"""Results on disk: a part is whole or it is not read, whatever happened to the file."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.runs.rows import META, schema_of
from bench.store.files import hash_key, image_name, safe_name, write_atomically, write_text
from bench.store.folders import PROTOCOL, Folder, find_folders, set_aside
from bench.store.parts import is_whole, read_part, write_columns, write_part
from bench.types import UserError

OUTPUTS = {"m.value": "value", "m.curve": "curve"}
NOTE: dict[str, Any] = {
    "protocol": "k",
    "cases": ["a", "b"],
    "entries": [{"key": "e", "method": "x", "layer": "l", "maps": "00"}],
    "metrics": {"m": {"key": "m"}},
    "skipped": [{"case_id": "c", "image_id": "c", "reason": "torn"}],
}


def row(name: str, value: float) -> dict[str, Any]:
    empty = dict.fromkeys(META.names)
    return {**empty, "method": "x", "layer": "l", "case_id": name, "m.value": value, "m.curve": [value, 0.5]}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return write_part(tmp_path / "run", 3, [row("a", 1.0), row("b", 2.0)], schema_of(OUTPUTS), NOTE)


def test_round_trip(part: Path) -> None:
    table, note = read_part(part)
    assert table.column("m.value").to_pylist() == [1.0, 2.0]
    assert table.column("m.curve").to_pylist() == [[1.0, 0.5], [2.0, 0.5]]
    assert note == {**NOTE, "format": 2, "chunk": 3}
    assert read_part(part, ["case_id", "absent"])[0].column_names == ["case_id"]
    assert part.name.startswith("part-00003-") and [path.name for path in part.parent.iterdir()] == [part.name]
    assert pd.read_parquet(part.parent)["m.value"].tolist() == [1.0, 2.0]


def test_the_name_follows_from_what_a_part_holds(part: Path) -> None:
    rows, schema = [row("a", 5.0), row("b", 6.0)], schema_of(OUTPUTS)
    assert write_part(part.parent, 3, rows, schema, NOTE) == part
    for change in ({"cases": ["a", "d"]}, {"metrics": {"m": {"key": "n"}}}, {"entries": []}, {"skipped": []}):
        assert write_part(part.parent, 3, rows, schema, {**NOTE, **change}) != part


def test_no_single_flipped_bit_is_accepted(part: Path) -> None:
    data = part.read_bytes()
    assert is_whole(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not is_whole(bytes(flipped)), bit
        if bit % 997 == 0:
            part.write_bytes(bytes(flipped))
            with pytest.raises(ValueError, match="is damaged"):
                read_part(part)


def test_no_random_damage_is_accepted(part: Path) -> None:
    data, draw = part.read_bytes(), random.Random(0)
    for _ in range(300):
        start, length = draw.randrange(len(data)), draw.randrange(1, 60)
        torn = {
            "cut": data[:start],
            "lost": data[:start] + data[start + length :],
            "zeros": data[:start] + bytes(length) + data[start + length :],
            "added": data + draw.randbytes(length),
        }[draw.choice(["cut", "lost", "zeros", "added"])]
        if torn == data:
            continue
        part.write_bytes(torn)
        with pytest.raises(ValueError, match="damaged|not a part"):
            read_part(part)


def test_a_foreign_file_is_not_a_part(part: Path) -> None:
    pd.DataFrame({"case_id": ["a", "b"]}).to_parquet(part)
    with pytest.raises(ValueError, match="damaged"):
        read_part(part)


def test_a_damaged_part_is_set_aside(part: Path) -> None:
    set_aside(part)
    assert [path.name for path in part.parent.iterdir()] == [f"{part.name}.damaged"]
    assert Folder(part.parent, {}).parts == []


def test_all_columns_are_seen_by_a_reader_that_takes_the_first_files(part: Path) -> None:
    more = {**NOTE, "metrics": {"n": {"key": "n"}}}
    rows = [{**row(name, 0.0), "n.value": 7.0} for name in "ab"]
    for one in rows:
        del one["m.value"], one["m.curve"]
    write_part(part.parent, 3, rows, schema_of({"n.value": "value"}), more)
    write_columns(part.parent, schema_of({**OUTPUTS, "n.value": "value"}))
    frame = pd.read_parquet(part.parent)
    assert len(frame) == 4 and frame["n.value"].sum() == 14 and frame["m.value"].sum() == 3


def test_folders_with_a_damaged_protocol_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = {"dataset": {"name": "d"}}
    protocol = {"format": 2, "dataset": "d", "model": "m", "weights": "w", "parameters": parameters}
    for name, key in (("good", hash_key(parameters)), ("changed", "0123456789")):
        write_text(tmp_path / name / PROTOCOL, f"{json.dumps({**protocol, 'key': key})}\n")
    write_text(tmp_path / "torn" / PROTOCOL, "{unclosed: [")
    write_text(tmp_path / "odd" / PROTOCOL, "dataset: d")
    write_text(tmp_path / "old" / "run" / "_config.yaml", "dataset: d")
    with caplog.at_level(logging.WARNING):
        assert [folder.path.name for folder in find_folders(tmp_path)] == ["good"]
    assert caplog.text.count("is left out") == 3
    assert caplog.text.count("format 1") == 1 and "left alone" in caplog.text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full.*out=DIR"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder with out=DIR"):
        write_text(tmp_path / "file" / "x" / "a.txt", "")


def test_names() -> None:
    assert safe_name("a/b c@1") == "a_b_c_1"
    assert [safe_name(name) for name in ("..", ".", "", "../x", ".x", "a..b")] == [
        "_",
        "_",
        "_",
        "__x",
        "_x",
        "a..b",
    ]
    assert image_name("x/y") != image_name("x_y")
    assert hash_key({"a": 1, "b": 2}) == hash_key({"b": 2, "a": 1}) != hash_key({"a": 1, "b": 3})
