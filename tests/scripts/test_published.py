"""What is published can be computed again, and whoever changes a number of it is found out."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.__main__ import compute
from bench.config import compose_config, plain
from bench.options import conf_node
from bench.runs.rows import schema_of
from bench.store.folders import Folder, find_folders
from bench.store.parts import read_part, write_part
from bench.types import UserError

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published"


def script(name: str) -> Any:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check, publish = script("check_published"), script("publish")


def small(out: Path, *more: str) -> Folder:
    words = ["model=planted", "dataset=planted", "dataset.pictures=2", "method=[grad_cam,layer_cam,center]"]
    words += ["metric=[box_coverage,average_drop,planted_truth]", "gallery.cases=0", "batch=16", "score_batch=4", *more]
    settings = plain(compose_config([*words, f"out={out}", "quiet=true", "limit=6"]))
    outcome = compute({**settings, "command": ["-m", "bench", *words, f"out={out}", "trust=[os]", "model.size=${x:y}"]})
    assert outcome.folder is not None
    return outcome.folder


def settings_of(words: list[str]) -> dict[str, str]:
    """What the overrides say, by name."""
    return dict(word.split("=", 1) for word in words)


def note_of(chunk: int, cases: int, methods: list[str], *metrics: str) -> dict[str, Any]:
    """The note of a part with these methods and metrics of today's versions."""
    version = {name: conf_node("metric", name)["about"]["version"] for name in metrics}
    return {
        "chunk": chunk, "cases": [f"{chunk} {i}" for i in range(cases)], "skipped": [], "batch": 16, "score_batch": 4,
        "entries": [{"method": name, "version": conf_node("method", name)["about"]["version"]} for name in methods],
        "metrics": {name: {"version": version[name]} for name in metrics}, "made": {"command": ["model=planted"]},
    }  # fmt: skip


def rewritten(folder: Folder, change: Any) -> None:
    """Replace the folder's part by one with changed rows and note."""
    (path,) = folder.parts
    table, note = read_part(path)
    rows = table.to_pylist()
    rows, note = change(rows, note)
    path.unlink()
    write_part(folder.path, 0, rows, schema_of(note["outputs"]), note)


def test_a_drawn_subset_of_the_published_results_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every protocol whose pictures are here, the embedded ones in any case."""
    monkeypatch.chdir(ROOT)
    folders = find_folders(PUBLISHED)
    assert folders, "nothing is published: run scripts/publish.py"
    results = {folder.path.parent.name: check.recompute(folder, seed=1) for folder in folders}
    assert any(lines is not None for lines in results.values())
    assert {name: lines for name, lines in results.items() if lines} == {}


def test_what_is_published_is_small_and_holds_no_pictures_of_others() -> None:
    assert publish.committed(PUBLISHED) < publish.LARGEST
    for folder in find_folders(PUBLISHED):
        assert (PUBLISHED / "README.md").read_text().count(publish.digest(folder.path)) == 1
        if folder.protocol["dataset"] not in ("collage", "planted"):
            assert not folder.images.exists()
            for path in folder.parts:
                assert not any("1" in entry["maps"] for entry in read_part(path, [])[1]["entries"])


def test_sound_results_pass_and_a_changed_number_is_named(tmp_path: Path) -> None:
    folder = small(tmp_path)
    assert check.recompute(folder, seed=0) == []

    def change(rows: list, note: dict) -> tuple[list, dict]:
        return [row | {"box_coverage.coverage": row["box_coverage.coverage"] + 2e-4} for row in rows], note

    rewritten(folder, change)
    lines = {line for seed in range(4) for line in check.recompute(folder, seed)}
    assert lines and all(line.startswith("box_coverage.coverage of ") for line in lines)


def test_a_missing_row_and_a_missing_column_are_named() -> None:
    again = pd.DataFrame(
        {"method": "m", "layer": "-", "case_id": ["a", "b"], "x.y": [1.0, 2.0], "z.curve": [None, [1.0]]}
    )
    assert check.mismatches(again, again) == []
    assert check.mismatches(again[:1], again) == ["m at -, b: not published"]
    assert check.mismatches(again.drop(columns="x.y"), again) == ["x.y: not published"]
    other = again.assign(**{"x.y": [1.0, 2.1], "z.curve": [None, [1.0, 1.0]]})
    assert [line.split(":")[0] for line in check.mismatches(other, again)] == ["x.y of m - b", "z.curve of m - b"]


def test_a_command_of_another_protocol_is_named(tmp_path: Path) -> None:
    folder = small(tmp_path)

    def change(rows: list, note: dict) -> tuple[list, dict]:
        return rows, note | {"made": note["made"] | {"command": [*note["made"]["command"], "seed=7"]}}

    rewritten(folder, change)
    assert "makes protocol" in check.recompute(folder, seed=0)[0]


def test_any_chunk_is_drawn_and_no_other_is_computed() -> None:
    notes = [note_of(chunk, cases, ["grad_cam"], "box_coverage") for chunk, cases in ((0, 16), (1, 16), (2, 5))]
    drawn = {tuple(check.words_of(notes, random.Random(seed))) for seed in range(8)}
    settings = [settings_of(list(words)) for words in drawn]
    assert {(one["limit"], one["shards"], one["shard"]) for one in settings} == {
        ("16", "1", "0"), ("32", "2", "1"), ("37", "3", "2")}  # fmt: skip
    assert {(one["method"], one["metric"]) for one in settings} == {("[grad_cam]", "[box_coverage]")}


def test_methods_with_passes_of_their_own_are_drawn_on_two_cases() -> None:
    note = note_of(1, 16, ["grad_cam", "integrated_gradients", "is_cam"], "box_coverage")
    drawn = [settings_of(check.words_of([note], random.Random(seed))) for seed in range(8)]
    assert {(one["method"], one["limit"]) for one in drawn} == {
        ("[grad_cam]", "32"), ("[integrated_gradients]", "18")}  # fmt: skip
    note["entries"][1]["version"] -= 1
    assert settings_of(check.words_of([note], random.Random(0)))["method"] == "[grad_cam]"
    assert check.words_of([note_of(0, 16, ["grad_cam"], "max_sensitivity")], random.Random(0)) == []


def test_new_parts_are_drawn_from_where_there_are_any(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (before,) = folder.parts
    small(tmp_path, "method=[hirescam]")
    (added,) = set(folder.parts) - {before}
    for new, method in ((added, "hirescam"), (before, "grad_cam,layer_cam,center"), (tmp_path, "")):
        drawn: list[str] = []
        for seed in range(3):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(check, "words_of", lambda notes, draw, seen=drawn: seen.extend(
                    entry["method"] for note in notes for entry in note["entries"]) or [])  # fmt: skip
                check.recompute(folder, seed, frozenset([new.resolve()]))
        assert set(drawn) == set(method.split(",")) if method else len(set(drawn)) == 4
    assert check.recompute(folder, 0, frozenset([added.resolve()])) == []


def test_parts_that_a_commit_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "old.parquet").write_text("old")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "before"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "new é.parquet").write_text("new")
    for words in (["add", "."], ["commit", "-qm", "after"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert check.added_since("HEAD^") == {(tmp_path / "new é.parquet").resolve()}
    assert check.added_since("HEAD") == set()
    with pytest.raises(UserError, match="--since main2: fatal"):
        check.added_since("main2")


def test_only_harmless_settings_of_a_command_are_used() -> None:
    for word in ("trust=[os]", "model.target=os:system", "dataset._target_=x", "layer=${oc.env:HOME}", "out=/", "-m",
                 "hydra.run.dir=x", "model.weights=x.pth", "dataset.class_map=a:b"):  # fmt: skip
        assert not check.WORDS.fullmatch(word)
    for word in ("model=resnet18", "dataset.root=../shared/data", "scale=[1,1.5,2]", "layer=bn2.act", "seed=3"):
        assert check.WORDS.fullmatch(word)


def test_every_method_is_published_or_said_to_be_left_out() -> None:
    cheap, costly = publish.affordable_methods()
    named = [*cheap, *costly, "cam", "lift_cam", *", ".join(publish.LEFT_OUT).split(", ")]
    from bench.options import names

    assert set(names("method")) <= set(named) | {"peers"} and not set(cheap) & set(costly)
    metrics = {*publish.LOCALIZATION, *publish.OTHER, *publish.AGAIN, *named}
    assert set(names("metric")) <= metrics
    assert {*publish.ON_SAMPLES, *publish.AT_SCALES} <= set(cheap)
    assert "guided_backprop" not in (*cheap, *costly)  # it refuses the network of the scenes


def test_published_results_are_in_no_wheel() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert not any("result" in name for name in (*tools["packages"], *tools["package-dir"].values()))
    assert not any("parquet" in pattern for patterns in tools["package-data"].values() for pattern in patterns)
