"""What loading costs a run: decoding and transforming the COCO sample beside a grad_cam-only run of EfficientNet-Lite0.

``ratio - 1`` over ``ratio`` is the share of the run's wall time that the network waits for pictures.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from bench.runs.memory import keep_freed_memory

from bench.config import CONF, GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind, build
from bench.datasets.coco import coco
from bench.datasets.collage import collage
from bench.datasets.loading import samples
from bench.options import conf_node
from bench.runs.batch import Setting, compute_chunk
from bench.runs.execution import Speed
from bench.runs.plan import plan_jobs
from bench.types import Bound, Case

DATA = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[2] / "shared" / "data")) / "coco"
CPU = torch.device("cpu")
SPEED = Speed(16, 16, True, False)


def part(group: str, name: str, given: tuple[str, ...]) -> Bound:
    return bind(name, yaml.safe_load((CONF / group / f"{name}.yaml").read_text())[name], given)


def pictures() -> tuple[str, list[Case]]:
    """COCO's sample where it lies beside the checkout, else the embedded scenes."""
    if not DATA.is_dir():
        return "48 embedded scenes", collage()
    cases = coco(root=DATA, split="sample2017").cases[:192]
    return f"COCO sample, {len(cases)} cases of {len({case.image_id for case in cases})} pictures", cases


def compute(setting: Setting, jobs: list[Any], stream: Iterable[Any], cases: list[Case]) -> float:
    """Seconds of one run over the cases."""
    began = time.perf_counter()
    running: Iterator[Any] = iter(stream)
    for index, start in enumerate(range(0, len(cases), 64)):
        compute_chunk(setting, running, len(cases[start : start + 64]), index, jobs, SPEED, lambda _: None)
    return time.perf_counter() - began


def rows(repeats: int) -> list[str]:
    """One Markdown row ``| work | against | ms | ms against | ratio | goal |``, milliseconds a case."""
    keep_freed_memory()
    label, cases = pictures()
    network = build("model", conf_node("model", "efficientnet_lite0"))
    network.module.to(memory_format=torch.channels_last)
    metrics = [part("metric", "energy_pointing_game", GIVEN_TO_METRIC)]
    method = part("method", "grad_cam", GIVEN_TO_METHOD)
    config = {
        "dataset": {"name": "coco"}, "limit": None, "seed": 0, "chunk": 64, "target": "label", "fuse": None,
        "precision": "float32",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        jobs, _ = plan_jobs({**config, "out": folder}, network, cases, [method], metrics, network.layers, "stretch")
        setting = Setting(
            network, network.layers, metrics, "stretch", CPU, "float32", lambda _: network.module, set(), Path(folder),
            False,
        )  # fmt: skip
        loaded = list(samples(cases, network.spec, "stretch", None, CPU))
        times: tuple[list[float], list[float]] = ([], [])
        for repeat in range(repeats + 1):
            for found, stream in (
                (times[0], samples(cases, network.spec, "stretch", None, CPU)),
                (times[1], loaded),
            ):
                seconds = compute(setting, jobs, stream, cases)
                if repeat:
                    found.append(1e3 * seconds / len(cases))
    ours, against = median(times[0]), median(times[1])
    return [
        f"| grad_cam run, {label} | the same, pictures loaded before | {ours:.1f} | {against:.1f} "
        f"| {ours / against:.2f} | at most 1.18 (15 % of the run) |"
    ]


if __name__ == "__main__":
    print("\n".join(rows(3)))
