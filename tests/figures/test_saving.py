"""Figures saved by a process of their own: the same files as in this one, and its mistakes are told here."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bench.figures.saving import save, saving
from bench.types import UserError

FORMATS = ["svg", "png", "pdf"]


def figure() -> Figure:
    made = Figure(figsize=(2, 2), layout="constrained")
    ax = made.subplots()
    ax.plot([1, 2], [3, 5])
    ax.set_title("a long title that the layout makes room for")
    return made


def test_the_same_bytes_as_in_this_process(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    save(figure(), tmp_path / "here" / "one", FORMATS)
    with saving() as later:
        later(figure(), tmp_path / "there" / "one", FORMATS)
    for suffix in FORMATS:
        found = [(tmp_path / name / f"one.{suffix}").read_bytes() for name in ("here", "there")]
        assert found[0] == found[1] and len(found[0]) > 1000


def test_formats_that_are_not_asked_for_and_figures_that_do_not_apply_go(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save(figure(), tmp_path / name, FORMATS)
    with saving() as later:
        later(figure(), tmp_path / "one", ["svg"])
        later(None, tmp_path / "two", FORMATS)
    assert [path.name for path in tmp_path.iterdir()] == ["one.svg"]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*one.svg.*out=DIR"), saving() as later:
        for _ in range(3):  # the process is gone by then, which must not hide why
            later(figure(), tmp_path / "file" / "one", FORMATS)


def test_a_fault_of_ours_is_no_mistake_of_the_users(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="status 1"), saving() as later:
        later(figure(), tmp_path / "one", ["odd"])
    assert "Traceback" in capfd.readouterr().err


def test_what_goes_wrong_here_ends_the_process(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), saving() as later:
        later(figure(), tmp_path / "one", FORMATS)
        raise ZeroDivisionError
