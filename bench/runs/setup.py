"""What a run needs before it computes: settings checked, cases chosen, network known, jobs and protocol planned."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets.transforms import GEOMETRIES, Unfit, prepare
from bench.maps.outside import load_map
from bench.networks.outputs import is_function, target_function, target_name
from bench.runs.execution import set_precision
from bench.runs.facts import Facts, Opener, known_facts, look_at, on_device, remember
from bench.runs.plan import (
    FUSIONS,
    check_targets,
    choose_cases,
    looks_at_layer,
    plan_jobs,
    plan_metrics,
    reads_network,
)
from bench.store.files import file_states, hash_key, safe_name
from bench.store.folders import Folder, beside
from bench.store.parts import FORMAT
from bench.types import Batch, Bound, Case, Dataset, InputSpec, Job, Metric, UserError, printable

# What some metrics need of the data set, and why they are left out without it.
NEEDS = {
    "boxes": "there are no boxes",
    "mosaic": "the pictures are no mosaics",
    "truth": "the truth is not known, as it is for dataset=planted",
    "pictures": "they are for pictures, not for volumes",
    "classes": "a function is explained and no class",
}
LOOKED_AT = 4  # pictures, before a run begins
MOST_MISSING = 0.05  # share of the cases for which a folder may lack a map


@dataclass(frozen=True, eq=False)
class Prepared:
    """All of a run, ready to be computed: cases in the order of the protocol, metrics that the data allow.

    `beside` are results of the same protocol below ``against=``.
    `explains` is the user's function that is explained, see `Batch`; None for classes.
    """

    whole: Dataset
    cases: list[Case]
    facts: Facts
    device: torch.device
    geometry: str
    jobs: list[Job]
    metrics: list[Metric]
    folder: Folder
    notes: list[str]
    beside: list[Folder]
    explains: Callable[[Any, Batch], Tensor] | None = None


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
    explains = target_function(config["target"]) if is_function(config["target"]) else None
    device = find_device(config["device"], config["shard"])
    set_precision(config["precision"], device)
    # Submitit's local jobs all run at once and nothing else limits them.
    threads = config["threads"] or (1 if os.environ.get("SUBMITIT_EXECUTOR") == "local" else None)
    if threads:
        torch.set_num_threads(threads)
    scales = scales_in(config["scale"])
    facts = known_facts(Path(config["out"]), network.request, config["layer"], scales)
    if facts is None:
        facts = look_at(on_device(network, device), config["layer"], device, scales)
    if explains is not None:
        facts = replace(facts, outputs=1, probability="none")
    spec = check_input(cases, whole, facts.spec)
    has_boxes = any(len(case.boxes) for case in whole.cases)
    geometry = config["transform"] or ("stretch" if has_boxes or spec.rank > 2 else "center_crop")
    present = {*whole.offers} | ({"pictures"} if spec.rank == 2 else set())
    present |= {"boxes"} if any(len(case.boxes) for case in cases) else set()
    present |= {"truth"} if any(len(case.parts) for case in cases) else set()
    present |= {"classes"} if explains is None else set()
    methods, without = usable(methods, present)
    if not methods:
        raise UserError(without[0])
    metrics, notes = usable(metrics, present)
    check_targets(cases, facts.outputs, whole.outputs if config["target"] == "label" else None)
    fixed, metrics = maps_in_folders(methods, metrics, cases)
    resized, metrics = other_sizes(scales, methods, metrics, facts.spec.rank)
    jobs = plan_jobs(methods, facts.layers, facts.index, config["fuse"], defaults, scales)
    folder = protocol_folder(config, facts, whole.cases, geometry)
    listed = config["against"] or []
    others = beside(folder, [listed] if isinstance(listed, str) else listed) if listed else []
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
        notes=whole.notes + without + notes + fixed + resized,
        beside=others,
        explains=explains,
    )


def check_cases(cases: Sequence[Case]) -> None:
    """Raise UserError for a data set without cases, or with two of one id."""
    if not cases:
        raise UserError("the data set holds no cases; widen its selection")
    if len({case.id for case in cases}) < len(cases):
        name, _ = Counter(case.id for case in cases).most_common(1)[0]
        raise UserError(f"two cases of the data set have one id, {printable(name)}; give each its own name")


def check_input(cases: Sequence[Case], data: Dataset, spec: InputSpec) -> InputSpec:
    """Return the network's input; UserError where the first pictures do not fit it, or it lacks a channel to show.

    Single pictures that do not fit are left out one by one, as broken ones are.
    """
    if max(data.show, default=0) >= spec.channels:
        raise UserError(f"dataset.show={list(data.show)}: the network's input has channels 0 to {spec.channels - 1}")
    reasons = []
    for case in cases[:LOOKED_AT]:
        try:
            prepare(case, spec, "stretch")
            return spec
        except Unfit as error:
            reasons.append(f"{printable(case.id)}: {printable(error)}")
        except (OSError, ValueError, SyntaxError):
            continue
    if reasons:
        raise UserError(reasons[0])
    return spec


def protocol_folder(config: dict[str, Any], facts: Facts, cases: Sequence[Case], geometry: str) -> Folder:
    """Folder of the run's protocol: a hash of everything that makes rows comparable, by name and parameters.

    Neither the number of cases nor methods, metrics, batch sizes, devices or paths are part of it.
    """
    left_out = ("root", "allow_bad_records", "_target_")
    newer = ("range", "show")  # what is meant without them is what older results have
    parameters = {
        "format": FORMAT,
        "dataset": {
            key: value
            for key, value in config["dataset"].items()
            if key not in left_out and (key, value) not in [(one, None) for one in newer]
        },
        "cases": fingerprint(cases),
        "seed": config["seed"],
        "target": target_name(config["target"]) if is_function(config["target"]) else config["target"],
        "geometry": geometry,
        "input": {key: list(value) if isinstance(value, tuple) else value for key, value in input_of(facts).items()},
        "model": facts.name,
        "weights": facts.weights_hash,
        "probability": facts.probability,
        "precision": config["precision"],
    }
    if facts.settings:  # a user's code, how outputs and layers are read: most networks have none of it
        parameters["network"] = facts.settings
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


def input_of(facts: Facts) -> dict[str, Any]:
    """Fields of the network's input; equal sides are one number, and no rank means 2, as in older results."""
    fields = {key: value for key, value in vars(facts.spec).items() if (key, value) != ("rank", 2)}
    return {**fields, "size": facts.spec.size[0]} if len(set(facts.spec.size)) == 1 else fields


def fingerprint(cases: Sequence[Case]) -> str:
    """Hash of the id, image, files, target, boxes, masks and flags of every case, in any order: 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    states = file_states(file for case in cases for file in case.files)
    for case in sorted(cases, key=lambda case: case.id):
        files = [states.get(file) for file in case.files]
        digest.update(repr((case.id, case.image_id, case.class_name, case.target, files, case.outlines)).encode())
        for values in (case.boxes, case.other_boxes, case.ignore, case.difficult, case.other_difficult):
            digest.update(f"{tuple(values.shape)}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def check(config: dict[str, Any], methods: Sequence[Bound]) -> None:
    """Raise UserError for settings of the right kind that make no sense."""
    if not methods:
        raise UserError("no method to run; name one or several with method=")
    if config["shard"] not in range(config["shards"]):
        raise UserError(f"shard={config['shard']} must be from 0 to shards - 1 = {config['shards'] - 1}")
    choices: dict[str, tuple[Any, ...]] = {
        "fuse": (None, *FUSIONS),
        "transform": (None, *GEOMETRIES),
        "compile": ("auto", True, False),
        "precision": ("float32", "float64", "tf32", "bfloat16"),
        "save_maps": ("auto", "all", "none", True, False),
    }
    for key in ("batch", "score_batch"):
        if config[key] != "auto" and not isinstance(config[key], int):
            raise UserError(f"{key}={config[key]} is unknown; it takes auto, a whole number")
    for key, known in choices.items():
        if config[key] not in known:
            words = ", ".join(str(value).lower() for value in known if value is not None)
            raise UserError(f"{key}={config[key]} is unknown; it takes {words}")


def usable(parts: Sequence[Bound], present: Collection[str]) -> tuple[list[Bound], list[str]]:
    """Methods or metrics whose `NEEDS` are `present`, and notes for those left out."""
    notes = []
    for need, reason in NEEDS.items():
        skipped = [part.name for part in parts if need in part.about.get("needs", ()) and need not in present]
        parts = [part for part in parts if part.name not in skipped]
        notes += [f"left out, because {reason}: {', '.join(skipped)}"] if skipped else []
    return list(parts), notes


def maps_in_folders(
    methods: Sequence[Bound], metrics: Sequence[Bound], cases: Sequence[Case]
) -> tuple[list[str], list[Bound]]:
    """Check the folders that methods read maps from; return notes on missing maps, and the metrics that still apply.

    UserError for a folder that does not exist, or without maps of over `MOST_MISSING` of the cases.
    """
    notes = []
    readers = [method for method in methods if "folder" in method.about]
    names = Counter(Path(method.parameters[method.about["folder"]]).name for method in readers)
    for method in readers:
        root = method.parameters[method.about["folder"]]
        if names[Path(root).name] > 1:
            raise UserError(
                f"two folders of maps are called {Path(root).name}; rename one: a folder's name is its method's name"
            )
        if not Path(root).is_dir():
            raise UserError(f"{method.name}.{method.about['folder']}={root}: no such folder")
        faults = {}
        for case in cases:
            try:
                load_map(root, case.id, case.image_id)
            except ValueError as error:
                faults[case.id] = str(error)
        listed = "; ".join(f"{printable(case)}: {printable(reason)}" for case, reason in list(faults.items())[:3])
        text = f"{root} has no map for {len(faults)} of {len(cases)} cases ({listed}{'; …' if len(faults) > 3 else ''})"
        if len(faults) > MOST_MISSING * len(cases):
            raise UserError(f"{text}; name each like the case or the image, as {printable(cases[0].id)}.npy")
        notes += [text] if faults else []
    again = [metric.name for metric in metrics if readers and "explain" in metric.wants]
    if again:
        notes.append(f"left out, because maps in a folder cannot be made again: {', '.join(again)}")
    return notes, [metric for metric in metrics if metric.name not in again]


def scales_in(setting: float | Sequence[float]) -> list[float]:
    """Scales as their names read, sorted, each once; UserError for none."""
    scales = sorted({float(f"{scale:g}") for scale in (setting if isinstance(setting, list | tuple) else [setting])})
    if not scales:
        raise UserError("scale= names no scale; the network's input size is scale=1")
    return scales


def other_sizes(
    scales: Sequence[float], methods: Sequence[Bound], metrics: Sequence[Bound], rank: int
) -> tuple[list[str], list[Bound]]:
    """Return notes on what other scales leave out, and the metrics that still apply.

    UserError for a volume, which is not resized.
    """
    if list(scales) == [1]:
        return [], list(metrics)
    if rank > 2:
        raise UserError("scale= is for pictures; volumes are not resized")
    notes = []
    if once := [method.name for method in methods if not looks_at_layer(method) and reads_network(method)]:
        notes.append(f"at the plain input size only, because they look at no layer: {', '.join(once)}")
    again = [metric.name for metric in metrics if "explain" in metric.wants]
    if again:
        notes.append(f"left out, because they ask again at the plain input size only (scale=1): {', '.join(again)}")
    return notes, [metric for metric in metrics if metric.name not in again]


def find_device(name: str, shard: int = 0) -> torch.device:
    """Device by its name; ``auto`` takes a GPU where there is one, where there are several each shard its own."""
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda", shard % torch.cuda.device_count())
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", name):
        raise UserError(f"device={name} is unknown; it takes auto, cpu, cuda or cuda:NUMBER")
    try:
        return torch.zeros(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} cannot be used: {str(error).splitlines()[0]}; try device=cpu") from error
