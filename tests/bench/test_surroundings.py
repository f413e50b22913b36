"""Where a run starts: the current folder, the terminal, the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_results import make_results

from bench.cli import answer
from bench.report.__main__ import main as report_main
from bench.types import UserError

ROOT = Path(__file__).parents[2]
TINY = ["model=resnet18", "model.weights=random", "limit=1", "method=[center]", "metric=[complexity]"]


def bench(
    *words: str, folder: Path, module: str = "bench", before: str = "", after: str = "", **more: str
) -> tuple[int, str]:
    """Exit status and standard error of a command, with shell words around it."""
    command = f"{before} {sys.executable} -m {module} {' '.join(words)} {after}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    return done.returncode, done.stderr


def test_a_deleted_current_folder_is_one_line(tmp_path: Path) -> None:
    before = "mkdir gone; cd gone; rmdir ../gone;"
    assert bench(*TINY, folder=tmp_path, before=before) == (
        2, "error: the current folder has been deleted; go to another one\n")  # fmt: skip


def test_a_log_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    status, said = bench(*TINY, "hydra.run.dir=/proc/x/y", folder=tmp_path)
    assert status == 2 and said.startswith("error: cannot write /proc/x") and said.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
def test_a_full_disk_behind_the_table_is_one_line_and_the_files_are_there(tmp_path: Path) -> None:
    status, said = bench(*TINY, folder=tmp_path, after="> /dev/full")
    assert status == 2 and "Traceback" not in said and said.splitlines()[-1].startswith("error: cannot print the table")
    assert (tmp_path / "results" / "report.html").is_file()
    status, said = bench("results", folder=tmp_path, module="bench.report", after="> /dev/full")
    assert status == 2 and "Traceback" not in said and "cannot print the table" in said


@pytest.mark.parametrize("name", ["nonsense", "module://not_installed.backend_inline"])
def test_a_window_system_that_is_not_installed_does_not_matter(name: str, tmp_path: Path) -> None:
    """A notebook sets one for the commands that it starts."""
    make_results(tmp_path / "results", cases=2, methods=(("random", "-"),), gallery=0)
    status, said = bench("results", folder=tmp_path, module="bench.report", MPLBACKEND=name)
    assert status == 0 and "Traceback" not in said and (tmp_path / "results" / "report.html").is_file()


def test_a_window_system_that_is_there_stays_the_users() -> None:
    code = "import bench.analysis, os, matplotlib; print(matplotlib.rcParams['backend'], os.environ['MPLBACKEND'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "svg"},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["svg", "svg"]


def test_no_file_stays_open_and_nothing_warns(tmp_path: Path) -> None:
    make_results(tmp_path / "results", cases=2, methods=(("random", "-"),), gallery=0)
    code = "import bench.report.__main__ as r, sys; sys.exit(r.main(['results']))"
    done = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-c", code], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0 and "unclosed file" not in done.stderr, done.stderr


def test_an_empty_name_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(tmp_path / "results", cases=2, methods=(("random", "-"),), gallery=0)
    monkeypatch.chdir(tmp_path)
    for words in ([""], ["--compare", "results", ""]):
        with pytest.raises(SystemExit) as ended:
            report_main(words)
        assert ended.value.code == 2 and "a folder has an empty name" in capsys.readouterr().err
    with pytest.raises(UserError, match="a folder has an empty name"):
        answer(["list", "results", ""])
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


@pytest.mark.parametrize("name", ["figures", "tables", "report.html", "summary.csv"])
def test_files_of_a_report_that_cannot_be_written_are_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_results(tmp_path, cases=2, methods=(("random", "-"),), gallery=0)
    if "." in name:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("")
    assert report_main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"cannot write {tmp_path / name}" in said and said.count("\n") == 1
