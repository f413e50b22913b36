"""Cases -> heatmaps -> metrics -> rows, chunk by chunk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torchvision.utils import save_image

from bench import store
from bench.capture import capture
from bench.models import Network, resolve_layers
from bench.passes import offered
from bench.plan import (
    NO_LAYER,
    Job,
    check_targets,
    choose_cases,
    gallery_cases,
    plan_jobs,
    write_configs,
)
from bench.progress import Progress
from bench.provenance import finish_provenance, start_provenance
from bench.rows import case_rows, map_columns, metric_columns, schema_of
from bench.scorer import Scorer
from bench.heatmaps import degenerate, native_map, upsample
from bench.transforms import GEOMETRIES, Sample, collate, prepare
from bench.types import Batch, Case, Dataset, Part, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Setting:
    """What stays the same for all chunks of a run."""

    network: Network
    cases: list[Case]
    metrics: list[Part]
    geometry: str
    device: torch.device
    gallery: set[str]
    images: Path
    save_maps: bool


@dataclass(frozen=True)
class Outcome:
    """What a run did: its result folders, whether all chunks of all shards are there, counts, notes."""

    folders: list[Path]
    complete: bool
    computed: int
    notes: list[str]


def run(
    config: dict[str, Any],
    network: Network,
    data: Dataset | Sequence[Case],
    methods: Sequence[Part],
    metrics: Sequence[Part],
) -> Outcome:
    """Compute what is asked and not there yet.

    Parameters
    ----------
    config : dict
        As in conf/config.yaml, plain, and checked with `check`.
    network : Network
    data : Dataset or sequence of Case
        The whole data set; `config` chooses from it.
    methods, metrics : sequence of Part

    Raises
    ------
    UserError
        A setting that makes no sense, or a results folder that cannot be written.
    """
    whole = data if isinstance(data, Dataset) else Dataset(list(data))
    cases = choose_cases(whole.cases, config["limit"], config["seed"], config["target"])
    has_boxes = any(len(case.boxes) for case in cases)
    geometry = config["transform"] or ("stretch" if has_boxes else "center_crop")
    metrics, notes = usable(metrics, has_boxes)
    device = find_device(config["device"])
    network = replace(network, module=network.module.to(device).to(memory_format=torch.channels_last))
    layers = resolve_layers(network, config["layer"])
    probe = torch.zeros(1, 3, network.spec.size, network.spec.size, device=device)
    outputs = capture(network.module, probe, None, layers, gradients=False).logits.shape[1]
    check_targets(cases, outputs, whole.outputs if config["target"] == "label" else None)

    jobs, protocol = plan_jobs(config, network, cases, methods, metrics, layers, geometry)
    chunks = [cases[start : start + config["chunk"]] for start in range(0, len(cases), config["chunk"])]
    todo = {
        (job.folder, index)
        for job in jobs
        for index, chunk in enumerate(chunks)
        if not store.valid_chunk(store.chunk_path(job.folder, index), job.key, [case.id for case in chunk])
    }
    mine = [index for index in range(len(chunks)) if index % config["shards"] == config["shard"]]
    work = [(index, [job for job in jobs if (job.folder, index) in todo]) for index in mine]
    work = [(index, pending) for index, pending in work if pending]

    setting = Setting(
        network, cases, metrics, geometry, device,
        gallery_cases(cases, config["gallery"], config["seed"]),
        Path(config["out"]) / store.safe_name(config["dataset"]["name"]) / store.safe_name(network.name) / f"_images-{protocol}",
        config["save_maps"],
    )  # fmt: skip
    write_configs(jobs)
    sizes = start_provenance(jobs, config, device)
    total = sum(len(chunks[index]) for index, _ in work)
    with Progress(total, quiet=config["quiet"]) as progress:
        for index, pending in work:
            for batch_sizes, group in groupby(
                sorted(pending, key=lambda j: sizes[j.folder]), lambda j: sizes[j.folder]
            ):
                share = list(group)
                advance = progress.share(len(share) / len(pending))
                compute_chunk(setting, chunks[index], index, share, batch_sizes, advance)
    finish_provenance(jobs, whole.bad_records)
    left = len(todo) - sum(len(pending) for _, pending in work)
    return Outcome([job.folder for job in jobs], left == 0, sum(len(p) for _, p in work), whole.notes + notes)


def check(config: dict[str, Any], methods: Sequence[Part]) -> None:
    """Raise UserError for settings that make no sense."""
    if not methods:
        raise UserError("no method to run; name one or several with method=")
    least = {"chunk": 1, "batch": 1, "score_batch": 1, "shards": 1, "gallery": 0, "seed": 0}
    for key, lowest in least.items():
        value = config[key]
        if not (value is None and key == "score_batch") and (type(value) is not int or value < lowest):
            raise UserError(f"{key}={value} must be a whole number from {lowest}")
    if config["shard"] not in range(config["shards"]):
        raise UserError(f"shard={config['shard']} must be from 0 to shards - 1 = {config['shards'] - 1}")
    if config["transform"] not in (None, *GEOMETRIES):
        raise UserError(f"transform={config['transform']} is unknown; it takes {', '.join(GEOMETRIES)}")


def usable(metrics: Sequence[Part], has_boxes: bool) -> tuple[list[Part], list[str]]:
    """Metrics that this data set allows, and a note for those left out."""
    skipped = [part.name for part in metrics if "boxes" in part.about.get("needs", ()) and not has_boxes]
    notes = [f"left out, because the data set has no boxes: {', '.join(skipped)}"] if skipped else []
    return [part for part in metrics if part.name not in skipped], notes


def find_device(name: str) -> torch.device:
    """Device by its name; ``auto`` takes the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used: {str(error).splitlines()[0]}; try device=cpu") from error


def compute_chunk(
    setting: Setting, cases: Sequence[Case], index: int, jobs: Sequence[Job], sizes: tuple[int, int], progress: Any
) -> None:
    """All pending jobs of one chunk: one shared pass per batch, then one file per job."""
    rows: dict[Path, list[dict[str, Any]]] = {job.folder: [] for job in jobs}
    seconds = {job.folder: {"capture": 0.0, "method": 0.0, "metrics": 0.0} for job in jobs}
    skipped: list[dict[str, str]] = []
    for samples in load_batches(setting, cases, sizes[0], skipped, progress):
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


def load_batches(
    setting: Setting, cases: Sequence[Case], size: int, skipped: list[dict[str, str]], progress: Any
) -> Iterator[list[Sample]]:
    """Decoded cases in batches; a picture that cannot be decoded is left out, logged and noted."""
    samples: list[Sample] = []
    for case in cases:
        try:
            samples.append(prepare(case, setting.network.spec, setting.geometry))
        except (OSError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("%s is left out: %s", case.id, reason)
            skipped.append({"case_id": case.id, "reason": reason})
            progress(1)
        if len(samples) == size:
            yield samples
            samples = []
    if samples:
        yield samples


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
    layers = list(dict.fromkeys(job.layer for job in jobs if job.layer != NO_LAYER))
    gradients = any("grads" in job.method.wants for job in jobs)
    began = time.perf_counter()
    captured = capture(setting.network.module, channels_last(batch.images), batch.targets, layers, gradients=gradients)
    batch = replace(batch, targets=captured.targets)
    shared = (time.perf_counter() - began) / len(jobs)
    score = Scorer(setting.network.module, batch.targets, score_batch)
    about = case_rows(batch, captured.logits)
    save_images(setting, batch)
    for job in jobs:
        began = time.perf_counter()
        layer = captured.layers.get(job.layer)
        offer = offered(setting.network.module, job.layer, layer, captured.logits, batch, score)
        shape = batch.images.shape[2:] if layer is None else layer.acts.shape[2:]
        native = native_map(job.method, offer, (len(batch.ids), *shape))
        mapped = time.perf_counter()
        heatmaps = upsample(native, batch.images.shape[2:])
        columns = metric_columns(setting.metrics, heatmaps, batch, score)
        kept = [setting.save_maps or name in setting.gallery for name in batch.ids]
        for row in zip(about, map_columns(native, degenerate(native), kept), columns, strict=True):
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
