"""Several processes on one machine share the work of a run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from bench.store.parts import CHUNK
from bench.types import WorkerDied


def share_work(compute: Callable[[dict[str, Any]], Any], settings: dict[str, Any], workers: int) -> None:
    """Compute in ``workers`` processes on this machine, each with its own chunks and its share of the cores.

    `compute` is called in each with the settings of its share. UserError for what a worker says is wrong with the
    settings, WorkerDied where one ended early.
    """
    shards, threads = settings["shards"], settings["threads"] or max(1, cores() // workers)
    share = {"workers": 1, "threads": threads, "shards": shards * workers, "parent": os.getpid()}
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    executor = get_reusable_executor(workers, env=variables)
    # Ctrl-C reaches all processes of the terminal. The workers leave it to this one: they ignore it from their start,
    # which is here, at the first task.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    executor.submit(int)
    signal.signal(signal.SIGINT, before)
    try:
        places = [{"shard": settings["shard"] + shards * i, "worker": f"worker {i + 1}: "} for i in range(workers)]
        for future in [executor.submit(compute, {**settings, **share, **place}) for place in places]:
            future.result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a worker ended early (killed, or out of memory); finished parts are kept, and the same command continues"
        ) from error
    finally:
        executor.shutdown(kill_workers=True)


def workers_of(settings: dict[str, Any]) -> int:
    """Count the processes to share the work between: no more than cores, or GPUs, and no more than chunks."""
    cards = len(list(Path("/dev").glob("nvidia[0-9]*")))
    chunks = settings["limit"] and -(-settings["limit"] // CHUNK)
    most = min(max(cores(), cards), chunks or settings["workers"])
    if most < settings["workers"] and not settings["quiet"]:
        print(
            f"workers={settings['workers']}: {most} for {cores()} cores and {chunks or 'all'} chunks", file=sys.stderr
        )
    return min(settings["workers"], most)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with(parent: int) -> None:
    """Let this process end within a second when its parent has ended, however that was."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if not any(thread.name == "parent" for thread in threading.enumerate()):
        threading.Thread(target=watch, name="parent", daemon=True).start()
