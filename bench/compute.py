"""One chunk of cases: shared passes, maps, metrics, rows, files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torchvision.utils import save_image

from bench import store
from bench.capture import capture
from bench.explain import Explain, Maps
from bench.heatmaps import degenerate, upsample
from bench.loading import Bad
from bench.models import Network
from bench.plan import FUSED, Job
from bench.rows import case_rows, map_columns, metric_columns, schema_of
from bench.scorer import Scorer
from bench.transforms import Sample, collate
from bench.types import Batch, Part


@dataclass(frozen=True, eq=False)
class Setting:
    """What stays the same for all chunks of a run."""

    network: Network
    layers: list[str]
    metrics: list[Part]
    geometry: str
    device: torch.device
    gallery: set[str]
    images: Path
    save_maps: bool


def compute_chunk(
    setting: Setting,
    stream: Iterator[Sample | Bad],
    number: int,
    index: int,
    jobs: Sequence[Job],
    sizes: tuple[int, int],
    progress: Any,
) -> None:
    """Compute these jobs for the chunk of the stream's next `number` cases: shared passes, then one file per job."""
    rows: dict[Path, list[dict[str, Any]]] = {job.folder: [] for job in jobs}
    seconds = {job.folder: {"capture": 0.0, "method": 0.0, "metrics": 0.0} for job in jobs}
    skipped: list[dict[str, str]] = []
    for samples in batches(stream, number, sizes[0], skipped, progress):
        compute_batch(setting, samples, jobs, sizes[1], rows, seconds, progress)
    for job in jobs:
        note = {
            "key": job.key,
            "skipped": skipped,
            "seconds": seconds[job.folder],
            "batch": sizes[0],
            "score_batch": sizes[1],
            "device": str(setting.device),
        }
        found = rows[job.folder]
        store.write_chunk(store.chunk_path(job.folder, index), found, schema_of(found), note)


def batches(
    stream: Iterator[Sample | Bad], number: int, size: int, bad: list[dict[str, str]], progress: Any
) -> Iterator[list[Sample]]:
    """Yield the next `number` cases of the stream in batches; one that cannot be decoded is noted in `bad`."""
    ready: list[Sample] = []
    for sample in islice(stream, number):
        if isinstance(sample, Bad):
            bad.append(vars(sample))
            progress(1)
            continue
        ready.append(sample)
        if len(ready) == size:
            yield ready
            ready = []
    if ready:
        yield ready


def compute_batch(
    setting: Setting,
    samples: Sequence[Sample],
    jobs: Sequence[Job],
    score_batch: int,
    rows: dict[Path, list[dict[str, Any]]],
    seconds: dict[Path, dict[str, float]],
    progress: Any,
) -> None:
    """One shared forward and backward pass, then every job's maps, metrics and rows."""
    batch = collate(samples, setting.network.spec, setting.device)
    fused = any(job.layer.startswith(FUSED) for job in jobs)
    layers = [name for name in setting.layers if fused or name in {job.layer for job in jobs}]
    gradients = any("grads" in job.method.wants for job in jobs)
    began = time.perf_counter()
    captured = capture(setting.network.module, channels_last(batch.images), batch.targets, layers, gradients=gradients)
    batch = replace(batch, targets=captured.targets)
    shared = (time.perf_counter() - began) / len(jobs)
    score = Scorer(setting.network.module, batch.targets, score_batch)
    about = case_rows(batch, captured.logits)
    save_images(setting, batch)
    size = batch.images.shape[2:]
    made = Maps(setting.network.module, batch, captured, score)
    explain = Explain(made, jobs, jobs[0])
    for job in jobs:
        began = time.perf_counter()
        maps = made.of(job)
        mapped = time.perf_counter()
        heatmaps = upsample(maps, size)
        columns = metric_columns(setting.metrics, heatmaps, batch, score, replace(explain, job=job))
        kept = [setting.save_maps or name in setting.gallery for name in batch.ids]
        for row in zip(about, map_columns(maps, degenerate(maps), kept), columns, strict=True):
            rows[job.folder].append({key: value for part in row for key, value in part.items()})
        spent = seconds[job.folder]
        spent["capture"] += shared
        spent["method"] += mapped - began
        spent["metrics"] += time.perf_counter() - mapped
        progress(len(samples) / len(jobs))


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Images in the memory format of the network, twice as fast on a CPU."""
    return images.contiguous(memory_format=torch.channels_last)


def save_images(setting: Setting, batch: Batch) -> None:
    """Keep the input pictures of the gallery's cases beside the results, for the report."""
    spec = setting.network.spec
    for case_id, image in zip(batch.ids, batch.images, strict=True):
        path = setting.images / f"{store.image_name(case_id)}.png"
        if case_id in setting.gallery and not path.is_file():
            mean, std = (torch.tensor(v, device=image.device).view(-1, 1, 1) for v in (spec.mean, spec.std))
            pixels = (image * std + mean).clamp(0, 1)
            store.write_atomically(path, partial(save_image, pixels, format="png"))
