"""Processes end when they should, and what nobody reads any more is no error."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.runs import execution
from bench.runs import workers as shared
from bench.runs.execution import measured
from bench.types import InputSpec, Network

TINY = [
    "model=resnet18", "model.weights=random", "metric=[box_coverage,pointing_game]", "method=[grad_cam,random]",
    "gallery.cases=0",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def start(folder: Path, *words: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *TINY, *words], cwd=folder, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def alive(group: int) -> list[str]:
    """Processes of a session that run."""
    lines = subprocess.run(["ps", "-ww", "-eo", "sid,stat,args"], capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if line.split()[0] == str(group) and not line.split()[1].startswith("Z")]


def wait_for(condition: Any, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def workers(group: int) -> list[str]:
    return [line for line in alive(group) if "popen_loky" in line]


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, kill: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(tmp_path, "workers=2", "dataset.scenes=100")
    try:
        wait_for(lambda: list(tmp_path.rglob("part-*.parquet")))
        assert len(workers(process.pid)) == 2
        process.send_signal(kill)
        process.communicate(timeout=30)
        wait_for(lambda: not alive(process.pid), 10)
    finally:
        for _ in alive(process.pid)[:1]:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
@pytest.mark.parametrize(
    ("words", "ready"), [((), False), (("loader_workers=2",), True), (("workers=2",), True), (("workers=2",), False)]
)
def test_ctrl_c_five_times_is_one_line(tmp_path: Path, words: tuple[str, ...], ready: bool) -> None:
    """Sent to all processes, as a terminal does: in the first second, while workers start, or at work."""
    process = start(tmp_path, *words, "dataset.scenes=100")
    try:
        if ready:
            wait_for(lambda: list(tmp_path.rglob("part-*.parquet")))
        elif words:
            wait_for(lambda: workers(process.pid))
        else:
            time.sleep(0.7)
        for _ in range(5):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.05)
        _, said = process.communicate(timeout=60)
        lines = [line for line in said.splitlines() if "cases, " not in line]  # without those of progress
        assert process.returncode == 130 and len(lines) <= 1, said
        wait_for(lambda: not alive(process.pid), 10)
    finally:
        for _ in alive(process.pid)[:1]:
            os.killpg(process.pid, signal.SIGKILL)


STRUCK = """
import sys
from bench.cli import interrupted

try:
    exec("raise KeyboardInterrupt")
except KeyboardInterrupt:
    sys.exit(interrupted("stopped"))
"""


def test_ctrl_c_in_code_from_a_string_gives_our_status(tmp_path: Path) -> None:
    """Dataclasses are made so; Python then killed itself with the signal after the right line."""
    (tmp_path / "struck.py").write_text(STRUCK)
    words = [sys.executable, "-m", "struck"]
    done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


@pytest.mark.parametrize("module", ["bench.report", "bench.export"])
def test_ctrl_c_ends_the_other_programs_in_one_line(tmp_path: Path, module: str) -> None:
    """At the first read of a results folder."""
    code = f"""
import runpy, sys
from bench.store import folders

def interrupt(*_): raise KeyboardInterrupt

folders.find_folders = interrupt
sys.argv = ["x", {str(tmp_path)!r}, *(["--out", "maps"] if "export" in {module!r} else [])]
runpy.run_module({module!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr.startswith("stopped; ") and done.stderr.count("\n") == 1, done.stderr


READER_ENDS = """
import os, socket, time
from multiprocessing import resource_sharer
from bench.datasets import loading

{call}
handed_over = resource_sharer.DupFd(os.pipe()[0])
with socket.socket(socket.AF_UNIX) as reader:
    reader.connect(handed_over._id[0])
time.sleep(0.5)
raise {error}
"""


@pytest.mark.parametrize(
    ("call", "error", "traces"), [("", "SystemExit", 1), ("loading._expect_an_end(0)", "SystemExit", 0),
                                  ("loading._expect_an_end(0)", "ValueError", 1)],
)  # fmt: skip
def test_a_loading_process_says_nothing_when_its_reader_has_ended(
    tmp_path: Path, call: str, error: str, traces: int
) -> None:
    """The thread that hands tensors over printed a traceback; other errors are printed as before."""
    code = READER_ENDS.format(call=call, error=error)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stderr.count("Traceback") == traces, done.stderr


def test_no_more_workers_than_cores_and_chunks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared, "cores", lambda: 8)
    for workers, limit, expected in ((100, 2, 1), (100, 33, 3), (100, None, 8), (4, None, 4), (2, 1000, 2)):
        settings = {"workers": workers, "limit": limit, "quiet": False}
        assert shared.workers_of(settings) == max(expected, 1)
        said = capsys.readouterr().err
        assert bool(said) == (expected < workers) and (not said or f"workers={workers}" in said)
    assert shared.workers_of({"workers": 100, "limit": 2, "quiet": True}) == 1 and not capsys.readouterr().err


@pytest.mark.parametrize("reader", ["true", "head -n 1"])
def test_a_reader_that_stops_leaves_all_files(tmp_path: Path, reader: str) -> None:
    line = f"set -o pipefail; {sys.executable} -m bench {' '.join(f'{word!r}' for word in TINY)} limit=2 | {reader}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    names = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"summary.csv", "summary.md", "report.html"} <= names
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr and "BrokenPipe" not in done.stderr
    for words in ("bench --help", "bench list methods", "bench.report results", "bench --cfg job"):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m {words} | {reader}"],
            cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert not done.stderr, done.stderr


def test_a_user_without_a_home_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where it knows no home
    answer = {"batch": 4, "channels_last": True, "seconds_per_image": 0.1}
    monkeypatch.setattr(execution, "measure", lambda *_: answer)
    monkeypatch.setattr(execution, "write_first", lambda *_: pytest.fail("written"))
    network = Network("n", None, InputSpec(8, 8, (0.5,) * 3, (0.5,) * 3), [], "random", "0")  # type: ignore[arg-type]
    assert measured(network, execution.torch.device("cpu"), "float32") == answer


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write")
@pytest.mark.parametrize("words", [[], ["out=below"], ["out=/proc/x"], ["-m", "seed=1,2"]])
def test_a_folder_that_cannot_be_written_is_one_line(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd="/proc",
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "choose another folder with out=DIR" in done.stderr


def test_modules_beside_the_run_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("metrics", "methods", "options", "types_", "config", "conf", "net"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    process = start(tmp_path, "limit=1")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
