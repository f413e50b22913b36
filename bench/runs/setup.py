"""What a run needs before it computes: settings checked, cases chosen, network known, jobs and protocol planned."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.datasets.transforms import GEOMETRIES
from bench.runs.execution import set_precision
from bench.runs.facts import Facts, Opener, known_facts, look_at, on_device, remember
from bench.runs.plan import FUSIONS, check_targets, choose_cases, plan_jobs, plan_metrics
from bench.runs.store import FORMAT, Folder, hash_key, safe_name
from bench.types import Bound, Case, Dataset, Job, Metric, UserError


@dataclass(frozen=True, eq=False)
class Prepared:
    """All of a run, ready to be computed: cases in the order of the protocol, metrics that the data allow."""

    whole: Dataset
    cases: list[Case]
    facts: Facts
    device: torch.device
    geometry: str
    jobs: list[Job]
    metrics: list[Metric]
    folder: Folder
    notes: list[str]


def prepare_run(
    config: dict[str, Any],
    network: Opener,
    data: Dataset | Sequence[Case],
    methods: Sequence[Bound],
    metrics: Sequence[Bound],
    defaults: Callable[[Bound], dict[str, Any]],
) -> Prepared:
    """Choose cases, look at an unknown network, and plan.

    `data` is the whole data set, `config` chooses from it; ``defaults(bound)`` gives the parameters of a method or
    metric that its label need not name. UserError for a setting that makes no sense.
    """
    whole = data if isinstance(data, Dataset) else Dataset(list(data))
    check_cases(whole.cases)
    cases = choose_cases(whole.cases, config["limit"], config["seed"], config["target"])
    has_boxes = any(len(case.boxes) for case in whole.cases)
    geometry = config["transform"] or ("stretch" if has_boxes else "center_crop")
    present = {"boxes"} if has_boxes else set()
    metrics, notes = usable(metrics, present | ({"mosaic"} if all(map(is_mosaic, cases)) else set()))
    device = find_device(config["device"], config["shard"])
    set_precision(config["precision"], device)
    # Submitit's local jobs all run at once and nothing else limits them.
    threads = config["threads"] or (1 if os.environ.get("SUBMITIT_EXECUTOR") == "local" else None)
    if threads:
        torch.set_num_threads(threads)
    facts = known_facts(Path(config["out"]), network.request, config["layer"])
    if facts is None:
        facts = look_at(on_device(network, device), config["layer"], device)
    check_targets(cases, facts.outputs, whole.outputs if config["target"] == "label" else None)
    jobs = plan_jobs(methods, facts.layers, facts.index, config["fuse"], defaults)
    folder = protocol_folder(config, facts, whole.cases, geometry)
    remember(folder, network.request, config["layer"], facts)
    return Prepared(
        whole=whole,
        cases=cases,
        facts=facts,
        device=device,
        geometry=geometry,
        jobs=jobs,
        metrics=plan_metrics(metrics, defaults),
        folder=folder,
        notes=whole.notes + notes,
    )


def check_cases(cases: Sequence[Case]) -> None:
    """Raise UserError for a data set without cases."""
    if not cases:
        raise UserError("the data set holds no cases; widen its selection")
    if len({case.id for case in cases}) < len(cases):
        raise ValueError("two cases of the data set have one id")


def protocol_folder(config: dict[str, Any], facts: Facts, cases: Sequence[Case], geometry: str) -> Folder:
    """Folder of the run's protocol: a hash of everything that makes rows comparable, by name and parameters.

    Neither the number of cases nor methods, metrics, batch sizes, devices or paths are part of it.
    """
    left_out = ("root", "allow_bad_records", "_target_")
    parameters = {
        "format": FORMAT,
        "dataset": {key: value for key, value in config["dataset"].items() if key not in left_out},
        "cases": fingerprint(cases),
        "seed": config["seed"],
        "target": config["target"],
        "geometry": geometry,
        "input": {key: list(value) if isinstance(value, tuple) else value for key, value in vars(facts.spec).items()},
        "model": facts.name,
        "weights": facts.weights_hash,
        "probability": "softmax",
        "precision": config["precision"],
    }
    key, dataset = hash_key(parameters), str(config["dataset"]["name"])
    protocol = {
        "format": FORMAT,
        "key": key,
        "dataset": dataset,
        "model": facts.name,
        "weights": facts.weights,
        "parameters": parameters,
    }
    return Folder(Path(config["out"]) / safe_name(dataset) / f"{safe_name(facts.name)}-{key}", protocol)


def fingerprint(cases: Sequence[Case]) -> str:
    """Hash of the id, image, file size, target, boxes and flags of every case, in any order: 16 hex digits.

    The size tells other pictures of the same name from these, also when a data set was moved.
    """
    digest = hashlib.blake2b(digest_size=8)
    for case in sorted(cases, key=lambda case: case.id):
        digest.update(repr((case.id, case.image_id, case.class_name, case.target, file_sizes(case))).encode())
        for values in (case.boxes, case.other_boxes, case.ignore, case.difficult, case.other_difficult):
            digest.update(f"{tuple(values.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def file_sizes(case: Case) -> list[int]:
    """Bytes of the files that a case's picture is read from; none for one that is made."""
    first = next(iter(getattr(case.load, "args", ())), None)
    if isinstance(first, list):  # cells of a mosaic
        return [size for cell in first for size in file_sizes(cell)]
    return [os.path.getsize(first)] if isinstance(first, str) and os.path.isfile(first) else []


def check(config: dict[str, Any], methods: Sequence[Bound]) -> None:
    """Raise UserError for settings that make no sense."""
    if not methods:
        raise UserError("no method to run; name one or several with method=")
    gallery = config["gallery"]
    if not isinstance(gallery, dict) or not isinstance(gallery.get("images"), list):
        raise UserError("gallery has two settings: gallery.cases=NUMBER and 'gallery.images=[ID, …]'")
    least = {
        "batch": 1, "score_batch": 1, "shards": 1, "workers": 1,
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
        "save_maps": ("auto", "all", "none", True, False),
        "estimate": (True, False),
    }
    for key, known in choices.items():
        if config[key] not in known:
            words = ", ".join(str(value).lower() for value in known if value is not None)
            raise UserError(f"{key}={config[key]} is unknown; it takes {words}")


def usable(metrics: Sequence[Bound], present: Collection[str]) -> tuple[list[Bound], list[str]]:
    """Metrics whose needs are `present` (``boxes``, ``mosaic``), and a note for those left out."""
    notes = []
    for need, reason in (("boxes", "there are no boxes"), ("mosaic", "the pictures are no mosaics")):
        skipped = [part.name for part in metrics if need in part.about.get("needs", ()) and need not in present]
        metrics = [part for part in metrics if part.name not in skipped]
        notes += [f"left out, because {reason}: {', '.join(skipped)}"] if skipped else []
    return list(metrics), notes


def is_mosaic(case: Case) -> bool:
    """Whether the boxes of all classes are cells of one grid, of at least 2 x 2."""
    boxes = torch.cat([case.boxes, case.other_boxes])
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = bool((sides == sides[:1]).all()) and bool((boxes[:, :2] % sides[:1] == 0).all())
    return len(boxes) >= 4 and whole


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
