"""What the shared pass and the scorer cost beside the network alone: `make benchmark` writes RESULTS.md.

Every row is measured side by side with its yardstick in one process: alternating repeats, medians. The
pictures are scikit-image's own photographs, 16 crops of 224x224, the network is efficientnet_lite0.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import yaml
from torch import Tensor, nn

from bench.capture import capture
from bench.config import CONF, GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind, options
from bench.datasets.collage import collage
from bench.heatmaps import native_map
from bench.layers import resolve_layers
from bench.memory import keep_freed_memory
from bench.models import efficientnet_lite0
from bench.passes import offered
from bench.plan import looks_at_layer
from bench.provenance import versions
from bench.scorer import Scorer
from bench.transforms import collate, prepare
from bench.types import Batch, Part, group_logit

PAPER = ["grad_cam", "hirescam", "respond_cam", "grad_entropy", "feature_entropy"]
GRADIENT = ["grad_cam", "hirescam", "xgrad_cam", "grad_cam_pp", "layer_cam"]


def load(group: str, name: str, **parameters: object) -> Part:
    node = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())[name]
    return bind(name, {**node, **parameters}, GIVEN_TO_METHOD if group == "method" else GIVEN_TO_METRIC)


def one_forward_one_backward(model: nn.Module, batch: Batch, layer: str) -> None:
    """Do the least that any gradient method needs: nothing is kept, gradients go down to one layer."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # torch refuses an in-place operation on a leaf

    handle = model.get_submodule(layer).register_forward_hook(keep)
    score = group_logit(model(batch.images), batch.targets).sum()
    handle.remove()
    torch.autograd.grad(score, kept)


def shared_pass(model: nn.Module, batch: Batch, layers: list[str], methods: list[Part]) -> None:
    captured = capture(model, batch.images, batch.targets, layers)
    score = Scorer(model, batch.targets, 4)
    for name in layers:
        layer = captured.layers[name]
        offer = offered(model, name, layer, captured.logits, batch, score)
        for method in methods:
            native_map(method, offer, (len(batch.ids), *layer.acts.shape[2:]))


def alternate(ours: Callable[[], object], yardstick: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, measured in turn after one warm-up each."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, found in zip((ours, yardstick), times, strict=True):
            began = time.perf_counter()
            function()
            if repeat:
                found.append(time.perf_counter() - began)
    return median(times[0]), median(times[1])


def best_batch(model: nn.Module, images: Tensor) -> int:
    """Batch size with the most images per second."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "RESULTS.md")
    arguments = parser.parse_args()
    keep_freed_memory()
    network = efficientnet_lite0(name="efficientnet_lite0", weights="default", layers=["blocks.6.0.bn2.act", "bn2.act"])
    model = network.module.to(memory_format=torch.channels_last)
    cpu = torch.device("cpu")
    batch = collate([prepare(case, network.spec, "stretch") for case in collage(scenes=16)], network.spec, cpu)
    batch.images.data = batch.images.contiguous(memory_format=torch.channels_last)
    default, many = resolve_layers(network, None), resolve_layers(network, "*bn2.act")
    rows = []

    def compare(
        work: str, against: str, ours: Callable[[], object], yardstick: Callable[[], object], goal: str
    ) -> None:
        mine, other = alternate(ours, yardstick, arguments.repeats)
        rows.append(f"| {work} | {against} | {mine * 1e3:.0f} | {other * 1e3:.0f} | {mine / other:.2f} | {goal} |")
        print(rows[-1], flush=True)

    shared = [part for part in map(lambda n: load("method", n), options("method")) if looks_at_layer(part)]
    shared = [part for part in shared if set(part.wants) <= {"acts", "grads", "ids", "targets", "head"}]
    for names, layers, goal in (
        (GRADIENT, many, "at most 1.5"),
        (PAPER, default, "at most 1.3"),
        (PAPER, many, "at most 2.5"),
        ([part.name for part in shared if part.name != "cam"], default, "at most 2.5"),
    ):
        methods = [load("method", name) for name in names]
        label = ", ".join(names) if len(names) < 6 else f"all {len(names)} shared-pass methods"
        compare(
            f"{label} x {len(layers)} layers",
            f"one forward, one backward to {layers[0]}",
            lambda layers=layers, methods=methods: shared_pass(model, batch, layers, methods),
            lambda layers=layers: one_forward_one_backward(model, batch, layers[0]),
            goal,
        )

    size = best_batch(model, batch.images)
    heatmaps = torch.rand(16, 224, 224, generator=torch.Generator().manual_seed(0))
    some = slice(0, 4)
    part = collate([prepare(case, network.spec, "stretch") for case in collage(scenes=4)], network.spec, cpu)
    metrics = [load("metric", name) for name in ("deletion", "insertion")]
    # 27 images between the end points for each of two curves, and the clean and two fully perturbed ones
    number = len(part.ids) * (2 * 27 + 3)
    pool = batch.images.repeat(-(-number // 16), 1, 1, 1)[:number].contiguous(memory_format=torch.channels_last)

    def perturb() -> None:
        score = Scorer(model, part.targets, size)
        for metric in metrics:
            metric.call(heatmaps[some], part, score=score)

    def raw() -> None:
        with torch.inference_mode():
            for images in pool.split(size):
                model(images)

    compare(
        "deletion + insertion, 28 steps, 4 images, eager",
        f"{number} raw forwards, channels_last, batch {size}",
        perturb,
        raw,
        "at most 1.10",
    )

    head = [
        "# Benchmarks",
        "",
        f"`make benchmark` on {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, medians of {arguments.repeats} alternating repeats, milliseconds. "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + ".",
        "",
        "| work | against | ms | ms against | ratio | goal |",
        "| :-- | :-- | --: | --: | --: | --: |",
    ]
    arguments.out.write_text("\n".join(head + rows) + "\n")


if __name__ == "__main__":
    main()
