"""Cases -> heatmaps -> metrics -> rows, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from bench import store
from bench.capture import capture
from bench.compute import Setting, compute_chunk
from bench.layers import resolve_layers
from bench.loading import refuse_many_bad, samples
from bench.models import Network
from bench.plan import (
    FUSIONS,
    Job,
    check_targets,
    choose_cases,
    gallery_cases,
    plan_jobs,
    write_configs,
)
from bench.progress import Progress
from bench.provenance import bad_pictures, finish_provenance, left_out, start_provenance
from bench.speed import Speed, choose_speed, forwards, memory_format, set_precision
from bench.transforms import GEOMETRIES
from bench.types import Case, Dataset, Part, UserError


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
    device = find_device(config["device"], config["shard"])
    set_precision(config["precision"], device)
    if config["threads"]:
        torch.set_num_threads(config["threads"])
    network = replace(network, module=network.module.to(device))
    layers = resolve_layers(network, config["layer"])
    probe = torch.zeros(1, 3, network.spec.size, network.spec.size, device=device)
    outputs = capture(network.module, probe, None, layers, gradients=False).logits.shape[1]
    check_targets(cases, outputs, whole.outputs if config["target"] == "label" else None)

    jobs, protocol = plan_jobs(config, network, cases, methods, metrics, layers, geometry)
    chunks = [cases[start : start + config["chunk"]] for start in range(0, len(cases), config["chunk"])]
    named = [str(name) for name in config["gallery"]["images"]]
    todo = {
        (job.folder, index)
        for job in jobs
        for index, chunk in enumerate(chunks)
        if not (present(job, index, chunk) and shows(job, protocol, index, chunk, named))
    }
    mine = [index for index in range(len(chunks)) if index % config["shards"] == config["shard"]]
    work = [(index, [job for job in jobs if (job.folder, index) in todo]) for index in mine]
    work = [(index, pending) for index, pending in work if pending]

    pending_jobs = [job for job in jobs if any(job in pending for _, pending in work)]
    forward = forwards(network.module, network.spec.size, device, config["precision"])

    @cache
    def choose() -> Speed:
        """Speed of everything new in this run, found at the first need."""
        speed = choose_speed(config, network, device, 0.0)
        works = not speed.compiled or forward(speed) is not network.module
        return replace(speed, compiled=speed.compiled and works)

    write_configs(jobs)
    speeds = start_provenance(pending_jobs, config, device, choose)
    setting = Setting(
        network, layers, metrics, geometry, device, config["precision"], forward,
        gallery_cases(cases, config["gallery"]["cases"], config["seed"], named),
        jobs[0].folder.parent / f"_images-{protocol}",
        config["save_maps"],
    )  # fmt: skip

    def speed_of(job: Job) -> Speed:
        return speeds[job.folder]

    # Jobs that were begun at another speed keep it and so need a pass of their own.
    passes = [
        (index, speed, list(group), len(pending))
        for index, pending in work
        for speed, group in groupby(sorted(pending, key=speed_of), speed_of)
    ]
    queue = [case for index, *_ in passes for case in chunks[index]]
    stream = samples(queue, network.spec, geometry, config["loader_workers"], device)
    pictures = len({case.image_id for case in cases})
    stream = refuse_many_bad(stream, config["dataset"]["name"], pictures, whole.most_bad, bad_pictures(jobs))
    smaller: dict[Speed, Speed] = {}
    try:
        with Progress(sum(len(chunks[index]) for index, _ in work), quiet=config["quiet"]) as progress:
            for index, speed, share, pending in passes:
                network.module.to(memory_format=memory_format(speed.channels_last))
                advance = progress.share(len(share) / pending)
                # What memory did not hold once is not tried again.
                asked = smaller.get(speed, speed)
                smaller[speed] = compute_chunk(setting, stream, len(chunks[index]), index, share, asked, advance)
    finally:
        finish_provenance(jobs, whole.bad_records)
    # Other shards may have finished theirs in the meantime.
    others = [(job, index) for job in jobs for index in range(len(chunks)) if index not in mine]
    complete = all(present(job, index, chunks[index]) for job, index in others)
    return Outcome(
        [job.folder for job in jobs], complete, sum(len(p) for _, p in work), whole.notes + notes + left_out(jobs[0])
    )


def present(job: Job, index: int, cases: Sequence[Case]) -> bool:
    """Whether a job's chunk is on disk, whole and its own."""
    return store.valid_chunk(store.chunk_path(job.folder, index), job.key, [case.id for case in cases])


def shows(job: Job, protocol: str, index: int, cases: Sequence[Case], named: Sequence[str]) -> bool:
    """Whether pictures and maps of the named cases were kept; else the chunk is computed again to keep them."""
    mine = [case.id for case in cases if case.id in named or case.image_id in named]
    if not mine:
        return True
    table, note = store.read_chunk(store.chunk_path(job.folder, index), ["case_id", "map", "degenerate"])
    undecoded = {skipped["case_id"] for skipped in note["skipped"]}
    mapped = {row["case_id"] for row in table.to_pylist() if row["map"] is not None or row["degenerate"] == "nonfinite"}
    folder = job.folder.parent / f"_images-{protocol}"
    pictures = {name for name in mine if (folder / f"{store.image_name(name)}.png").is_file()}
    return set(mine) <= undecoded | (mapped & pictures)


def check(config: dict[str, Any], methods: Sequence[Part]) -> None:
    """Raise UserError for settings that make no sense."""
    if not methods:
        raise UserError("no method to run; name one or several with method=")
    gallery = config["gallery"]
    if not isinstance(gallery, dict) or not isinstance(gallery.get("images"), list):
        raise UserError("gallery has two settings: gallery.cases=NUMBER and 'gallery.images=[ID, …]'")
    least = {
        "chunk": 1, "batch": 1, "score_batch": 1, "shards": 1, "workers": 1,
        "gallery.cases": 0, "seed": 0, "loader_workers": 0, "threads": 1,
    }  # fmt: skip
    for key, lowest in least.items():
        value = gallery["cases"] if key == "gallery.cases" else config[key]
        if (key, value) in (("batch", "auto"), ("score_batch", "auto"), ("loader_workers", None), ("threads", None)):
            continue
        if type(value) is not int or value < lowest:
            raise UserError(f"{key}={value} must be a whole number from {lowest}")
    if config["shard"] not in range(config["shards"]):
        raise UserError(f"shard={config['shard']} must be from 0 to shards - 1 = {config['shards'] - 1}")
    choices = {
        "fuse": (None, *FUSIONS),
        "transform": (None, *GEOMETRIES),
        "compile": ("auto", True, False),
        "precision": ("float32", "tf32", "bfloat16"),
        "estimate": (True, False),
    }
    for key, known in choices.items():
        if config[key] not in known:
            words = ", ".join(str(value).lower() for value in known if value is not None)
            raise UserError(f"{key}={config[key]} is unknown; it takes {words}")


def usable(metrics: Sequence[Part], has_boxes: bool) -> tuple[list[Part], list[str]]:
    """Metrics that this data set allows, and a note for those left out."""
    skipped = [part.name for part in metrics if "boxes" in part.about.get("needs", ()) and not has_boxes]
    notes = [f"left out, because the data set has no boxes: {', '.join(skipped)}"] if skipped else []
    return [part for part in metrics if part.name not in skipped], notes


def find_device(name: str, shard: int = 0) -> torch.device:
    """Device by its name; ``auto`` takes a GPU where there is one, where there are several each shard its own."""
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda", shard % torch.cuda.device_count())
    try:
        return torch.zeros(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used: {str(error).splitlines()[0]}; try device=cpu") from error
