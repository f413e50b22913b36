"""The folder of a run's results: a hash of everything that makes rows comparable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.networks.outputs import is_function, target_name
from bench.runs.facts import Facts
from bench.store.files import file_states, hash_key, safe_name
from bench.store.folders import Folder
from bench.store.parts import FORMAT
from bench.types import Case


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
    """Fields of the network's input; no rank means 2, as in older results."""
    return {key: value for key, value in vars(facts.spec).items() if (key, value) != ("rank", 2)}


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
