"""Work shared by several processes: equal numbers whoever does it, and nothing lost when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.runs import workers
from bench.types import UserError

TINY = [
    "model=resnet18", "model.weights=random", "metric=[box_coverage,pointing_game]", "method=[grad_cam,random]",
    "gallery.cases=0", "chunk=2",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *TINY, *arguments]


def succeed(*arguments: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of one process for eight cases."""
    folder = tmp_path_factory.mktemp("alone")
    succeed("limit=8", "out=alone", folder=folder)
    return folder / "alone"


def summary(folder: Path) -> bytes:
    return (folder / "summary.csv").read_bytes()


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_shards_through_a_launcher_equal_one_process(launcher: str, alone: Path, tmp_path: Path) -> None:
    module, extra = workers.LAUNCHERS[launcher]
    pytest.importorskip(f"hydra_plugins.{module}", reason=f"extra {extra} is not installed")
    succeed("limit=8", "-m", "shards=2", "shard=0,1", f"hydra/launcher={launcher}", "out=shared", folder=tmp_path)
    done = subprocess.run([sys.executable, "-m", "bench.report", "shared"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert summary(tmp_path / "shared") == summary(alone)


def test_one_of_four_workers_is_killed_and_the_next_call_goes_on(alone: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("limit=8", "workers=4", "out=torn"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        victim = None
        for _ in range(6000):  # as soon as it is there: before it has finished its one chunk
            victim = next(iter(children(process.pid)), None)
            if victim or process.poll() is not None:
                break
            time.sleep(0.01)
        assert victim
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "ended early; finished chunks are kept" in said and "Traceback" not in said
    done = len(list((tmp_path / "torn").rglob("chunk-*.parquet")))
    assert done == 3 * 2  # three workers with a chunk each, two methods
    said = succeed("limit=8", "workers=2", "out=torn", folder=tmp_path)
    assert "nothing was computed" not in said
    assert summary(tmp_path / "torn") == summary(alone)


def children(pid: int) -> list[int]:
    """Processes that `pid` started, from /proc."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    done = subprocess.run(
        command("limit=8", "workers=2", "layer=layer9"), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == done.stderr.splitlines()
    assert "layer9" in done.stderr and done.stderr.count("\n") == 1


def test_a_launcher_without_its_plugin_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(_name: str) -> None:
        return None

    monkeypatch.setattr(workers, "find_spec", find_nothing)
    for name, (_, extra) in workers.LAUNCHERS.items():
        with pytest.raises(UserError, match=rf"cam-bench\[{extra}\]"):
            workers.check_launcher(["-m", "limit=3", f"hydra/launcher={name}"])
    words: Sequence[str] = ["hydra/launcher=basic", "out=joblib"]
    workers.check_launcher(words)
