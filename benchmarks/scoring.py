"""What the scorer costs beside raw forward passes: deletion and insertion."""

from __future__ import annotations

import torch

from bench.scorer import Scorer
from benchmarks.common import alternate, best_batch, lite0, load, pictures, row


def rows(repeats: int) -> list[str]:
    """Finished rows of the table, each measured as the median of `repeats` alternating repeats."""
    network = lite0()
    model, batch, part = network.module, pictures(network, 16), pictures(network, 4)
    size = best_batch(model, batch.images)
    heatmaps = torch.rand(len(part.ids), 224, 224, generator=torch.Generator().manual_seed(0))
    metrics = [load("metric", name) for name in ("deletion", "insertion")]
    # 27 images between the end points for each of two curves, and the clean and two fully perturbed ones
    number = len(part.ids) * (2 * 27 + 3)
    pool = batch.images.repeat(-(-number // 16), 1, 1, 1)[:number].contiguous(memory_format=torch.channels_last)

    def perturb() -> None:
        score = Scorer(model, part.targets, size)
        for metric in metrics:
            metric.call(heatmaps, part, score=score)

    def raw() -> None:
        with torch.inference_mode():
            for images in pool.split(size):
                model(images)

    ours, other = alternate([perturb, raw], repeats)
    work = "deletion + insertion, 28 steps, 4 images, eager"
    return [row(work, f"{number} raw forwards, channels_last, batch {size}", ours, other, "at most 1.10")]
