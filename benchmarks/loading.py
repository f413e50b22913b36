"""What loading costs a run: decoding and transforming the COCO sample beside a grad_cam-only run of EfficientNet-Lite0.

``ratio - 1`` over ``ratio`` is the share of the run's wall time that the network waits for pictures.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.config import compose_config, plain
from bench.datasets.coco import coco
from bench.datasets.collage import collage
from bench.datasets.loading import samples
from bench.runs.batch import Setting, compute_batch
from bench.runs.execution import Speed, keep_freed_memory
from bench.runs.facts import Opener
from bench.runs.missing import Needs
from bench.runs.setup import prepare_run
from bench.types import Case
from benchmarks.common import lite0, load

DATA = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "coco"
CPU = torch.device("cpu")
SPEED = Speed(16, 16, True, False)


def pictures() -> tuple[str, list[Case]]:
    """COCO's sample where it lies beside the checkout, else the embedded scenes."""
    if not DATA.is_dir():
        return "48 embedded scenes", collage()
    cases = coco(root=DATA, split="sample2017").cases[:192]
    return f"COCO sample, {len(cases)} cases of {len({case.image_id for case in cases})} pictures", cases


def compute(setting: Setting, stream: Iterable[Any]) -> float:
    """Seconds of one run over the samples, all of which are to be scored."""
    needs = Needs(blocks=(((0,), (0,)),), kept=(), described=False)
    began, running = time.perf_counter(), iter(stream)
    while batch := list(islice(running, SPEED.batch)):
        compute_batch(setting, batch, [None] * len(batch), needs, SPEED, lambda _: None)
    return time.perf_counter() - began


def rows(repeats: int) -> list[str]:
    """One Markdown row ``| work | against | ms | ms against | ratio | goal |``, milliseconds a case."""
    keep_freed_memory()
    label, cases = pictures()
    network = lite0()
    network.module.to(CPU)
    method, metric = load("method", "grad_cam"), load("metric", "energy_pointing_game")
    with tempfile.TemporaryDirectory() as folder:
        config = {**plain(compose_config(["device=cpu", "transform=stretch"])), "out": folder}
        plan = prepare_run(config, Opener(lambda: network, None), cases, [method], [metric], lambda bound: {})
        setting = Setting(
            plan=plan,
            module=network.module,
            forward=lambda speed: network.module,
            precision="float32",
            keeps=lambda job, case: False,
            gallery=set(),
        )
        loaded = list(samples(cases, network.spec, "stretch", None, CPU))
        times: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats + 1):
            for seconds, stream in zip(
                times, (samples(cases, network.spec, "stretch", None, CPU), loaded), strict=True
            ):
                spent = compute(setting, stream)
                if repeat:
                    seconds.append(1e3 * spent / len(cases))
    ours, against = median(times[0]), median(times[1])
    return [
        f"| grad_cam run, {label} | the same, pictures loaded before | {ours:.1f} | {against:.1f} "
        f"| {ours / against:.2f} | at most 1.18 (15 % of the run) |"
    ]


if __name__ == "__main__":
    print("\n".join(rows(3)))
