"""What whole runs cost: two workers beside one, and ten times the cases in memory and time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import measured, row

CHEAP = ["method=grad_cam", "layer=bn2.act", "metric=[box_coverage]", "gallery.cases=0", "quiet=true"]
SCORED = [
    "method=[grad_cam,layer_cam,hirescam]", "layer=bn2.act", "metric=[deletion,insertion]", "compile=false",
    "dataset.scenes=32", "gallery.cases=0", "quiet=true",
]  # fmt: skip


def command(*settings: str) -> tuple[float, float]:
    """Run the benchmark in a process of its own, in an empty folder; gives seconds and peak memory in MB."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "bench", *settings]
        environment = {**os.environ, "PYTHONPATH": path}
        seconds, peak = measured(program, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    return seconds, peak / 2**20


RAW = """
import sys, time, torch
from bench.runs.execution import keep_freed_memory
from benchmarks.common import lite0, pictures
keep_freed_memory()
torch.set_num_threads(int(sys.argv[1]))
network = lite0()
images = pictures(network, 16).images
best = 0.0
with torch.inference_mode():
    for size in (2, 4, 8):
        network.module(images[:size])
    sys.stdin.readline()
    for size in (2, 4, 8):
        began, number = time.perf_counter(), 0
        while time.perf_counter() < began + 4:
            network.module(images[:size])
            number += size
        best = max(best, number / (time.perf_counter() - began))
print(best)
"""


def raw_rate(processes: int, threads: int) -> float:
    """Images per second of bare forward passes at the best batch size, in all processes together, side by side."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RAW, str(threads)], cwd=Path(__file__).parents[1], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        for _ in range(processes)
    ]  # fmt: skip
    time.sleep(15)  # until all have loaded the network
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def rows(repeats: int) -> list[str]:
    """Finished rows; whole processes are measured, so fewer repeats are enough."""
    one, two = [], []
    for _ in range(max(1, repeats // 3)):
        one.append(command(*SCORED, "workers=1")[0])
        two.append(command(*SCORED, "workers=2")[0])
    work = "deletion + insertion, 3 methods, 32 images, eager, workers=2"
    table = [row(work, "workers=1, whole command", min(two), min(one), "1.25 times faster")]
    together, alone = raw_rate(2, 1), raw_rate(1, 2)
    work = "100 images in bare forward passes, two processes of one thread"
    table.append(row(work, "one process of two threads", 100 / together, 100 / alone, ""))

    few, few_memory = command(*CHEAP, "dataset.scenes=200")
    many, many_memory = command(*CHEAP, "dataset.scenes=2000")
    none, _ = command(*CHEAP, "dataset.scenes=8")  # what every run pays once
    memory = (
        f"| peak memory in MB, grad_cam and box coverage, 2,000 cases | 200 cases | {many_memory:.0f} | "
        f"{few_memory:.0f} | {many_memory / few_memory:.2f} | at most 1.1 |"
    )
    print(memory, flush=True)
    table.append(memory)
    each = ((many - none) / (2000 - 8), (few - none) / (200 - 8))
    return [*table, row("time a case, the same, 2,000 cases", "200 cases, start taken off both", *each, "at most 1.1")]
