"""Work shared by several processes: equal numbers whoever does it, and nothing is lost when one dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import cli
from bench.types import UserError

TINY = [
    "model=resnet18", "model.weights=random", "metric=[box_coverage,pointing_game]", "method=[grad_cam,random]",
    "gallery.cases=0", "limit=40",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *TINY, *arguments]


def succeed(*arguments: str, folder: Path) -> str:
    done = subprocess.run(command(*arguments), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of one process for three chunks."""
    folder = tmp_path_factory.mktemp("alone")
    succeed("out=alone", folder=folder)
    return folder / "alone"


def summary(folder: Path) -> bytes:
    return (folder / "summary.csv").read_bytes()


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_shards_through_a_launcher_equal_one_process(launcher: str, alone: Path, tmp_path: Path) -> None:
    module, extra = cli.LAUNCHERS[launcher]
    pytest.importorskip(f"hydra_plugins.{module}", reason=f"extra {extra} is not installed")
    succeed("-m", "shards=2", "shard=0,1", f"hydra/launcher={launcher}", "out=shared", folder=tmp_path)
    done = subprocess.run([sys.executable, "-m", "bench.report", "shared"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert summary(tmp_path / "shared") == summary(alone)


def test_a_killed_worker_is_one_line_and_the_next_call_completes(alone: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("workers=3", "out=torn"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        victim = None
        deadline = time.monotonic() + 120
        while victim is None and process.poll() is None and time.monotonic() < deadline:
            victim = next((child for child in children(process.pid) if "popen_loky" in command_line(child)), None)
            time.sleep(0.01)
        assert victim
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "a worker ended early" in said and "Traceback" not in said
    assert sum("rror" in line for line in said.splitlines()) == 1
    succeed("workers=2", "out=torn", folder=tmp_path)
    assert summary(tmp_path / "torn") == summary(alone)


def test_killed_at_random_moments_and_completed_the_summary_is_the_same(alone: Path, tmp_path: Path) -> None:
    draw = random.Random(7)
    for _ in range(4):
        process = subprocess.Popen(
            command("out=torn"), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(2, 9))
        process.kill()
        process.wait()
    succeed("out=torn", folder=tmp_path)
    assert summary(tmp_path / "torn") == summary(alone)
    assert not list((tmp_path / "torn").rglob("*.damaged"))


def children(pid: int) -> list[int]:
    """Processes that `pid` started, from /proc."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command_line(pid: int) -> str:
    """Command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    done = subprocess.run(
        command("workers=2", "layer=layer9"), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == done.stderr.splitlines()
    assert "layer9" in done.stderr and done.stderr.count("\n") == 1


def test_a_launcher_without_its_plugin_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cli.find_spec", lambda _name: None)
    plugins = {name: extra for name, (module, extra) in cli.LAUNCHERS.items() if module}
    assert len(plugins) == 4
    for name, extra in plugins.items():
        with pytest.raises(UserError, match=rf"cam-bench\[{extra}\]"):
            cli.check_launcher(["-m", "limit=3", f"hydra/launcher={name}"])
    cli.check_launcher(["hydra/launcher=basic", "out=joblib"])
