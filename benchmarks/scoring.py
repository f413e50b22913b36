"""What deletion and insertion cost: against raw forward passes, against the peers, and compiled."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from bench.maps.scorer import Scorer
from bench.runs.execution import Speed, forwards, keep_freed_memory, measure
from bench.types import Batch
from benchmarks.common import DEVICE, alternate, lite0, load, pictures, row

STEPS = 28
IMAGES, SIZES = (4, (4, 8, 16)) if DEVICE.type == "cpu" else (32, (64, 128, 256))
WORK = f"deletion + insertion, {STEPS} steps, {IMAGES} images"


def ours(forward: object, batch: Batch, heatmaps: Tensor, size: int, *, pad: bool = False) -> None:
    score = Scorer(forward, batch.targets, size, pad=pad)
    for name in ("deletion", "insertion"):
        load("metric", name).call(heatmaps, batch, score=score)


def rise(model: nn.Module, batch: Batch, heatmaps: Tensor, blurred: Tensor) -> None:
    """RISE's evaluation: each step writes the next pixels into all images and scores them."""
    number, positions = len(batch.ids), heatmaps[0].numel()
    order = heatmaps.flatten(1).argsort(dim=1, descending=True)
    for start, finish in ((batch.images, torch.zeros_like(batch.images)), (blurred, batch.images)):
        now, then = start.clone(memory_format=torch.contiguous_format).flatten(2), finish.flatten(2)
        for step in range(STEPS + 1):
            with torch.no_grad():
                model(now.view(batch.images.shape)).softmax(1)
            changed = order[:, step * positions // STEPS : (step + 1) * positions // STEPS]
            for i in range(number):
                now[i][:, changed[i]] = then[i][:, changed[i]]


class Extractor:
    """Stands in for torchcam's extractor and returns finished maps."""

    def __init__(self, model: nn.Module, heatmaps: Tensor) -> None:
        self.model, self.heatmaps = model, heatmaps

    def __call__(self, class_idx: object = None, scores: object = None, **_: object) -> list[Tensor]:
        return [self.heatmaps]

    def fuse_cams(self, cams: Sequence[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()


def torchcam(model: nn.Module, batch: Batch, heatmaps: Tensor, size: int) -> None:
    from torchcam.metrics import DeletionInsertionMetric

    # It has one baseline, zero, for both curves.
    metric = DeletionInsertionMetric(
        Extractor(model, heatmaps), lambda logits: logits.softmax(-1), steps=STEPS, batch_size=size
    )
    metric.update(batch.images, [target[0] for target in batch.targets])


def once(who: str, size: int) -> Callable[[], None]:
    """One evaluation as `who` does it, on a network in the memory format that they get."""
    network = lite0()
    if who in ("rise", "torchcam_default"):
        network.module.to(memory_format=torch.contiguous_format)
    model, batch = network.module, pictures(network, IMAGES)
    heatmaps = torch.rand(len(batch.ids), 224, 224, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    contiguous = replace(batch, images=batch.images.contiguous())  # as the runner collates them
    if who == "ours":
        keep_freed_memory()
        return lambda: ours(model, contiguous, heatmaps, size)
    if who == "rise":
        return lambda: rise(model, contiguous, heatmaps, torch.zeros_like(contiguous.images))
    return lambda: torchcam(model, batch, heatmaps, 32 if who == "torchcam_default" else size)


def apart(who: str, size: int, repeats: int) -> float:
    """Median seconds in a process of its own: our allocator settings would make the peers faster, too."""
    code = (
        "from benchmarks import scoring, common; "
        f"print(common.alternate([scoring.once({who!r}, {size})], {repeats})[0])"
    )
    root = Path(__file__).parents[1]
    return float(subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True).stdout)


def rows(repeats: int) -> list[str]:
    """Rows of the table, each a median of `repeats` alternating repeats."""
    network = lite0()
    fastest = measure(network, DEVICE, "float32")
    speed = Speed(16, fastest["batch"], fastest["channels_last"], True)
    model, size = network.module, speed.score_batch
    batch, pool = pictures(network, IMAGES), pictures(network, 16).images
    batch = replace(batch, images=batch.images.contiguous())  # as the runner collates them
    heatmaps = torch.rand(len(batch.ids), 224, 224, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    # Points between the ends of two curves, the clean and two fully perturbed images.
    number = len(batch.ids) * (2 * (STEPS - 1) + 3)
    pool = pool.repeat(-(-number // 16), 1, 1, 1)[:number].contiguous(memory_format=torch.channels_last)

    def raw() -> None:
        with torch.inference_mode():
            for images in pool.split(size):
                model(images)

    # Three times as many repeats: a busy machine's noise is larger than the distance to the goal.
    eager, bare = alternate([lambda: ours(model, batch, heatmaps, size), raw], 3 * repeats)
    table = [row(f"{WORK}, eager", f"{number} raw forwards, batch {size}, channels_last", eager, bare, "at most 1.10")]

    best = min(SIZES, key=lambda n: apart("torchcam_best", n, 1))
    for peer, name, goal in (
        ("rise", "RISE's loop", 1.8),
        ("torchcam_default", "torchcam, its batch of 32", 2.2),
        ("torchcam_best", f"torchcam, channels_last and its best batch of {best}", 1.1),
    ):
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(max(1, repeats // 2)):
            for seconds, who, batch_size in zip(times, ("ours", peer), (size, best), strict=True):
                seconds.append(apart(who, batch_size, 3))
        table.append(row(f"{WORK}, eager", name, median(times[0]), median(times[1]), f"{goal} times faster"))

    forward = forwards(model, network.spec.shape, DEVICE, "float32")(speed)
    if forward is not model:
        compiled, eager = alternate(
            [lambda: ours(forward, batch, heatmaps, size, pad=True), lambda: ours(model, batch, heatmaps, size)],
            repeats,
        )
        table.append(row(f"{WORK}, compiled, without compiling", "eager", compiled, eager, "1.5 times faster"))
    return table
