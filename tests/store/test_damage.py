"""Whatever happened to the files of a results folder: nothing changed is taken for true, nothing hangs or crashes."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from made_results import CASE, group_of, groups_of, make_results, protocol_folder
from rich.console import Console

from bench.analysis.kept_maps import read_shown
from bench.analysis.reading import load_results
from bench.cli import answer
from bench.report import report
from bench.report.__main__ import main as report_main
from bench.report.page import made
from bench.store.files import hash_key, read_json, write_json
from bench.store.folders import PROTOCOL, PROVENANCE, damaged, find_folders, read_protocol
from bench.store.parts import COLUMNS, FORMAT, PLACEHOLDER, is_whole, write_columns, write_sealed
from bench.types import UserError, printable


def everything(root: Path) -> list[Any]:
    """What readers make of a results folder: rows, arrays, pictures, left-out records, the list."""
    table, group, said = load_results(root), group_of(root), io.StringIO()
    answer(["list", "results", str(root)], Console(file=said))
    pictures = read_shown(group, 8).images
    provenance = read_json(group.folders[0].path / PROVENANCE)
    records = (
        provenance.get("batch"),
        provenance.get("bad_records"),
    )  # a flip in the word "hash" leaves them as they are
    return [
        table.to_json(default_handler=lambda value: np.asarray(value).tolist()), group.cases.to_json(), group.metrics,
        [(e.label, e.key, e.values.tolist(), e.degenerate, e.seconds) for e in group.entries], group.parameters,
        {name: picture.sum() for name, picture in pictures.items()}, records, group.parts[0].made, said.getvalue(),
    ]  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A whole results folder of two cases."""
    note = {"made": {"versions": {"torch": "2"}, "command": ["bench"]}}
    root = make_results(
        tmp_path / "results", cases=2, methods=(("grad_cam", "bn2.act"), ("random", "-")), gallery=1, note=note
    )
    (folder,) = find_folders(root)
    write_json(folder.path / PROVENANCE, {"batch": 16, "bad_records": [{"record": "x", "reason": "torn"}]})
    write_columns(folder.path, CASE)
    return root


def test_no_flipped_bit_in_any_file_is_accepted_silently(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of 600 flips over all files, in proportion to their number and size, each is named, or changes nothing."""
    before, draw = json.dumps(everything(small), default=str), random.Random(5)
    assert not caplog.records
    files = sorted(path for path in small.rglob("*") if path.is_file())
    assert {"_protocol.yaml", "_provenance.json", "columns.parquet"} < {path.name for path in files}
    assert {path.suffix for path in files} == {".yaml", ".json", ".parquet", ".png"}
    harmless: dict[str, int] = {}
    for turn in range(600):
        path = files[turn % len(files)] if turn % 2 else draw.choices(files, [p.stat().st_size for p in files])[0]
        data = path.read_bytes()
        bit = draw.randrange(8 * len(data))
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        caplog.clear()
        try:
            unchanged = json.dumps(everything(small), default=str) == before
        except (UserError, ValueError) as error:
            assert isinstance(error, UserError) or "unpack" in str(error), (path, bit)  # no readable folder is left
            unchanged = False
        named = any(
            path.name in record.getMessage() or path.parent.name in record.getMessage() for record in caplog.records
        )
        assert named or unchanged, f"bit {bit} of {path} changed what is read, silently"
        harmless[path.suffix] = harmless.get(path.suffix, 0) + (not named)
        path.write_bytes(data)
    parts = [path for path in files if path.name.startswith("part-")]
    assert parts and harmless[".parquet"] < 600  # those of columns.parquet, which only other programs read


def test_a_damaged_list_of_columns_is_written_anew(small: Path) -> None:
    (folder,) = find_folders(small)
    path = folder.path / COLUMNS
    data = path.read_bytes()
    assert not damaged(folder) and is_whole(data) and pq.read_schema(path) == CASE
    for bit in range(0, 8 * len(data), 7):
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
        assert damaged(folder)
    write_columns(folder.path, CASE)
    assert path.read_bytes() == data


def bomb(folder: Path) -> None:
    """Nine levels of nine aliases: a billion words from 500 bytes."""
    lines = ["a0: &a0 [lol, lol, lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (folder / PROTOCOL).write_text("\n".join(lines) + "\nparameters: *a9\nkey: x\nformat: 2\n")


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


ENTRY = {"key": "k", "method": "m", "name": "m", "layer": "l", "maps": "", "category": "other", "version": 1,
         "index": 0, "parameters": {}, "seconds": {}}  # fmt: skip


def foreign_note(folder: Path, schema: pa.Schema = CASE, **changes: Any) -> None:
    """A part with a sound hash whose note is not as ours."""
    note = {"format": FORMAT, "chunk": 7, "protocol": folder.name.rpartition("-")[2], "cases": [], "entries": [],
            "metrics": {}, "skipped": [], "batch": 1, "score_batch": 1, "made": {}, **changes}  # fmt: skip
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(stream, schema) as writer:
        writer.add_key_value_metadata({"bench": json.dumps(note), "digest": PLACEHOLDER})
    write_sealed(folder / "part-00007-0123456789.parquet", stream)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


DAMAGE = {
    "alias bomb": bomb,
    "pipe for the protocol": lambda folder: pipe(folder / PROTOCOL),
    "pipe for a part": lambda folder: pipe(folder / "part-00009-0123456789.parquet"),
    "pipe for the provenance": lambda folder: pipe(folder / PROVENANCE),
    "pipe for a picture": lambda folder: pipe(next((folder / "_images").glob("*.png"))),
    "folder for the protocol": lambda folder: ((folder / PROTOCOL).unlink(), (folder / PROTOCOL).mkdir()),
    "folder for a part": lambda folder: (folder / "part-00009-0123456789.parquet").mkdir(),
    "folder for the provenance": lambda folder: (
        (folder / PROVENANCE).unlink(missing_ok=True), (folder / PROVENANCE).mkdir()
    ),
    "huge protocol": lambda folder: sparse(folder / PROTOCOL, 2**40),
    "huge provenance": lambda folder: sparse(folder / PROVENANCE, 2**40),
    "huge part": lambda folder: sparse(folder / "part-00009-0123456789.parquet", 2**40),
    "huge picture": lambda folder: sparse(next((folder / "_images").glob("*.png")), 2**40),
    "deep yaml": lambda folder: (folder / PROTOCOL).write_text("[" * 100_000),
    "deep blocks": lambda folder: (folder / PROTOCOL).write_text("- " * 100_000),
    "deep json": lambda folder: (folder / PROVENANCE).write_text('{"a":' + "[" * 200_000),
    "long number": lambda folder: (folder / PROVENANCE).write_text('{"a": ' + "9" * 10_000 + "}"),
    "bytes for text": lambda folder: (folder / PROTOCOL).write_bytes(b"\xff\xfe\x00"),
    "empty protocol": lambda folder: (folder / PROTOCOL).write_text(""),
    "list for the protocol": lambda folder: (folder / PROTOCOL).write_text("[1, 2]"),
    "code in the protocol": lambda folder: (folder / PROTOCOL).write_text("!!python/object/apply:os.abort []"),
    "list for the provenance": lambda folder: (folder / PROVENANCE).write_text("[1]"),
    "link to itself": lambda folder: (folder / "loop").symlink_to(folder),
    "link to the root": lambda folder: (folder / "loop").symlink_to(folder.parent.parent),
    "link that leads nowhere": lambda folder: (folder / "part-00009-0123456789.parquet").symlink_to("nowhere"),
    "link in a circle": lambda folder: (folder / "part-00009-0123456789.parquet").symlink_to(
        "part-00009-0123456789.parquet"
    ),
    "sync client's copy": lambda folder: shutil.copy(next(folder.glob("part-*")), folder / "part (copy).parquet"),
    "sync client's other copy": lambda folder: shutil.copy(next(folder.glob("part-*")), folder / "part-x.parquet"),
    "empty part": lambda folder: (folder / "part-00009-0123456789.parquet").write_bytes(b""),
    "half a part": lambda folder: (folder / "part-00009-0123456789.parquet").write_bytes(
        next(folder.glob("part-*")).read_bytes()[:1000]
    ),
    "foreign parquet": lambda folder: pd.DataFrame({"a": [1]}).to_parquet(folder / "part-00009-0123456789.parquet"),
    "part of another protocol": lambda folder: foreign_note(folder, protocol="0123456789"),
    "note with words for cases": lambda folder: foreign_note(folder, cases="ab"),
    "note with numbers for entries": lambda folder: foreign_note(folder, entries=[1]),
    "note with null metrics": lambda folder: foreign_note(folder, metrics=None),
    "note with a list of metrics": lambda folder: foreign_note(folder, metrics={"deletion": []}),
    "note with more cases than rows": lambda folder: foreign_note(
        folder, cases=["a"], entries=[{"key": "k", "method": "m", "layer": "l", "maps": "0"}]
    ),
    "note without an entry's layer": lambda folder: foreign_note(folder, entries=[{"key": "k", "method": "m"}]),
    "note with a word for seconds": lambda folder: foreign_note(
        folder, entries=[{**ENTRY, "seconds": {"method": "x"}}]
    ),
    "note with a word for a place": lambda folder: foreign_note(folder, entries=[{**ENTRY, "index": "first"}]),
    "note with a word for a version": lambda folder: foreign_note(folder, entries=[{**ENTRY, "version": "new"}]),
    "note with numbers for directions": lambda folder: foreign_note(
        folder,
        metrics={"m": {"key": "k", "name": "m", "version": 1, "parameters": {}, "about": {"higher_is_better": 1}}},
    ),
    "note without what it is made with": lambda folder: foreign_note(folder, made=None),
    "columns of another kind": lambda folder: foreign_note(folder, schema=pa.schema([("method", pa.int64())])),
    "protocol with a list of parameters": lambda folder: (folder / PROTOCOL).write_text(
        json.dumps({"format": 2, "key": hash_key([1]), "parameters": [1], "dataset": "d", "model": "m"})
    ),
    "picture that is none": lambda folder: next((folder / "_images").glob("*.png")).write_bytes(b"%!PS-Adobe"),
}  # fmt: skip


# What stands beside the parts without being one of ours is no fault.
SILENT = ("link to itself", "link to the root", "sync client's copy", "sync client's other copy")


@pytest.mark.parametrize("kind", DAMAGE)
def test_reports_and_lists_go_on(small: Path, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside a sound folder: what cannot be read is named, the rest is read; alone: one line and no traceback."""
    make_results(tmp_path / "results" / "sound", cases=2, methods=(("random", "-"),), gallery=0, model="sound")
    (folder,) = {path.parent for path in small.glob("*/*/_protocol.yaml")}
    DAMAGE[kind](folder)
    said = io.StringIO()
    assert answer(["list", "results", str(small)], Console(file=said)) and "sound" in said.getvalue()
    table = load_results(small)
    assert "sound" in set(table["model"]) and table["deletion.auc"].notna().all()
    for group in groups_of(small):
        if group:
            made(group)
            read_shown(group, 8)
    if kind in SILENT:
        assert not caplog.records
    else:
        assert folder.name in caplog.text


@pytest.mark.parametrize("kind", ["alias bomb", "pipe for the protocol", "deep yaml", "huge protocol"])
def test_a_folder_without_anything_readable_is_one_line(
    small: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = {path.parent for path in small.glob("*/*/_protocol.yaml")}
    DAMAGE[kind](folder)
    assert report_main([str(small)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: no results under")
    with pytest.raises(UserError, match="no results in"):
        answer(["list", "results", str(small)])


def test_a_folder_behind_a_link_is_read_once(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "disk"
    shutil.move(small / "collage", other)
    (small / "collage").symlink_to(other)
    (small / "again").symlink_to(other)
    assert len(find_folders(small)) == 1 and len(load_results(small)) == 4


def test_names_with_control_characters_are_escaped_outside_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    evil = "a\x1b]0;owned\x07\x1b[31m\u202e\nerror: b"
    assert (
        printable(evil) == "a\\x1b]0;owned\\x07\\x1b[31m\\u202e\\nerror: b" and printable("größe 数据") == "größe 数据"
    )
    assert printable("\udcff\x00\x9b\u2028") == "\\udcff\\x00\\x9b\\u2028"
    root = tmp_path / "results"
    make_results(
        root, cases=3, methods=((evil, "bn2.act"), ("random", "-")), gallery=0, model=f"net{evil}", dataset=evil,
        classes=[evil],
    )  # fmt: skip
    report(root)
    assert answer(["list", "results", str(root)], Console(width=300))
    texts = [path.read_text() for path in root.rglob("*") if path.suffix in (".csv", ".md", ".tex")]
    assert len(texts) > 5
    for text in [*texts, capsys.readouterr().out]:
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert not any(line.startswith("error: b") for line in text.splitlines()) or "," in text


def test_a_part_of_another_protocol_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_results(tmp_path / "results", cases=2, gallery=0)
    other = protocol_folder(root, "collage", "other", {"dataset": {"name": "made"}, "seed": 1})
    (part,) = (path for path in root.rglob("part-*.parquet"))
    shutil.copy(part, other)
    with caplog.at_level(logging.WARNING):
        assert set(load_results(root)["model"]) == {"efficientnet_lite0"}
    assert "belongs to another protocol" in caplog.text


def test_a_changed_letter_outside_the_key_is_found(tmp_path: Path) -> None:
    folder = protocol_folder(tmp_path, "made", "resnet18")
    path = folder / PROTOCOL
    known = yaml.safe_load(path.read_text())
    assert read_protocol(path)["model"] == "resnet18"
    for key, value in {"model": "resnet08", "weights": "default", "dataset": "mad"}.items():
        path.write_text(yaml.safe_dump({**known, key: value}))
        with pytest.raises(ValueError, match="hash"):
            read_protocol(path)
