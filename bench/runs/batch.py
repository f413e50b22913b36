"""One chunk of cases: shared passes, maps, metrics, rows, files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import save_image

from bench.datasets.loading import Bad
from bench.datasets.transforms import Sample, collate
from bench.maps.explain import Explain, Maps, shared_pass
from bench.maps.heatmaps import degenerate, upsample
from bench.maps.scorer import Scorer, clock
from bench.runs import store
from bench.runs.execution import Forward, Speed, memory_format
from bench.runs.plan import FUSED, Job
from bench.runs.rows import case_rows, map_columns, metric_columns, schema_of
from bench.types import Batch, Bound, Network

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Setting:
    """What stays the same for all chunks of a run; `forward` gives the network as a speed wants it."""

    network: Network
    layers: list[str]
    metrics: list[Bound]
    geometry: str
    device: torch.device
    precision: str
    forward: Callable[[Speed], Forward]
    gallery: set[str]
    images: Path
    save_maps: bool


def compute_chunk(
    setting: Setting,
    stream: Iterator[Sample | Bad],
    number: int,
    index: int,
    jobs: Sequence[Job],
    speed: Speed,
    progress: Any,
) -> Speed:
    """Compute these jobs for the chunk of the stream's next `number` cases: shared passes, then one file per job.

    Returns
    -------
    Speed
        As given, with smaller batches where the device's memory did not hold them.
    """
    rows: dict[Path, list[dict[str, Any]]] = {job.folder: [] for job in jobs}
    seconds = {job.folder: {"capture": 0.0, "method": 0.0, "metrics": 0.0} for job in jobs}
    skipped: list[dict[str, str]] = []
    dropped: list[dict[str, Any]] = []
    for samples in batches(stream, number, speed.batch, skipped, progress):
        dropped += [{"case_id": s.case.id, "boxes": s.dropped} for s in samples if s.dropped]
        speed = compute_cases(setting, samples, jobs, speed, rows, seconds, progress)
    for job in jobs:
        note = {
            "key": job.key,
            "skipped": skipped,
            "dropped": dropped,
            "seconds": seconds[job.folder],
            "batch": speed.batch,
            "score_batch": speed.score_batch,
            "device": str(setting.device),
        }
        found = rows[job.folder]
        store.write_chunk(store.chunk_path(job.folder, index), found, schema_of(found), note)
    return speed


def compute_cases(
    setting: Setting,
    samples: Sequence[Sample],
    jobs: Sequence[Job],
    speed: Speed,
    rows: dict[Path, list[dict[str, Any]]],
    seconds: dict[Path, dict[str, float]],
    progress: Any,
) -> Speed:
    """Compute one batch, or its halves one after the other where memory runs out; returns the speed that went well."""
    told: list[float] = []
    spent = {folder: dict.fromkeys(parts, 0.0) for folder, parts in seconds.items()}

    def tell(cases: float) -> None:
        told.append(cases)
        progress(cases)

    found = None
    try:
        found, score_batch = compute_batch(setting, samples, jobs, speed, spent, tell)
    except torch.OutOfMemoryError:
        if len(samples) == 1 and speed.score_batch == 1:
            raise
    if found is None:  # here and not in the handler, whose traceback keeps the batch's tensors
        progress(-sum(told))
        torch.cuda.empty_cache()
        if len(samples) > 1:
            half = (len(samples) + 1) // 2
            speed, parts = replace(speed, batch=half), [samples[:half], samples[half:]]
        else:  # a method's own passes, which go through the network in batches of the scorer's size
            speed, parts = replace(speed, score_batch=(speed.score_batch + 1) // 2, compiled=False), [samples]
        log.warning("out of memory: going on with %d cases, %d perturbed images", speed.batch, speed.score_batch)
        for part in parts:
            speed = compute_cases(setting, part, jobs, speed, rows, seconds, progress)
        return speed
    for folder, new in found.items():
        rows[folder] += new
        for name, value in spent[folder].items():
            seconds[folder][name] += value
    return replace(speed, score_batch=score_batch)


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
    speed: Speed,
    seconds: dict[Path, dict[str, float]],
    progress: Any,
) -> tuple[dict[Path, list[dict[str, Any]]], int]:
    """One shared pass, then every job's maps, metrics and rows; gives the rows and the scorer's batch size."""
    module = setting.network.module
    batch = collate(samples, setting.network.spec, setting.device)
    fused = any(job.layer.startswith(FUSED) for job in jobs)
    layers = [name for name in setting.layers if fused or name in {job.layer for job in jobs}]
    gradients = any("grads" in job.method.wants for job in jobs)
    began = clock(setting.device)
    captured = shared_pass(module, batch, layers, gradients, memory_format(speed.channels_last))
    batch = replace(batch, targets=captured.targets)
    shared = (clock(setting.device) - began) / len(jobs)
    score = Scorer(
        setting.forward(speed),
        batch.targets,
        speed.score_batch,
        pad=speed.compiled,
        bfloat16=setting.precision == "bfloat16",
    )
    about = case_rows(batch, captured.logits, setting.precision)
    save_images(setting, batch)
    size = batch.images.shape[2:]
    made = Maps(module, batch, captured, score)
    explain = Explain(made, jobs, jobs[0], memory_format(speed.channels_last))
    rows: dict[Path, list[dict[str, Any]]] = {}
    measured: dict[tuple[Path, str], list[dict[str, Any]]] = {}

    def draw(job: Job, heatmaps: list[Tensor]) -> None:
        began = clock(setting.device)
        maps = made.of(job)
        mapped = clock(setting.device)
        heatmaps.append(upsample(maps, size))
        kept = [setting.save_maps or name in setting.gallery for name in batch.ids]
        rows[job.folder] = [a | b for a, b in zip(about, map_columns(maps, degenerate(maps), kept), strict=True)]
        done(job, capture=shared, method=mapped - began, metrics=clock(setting.device) - mapped)

    def measure(job: Job, metric: Bound, heatmaps: list[Tensor]) -> None:
        score.rest(lambda: bool(heatmaps))  # the method may wait for scores of its own
        began = clock(setting.device)
        asked = replace(explain, job=job)
        measured[job.folder, metric.name] = metric_columns([metric], heatmaps[0], batch, score, asked)
        done(job, metrics=clock(setting.device) - began)

    def done(job: Job, **parts: float) -> None:
        for name, value in parts.items():
            seconds[job.folder][name] += value
        progress(len(samples) / len(jobs) / (1 + len(setting.metrics)))

    def work() -> Iterator[Callable[[], None]]:
        for job in jobs:
            heatmaps: list[Tensor] = []
            yield partial(draw, job, heatmaps)
            for metric in setting.metrics:
                yield partial(measure, job, metric, heatmaps)

    score.together(work())
    for job in jobs:
        for metric in setting.metrics:  # in their order, whichever was ready first
            for row, columns in zip(rows[job.folder], measured[job.folder, metric.name], strict=True):
                row |= columns
    return rows, score.batch_size


def save_images(setting: Setting, batch: Batch) -> None:
    """Keep the input pictures of the gallery's cases beside the results, for the report."""
    spec = setting.network.spec
    for case_id, image in zip(batch.ids, batch.images, strict=True):
        path = setting.images / f"{store.image_name(case_id)}.png"
        if case_id in setting.gallery and not path.is_file():
            mean, std = (torch.tensor(v, device=image.device).view(-1, 1, 1) for v in (spec.mean, spec.std))
            pixels = (image * std + mean).clamp(0, 1)
            store.write_atomically(path, partial(save_image, pixels, format="png"))
