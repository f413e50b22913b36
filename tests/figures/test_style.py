"""Figures as files: repeatable, in the formats asked for, and mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bench.figures.style import save
from bench.types import UserError

FORMATS = ["svg", "png", "pdf"]


def figure() -> Figure:
    made = Figure(figsize=(2, 2), layout="constrained")
    ax = made.subplots()
    ax.plot([1, 2], [3, 5])
    ax.set_title("a long title that the layout makes room for")
    return made


def test_equal_figures_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(figure(), tmp_path / name, FORMATS, 300)
    for suffix in FORMATS:
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert first == second and len(first) > 1000


def test_other_formats_and_figures_that_no_longer_apply_are_deleted(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(figure(), tmp_path / name, FORMATS, 300)
    save(figure(), tmp_path / "one", ["svg"], 300)
    save(None, tmp_path / "two", FORMATS, 300)
    assert [path.name for path in tmp_path.iterdir()] == ["one.svg"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*one.svg.*out=DIR"):
        save(figure(), tmp_path / "file" / "one", FORMATS, 300)
