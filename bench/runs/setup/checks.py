"""Settings, data and network checked against each other, and what does not fit them left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from bench.datasets.transforms import GEOMETRIES, Unfit, prepare
from bench.maps.outside import load_map
from bench.runs.plan import (
    AUGMENTS,
    FUSIONS,
    looks_at_layer,
    parameters_of,
    reads_network,
)
from bench.store.folders import Folder
from bench.store.parts import read_part
from bench.types import Bound, Case, Dataset, InputSpec, UserError, printable

# What some metrics need of the data set, and why they are left out without it.
NEEDS = {
    "boxes": "there are no boxes",
    "mosaic": "the pictures are no mosaics",
    "truth": "the truth is not known, as it is for dataset=planted",
    "pictures": "they are for pictures, not for volumes",
    "classes": "a function is explained and no class",
    "others": "the network has one output, and no other class",
}
LOOKED_AT = 4  # pictures, before a run begins
FAINT = 0.1  # standard deviation of a channel of the normalized input
MOST_MISSING = 0.05  # share of the cases for which a folder may lack a map


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
    for word in words_of(config["augment"]):
        if word not in AUGMENTS:
            raise UserError(f"augment={word} is unknown; it takes {', '.join(AUGMENTS)}, or both as a list")
    for key, known in choices.items():
        if config[key] not in known:
            words = ", ".join(str(value).lower() for value in known if value is not None)
            raise UserError(f"{key}={config[key]} is unknown; it takes {words}")


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


def faint(cases: Sequence[Case], spec: InputSpec) -> list[str]:
    """Note where the first pictures have hardly any contrast for the network, as those of 12 bits kept in 16."""
    contrasts = []
    for case in cases[:LOOKED_AT]:
        with suppress(OSError, ValueError, SyntaxError):
            contrasts.append(float(prepare(case, spec, "stretch").image.flatten(1).std(1).max()))
        if contrasts and contrasts[-1] >= FAINT:
            return []
    if not contrasts:
        return []
    return [
        f"the first pictures have hardly any contrast for the network (standard deviation {max(contrasts):.2g}, often "
        "1); name the values that are black and white with dataset.range=[LOW,HIGH]"
    ]


def usable(parts: Sequence[Bound], present: Collection[str]) -> tuple[list[Bound], list[str]]:
    """Methods or metrics whose `NEEDS` are `present`, and notes for those left out."""
    notes = []
    for need, reason in NEEDS.items():
        skipped = [part.name for part in parts if need in part.about.get("needs", ()) and need not in present]
        parts = [part for part in parts if part.name not in skipped]
        notes += [f"left out, because {reason}: {', '.join(skipped)}"] if skipped else []
    return list(parts), notes


def maps_in_folders(
    methods: Sequence[Bound], metrics: Sequence[Bound], cases: Sequence[Case], rank: int
) -> tuple[list[str], list[Bound]]:
    """Check the folders that methods read maps from; return notes on missing maps, and the metrics that still apply.

    UserError for a folder that does not exist, or without maps of over `MOST_MISSING` of the cases.
    """
    notes = []
    readers = [method for method in methods if "folder" in method.about]
    names = Counter(Path(method.parameters[method.about["folder"]]).name for method in readers)
    hold = dict[Any, str]()
    for method in readers:
        root = method.parameters[method.about["folder"]]
        if names[Path(root).name] > 1:
            raise UserError(
                f"two folders of maps are called {Path(root).name}; rename one: a folder's name is its method's name"
            )
        if not Path(root).is_dir():
            raise UserError(f"{method.name}.{method.about['folder']}={root}: no such folder")
        content = tuple(sorted((key, str(value)) for key, value in parameters_of(method).items()))
        if (same := hold.setdefault(content, root)) != root:
            raise UserError(f"{same} and {root} hold the same maps; name one of them")
        faults = {}
        for case in cases:
            try:
                load_map(root, case.id, case.image_id, rank)
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


def words_of(setting: str | Sequence[str] | None) -> list[str]:
    """Words of a setting that takes one or several, none for null."""
    return [setting] if isinstance(setting, str) else list(setting or ())


def other_views(
    scales: Sequence[float], augment: Sequence[str], methods: Sequence[Bound], metrics: Sequence[Bound]
) -> tuple[list[str], list[Bound]]:
    """Return notes on what other scales and mirror images leave out, and the metrics that still apply."""
    if list(scales) == [1] and not augment:
        return [], list(metrics)
    notes = []
    once = [method.name for method in methods if not looks_at_layer(method) and reads_network(method)]
    if once and list(scales) != [1]:
        notes.append(f"at the plain input size only, because they look at no layer: {', '.join(once)}")
    again = [metric.name for metric in metrics if "explain" in metric.wants]
    if again:
        plain = "scale=1, augment=null"
        notes.append(f"left out, because they ask again for plain pictures only ({plain}): {', '.join(again)}")
    return notes, [metric for metric in metrics if metric.name not in again]


def cases_beside(others: Sequence[Folder], cases: Sequence[Case]) -> list[str]:
    """Note how many of a run's cases other results lack, and the ``limit`` that keeps only cases which they have."""
    held = set[str]()
    for folder in others:
        for path in folder.parts:
            with suppress(ValueError, OSError):  # the report names a damaged part
                note = read_part(path, [])[1]
                held.update(note["cases"], (row["case_id"] for row in note["skipped"]))
    same = [case.id in held for case in cases]
    if not others or all(same):
        return []
    first = same.index(False)
    advice = f"; limit={first} compares all methods on the same cases" if first else ""
    return [f"the results in against= have {sum(same)} of the {len(cases)} cases of this run{advice}"]


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
