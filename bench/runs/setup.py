"""What a run needs before it computes: its settings checked, cases chosen, layers resolved, jobs planned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.datasets.transforms import GEOMETRIES
from bench.maps.capture import capture
from bench.networks.layers import resolve_layers
from bench.runs.execution import set_precision
from bench.runs.plan import FUSIONS, Job, check_targets, choose_cases, plan_jobs
from bench.types import Bound, Case, Dataset, Network, UserError


@dataclass(frozen=True, eq=False)
class Prepared:
    """All of a run, ready to be computed.

    Attributes
    ----------
    whole : Dataset
        The data set that the cases were chosen from.
    cases : list of Case
    network : Network
        On the device.
    device : torch.device
    geometry : str
        See `bench.datasets.transforms.prepare`.
    layers : list of str
    channels : dict of int
        Channels K of each layer.
    metrics : list of Bound
        Those that the data set allows.
    chunks : list of list of Case
        The cases by result file.
    jobs : list of Job
    protocol : str
        Hash of everything that changes numbers except method and layer.
    notes : list of str
        For the user.
    """

    whole: Dataset
    cases: list[Case]
    network: Network
    device: torch.device
    geometry: str
    layers: list[str]
    channels: dict[str, int]
    metrics: list[Bound]
    chunks: list[list[Case]]
    jobs: list[Job]
    protocol: str
    notes: list[str]


def prepare_run(
    config: dict[str, Any],
    network: Network,
    data: Dataset | Sequence[Case],
    methods: Sequence[Bound],
    metrics: Sequence[Bound],
) -> Prepared:
    """Choose, resolve and plan, with one look at the network; arguments and errors as in `bench.runs.run.run`."""
    whole = data if isinstance(data, Dataset) else Dataset(list(data))
    cases = choose_cases(whole.cases, config["limit"], config["seed"], config["target"])
    has_boxes = any(len(case.boxes) for case in cases)
    geometry = config["transform"] or ("stretch" if has_boxes else "center_crop")
    metrics, notes = usable(metrics, has_boxes)
    device = find_device(config["device"], config["shard"])
    set_precision(config["precision"], device)
    # Submitit's local jobs all run at once and nothing else limits them.
    threads = config["threads"] or (1 if os.environ.get("SUBMITIT_EXECUTOR") == "local" else None)
    if threads:
        torch.set_num_threads(threads)
    network = replace(network, module=network.module.to(device))
    layers = resolve_layers(network, config["layer"])
    probe = torch.zeros(1, 3, network.spec.size, network.spec.size, device=device)
    seen = capture(network.module, probe, None, layers, gradients=False)
    check_targets(cases, seen.logits.shape[1], whole.outputs if config["target"] == "label" else None)
    channels = {name: layer.acts.shape[1] for name, layer in seen.layers.items()}
    jobs, protocol = plan_jobs(config, network, cases, methods, metrics, layers, geometry)
    chunks = [cases[start : start + config["chunk"]] for start in range(0, len(cases), config["chunk"])]
    if config["workers"] > len(chunks):
        notes.append(
            f"{len(cases)} cases are {len(chunks)} result files of up to {config['chunk']}, so not all of "
            f"{config['workers']} workers have work; chunk={max(1, len(cases) // config['workers'])} shares them evenly"
        )
    return Prepared(
        whole, cases, network, device, geometry, layers, channels, metrics, chunks, jobs, protocol, whole.notes + notes
    )


def check(config: dict[str, Any], methods: Sequence[Bound]) -> None:
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


def usable(metrics: Sequence[Bound], has_boxes: bool) -> tuple[list[Bound], list[str]]:
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
