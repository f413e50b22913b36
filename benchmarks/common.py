"""What the benchmark's rows share: the network, the pictures, and two functions timed side by side."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind
from bench.config import build
from bench.datasets.collage import collage
from bench.datasets.transforms import collate, prepare
from bench.options import conf_node
from bench.runs.execution import set_precision
from bench.types import Batch, Bound, Network

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HEAD = ["| work | against | ms | ms against | ratio | goal |", "| :-- | :-- | --: | --: | --: | --: |"]


def load(group: str, name: str) -> Bound:
    """Bind a method or metric with the parameters of its yaml."""
    return bind(name, conf_node(group, name), GIVEN_TO_METHOD if group == "method" else GIVEN_TO_METRIC)


def lite0() -> Network:
    """Give the pretrained efficientnet_lite0, its module in channels_last as the program runs it."""
    set_precision("float32", DEVICE)
    network = build("model", conf_node("model", "efficientnet_lite0"))
    network.module.to(DEVICE, memory_format=torch.channels_last)
    return network


def pictures(network: Network, number: int) -> Batch:
    """Take as many crops of scikit-image's photographs, in channels_last."""
    cases = collage(scenes=number)
    batch = collate([prepare(case, network.spec, "stretch") for case in cases], network.spec, DEVICE)
    batch.images.data = batch.images.contiguous(memory_format=torch.channels_last)
    return batch


def alternate(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Time functions in turn, after one warm-up each: median seconds of each."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, seconds in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            if DEVICE.type == "cuda":  # which works on while the program goes on
                torch.cuda.synchronize()
            if repeat:
                seconds.append(time.perf_counter() - began)
    return [median(seconds) for seconds in times]


def measured(command: Sequence[str], **options: Any) -> tuple[float, int]:
    """Run a command in a process of its own, without its output: seconds and peak resident bytes.

    The peak is read while it runs, as that of ``wait4`` is never below the memory of the process that started it.
    `options` are those of `subprocess.Popen`. Linux only.
    """
    peak, began = 0, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = status.read_text().splitlines()
            peak = max([peak, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))])
            time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - began, peak


def row(work: str, against: str, ours: float, other: float, goal: str) -> str:
    """Write one row of the table; the ratio is our time to the other's, or the reverse where faster is the goal."""
    ratio = f"{ours / other:.2f}" if goal.startswith("at most") else f"{other / ours:.2f} times faster"
    line = f"| {work} | {against} | {ours * 1e3:.0f} | {other * 1e3:.0f} | {ratio} | {goal} |"
    print(line, flush=True)
    return line


def best_batch(model: nn.Module, images: torch.Tensor) -> int:
    """Find the batch size with the most images per second, forward only."""
    speed = {}
    for size in (1, 2, 4, 8, 16, 32):
        with torch.inference_mode():
            model(images[:size])
            model(images[:size])
            began = time.perf_counter()
            for part in images.split(size):
                model(part)
        speed[size] = time.perf_counter() - began
    return min(speed, key=speed.__getitem__)
