"""Several processes on one machine that share one command's work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from threading import Lock, Thread

from bench.types import UserError

# Set for a worker: it leaves tables and figures to the process that started it.
WORKER = "CAM_BENCH_WORKER"
PATIENCE = 3.0  # seconds

# Launcher of Hydra's: the module of its plugin, and the extra that brings it.
LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "ray": ("hydra_ray_launcher", "ray"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
}


class WorkerDied(Exception):
    """A worker ended before its work was done."""


def share_work(overrides: Sequence[str], workers: int, shards: int, shard: int) -> None:
    """Run this command in `workers` processes, each with its own shard of the chunks, and wait for all.

    Each gets its share of the cores (``threads``) and, where there are several GPUs, one of its own. What they say
    appears with their number before it. One that dies takes no other with it.

    Parameters
    ----------
    overrides : sequence of str
        Settings of this command.
    workers : int
    shards, shard : int
        Share that this command has itself, which the workers divide further.

    Raises
    ------
    UserError
        What a worker found wrong with the command.
    WorkerDied
        A worker ended in another way; finished chunks are kept.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    mistakes: list[str] = []
    lock = Lock()

    def relay(process: subprocess.Popen[str], number: int) -> None:
        assert process.stderr
        for line in process.stderr:
            with lock:
                if line.startswith("error: "):
                    mistakes.append(line.removeprefix("error: "))
                else:
                    print(f"[{number}/{workers}] {line}", end="", file=sys.stderr, flush=True)

    processes: list[subprocess.Popen[str]] = []
    readers = []
    try:
        for i in range(workers):
            # The command's own threads= comes behind ours and so counts.
            given = [f"threads={threads}", *overrides]
            own = ["workers=1", f"shards={shards * workers}", f"shard={shard + shards * i}"]
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "bench", *given, *own],
                    env={**os.environ, WORKER: "1", "OMP_NUM_THREADS": str(threads)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                )
            )
            readers.append(Thread(target=relay, args=(processes[-1], i + 1)))
            readers[-1].start()
        for process in processes:
            process.wait()
    finally:
        # A terminal's Ctrl-C has reached the workers, too: let them write down what they have.
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process, reader in zip(processes, readers, strict=False):
            process.wait()
            reader.join()
    if mistakes:
        raise UserError(mistakes[0])
    dead = [
        f"worker {i + 1} (status {process.returncode})" for i, process in enumerate(processes) if process.returncode
    ]
    if dead:
        raise WorkerDied(f"{', '.join(dead)} ended early; finished chunks are kept, and the same command goes on")


def check_launcher(words: Sequence[str]) -> None:
    """Raise UserError for a launcher whose plugin is not installed, with the command that brings it."""
    for word in words:
        key, _, name = word.partition("=")
        module, extra = LAUNCHERS.get(name, ("", ""))
        if key == "hydra/launcher" and module and find_spec(f"hydra_plugins.{module}") is None:
            raise UserError(f"hydra/launcher={name} needs a plugin: pip install 'cam-bench[{extra}]'")
