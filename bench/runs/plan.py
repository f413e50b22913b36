"""What a run has to compute: the cases, the jobs (method x layer) and where their results go."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from bench.named import named_function
from bench.runs.store import CONFIG, hash_key, safe_name, write_text
from bench.types import Bound, Case, Network, UserError

NO_LAYER = "-"
FUSED = "fuse_"  # + mean, max or product: the layer of a map fused over all layers of the run
FUSIONS = ("mean", "max", "product")


@dataclass(frozen=True, eq=False)
class Job:
    """One method at one layer, and the folder of its results."""

    method: Bound
    layer: str
    folder: Path
    key: str
    config: dict[str, Any]


def seeded_order(ids: Sequence[str], seed: int) -> list[int]:
    """Shuffle indices into an order that depends on the seed and the ids alone, not on their order."""
    return sorted(range(len(ids)), key=lambda i: hashlib.sha256(f"{seed}/{ids[i]}".encode()).hexdigest())


def choose_cases(cases: Sequence[Case], limit: int | None, seed: int, target: str | int) -> list[Case]:
    """Seeded subset of the cases, in their order, with the asked target.

    Raises
    ------
    UserError
        There are none, or `limit` or `target` makes no sense.
    """
    if not cases:
        raise UserError("the data set holds no cases; widen its selection")
    ids = [case.id for case in cases]
    if len(set(ids)) < len(ids):
        raise ValueError("two cases of the data set have one id")
    if limit is not None:
        if not isinstance(limit, int) or limit < 1:
            raise UserError(f"limit={limit} leaves nothing to do; give a number of cases from 1, or null for all")
        cases = [cases[i] for i in sorted(seeded_order(ids, seed)[:limit])]
    if target == "label":
        return list(cases)
    if target == "predicted":
        return [replace(case, target=()) for case in cases]
    if isinstance(target, int) and target >= 0:
        return [replace(case, target=(target,)) for case in cases]
    raise UserError(f"target={target} is unknown; it takes label, predicted or an output index")


def check_targets(cases: Sequence[Case], classes: int, meant: int | None = None) -> None:
    """Raise UserError where a case asks for an output that the network does not have, or for another class.

    `meant` is the number of outputs of the networks that the targets are made for, None where not known.
    """
    if meant is not None and meant != classes:
        raise UserError(
            f"this data set's classes are mapped to networks with {meant} outputs, but this one has {classes}; "
            "name a map of your own with dataset.class_map=FILE, another model, or target=predicted"
        )
    for case in cases:
        for index in case.target:
            if not 0 <= index < classes:
                raise UserError(
                    f"case {case.id} asks for output {index}, but the network has outputs 0 to {classes - 1}; "
                    "change target=, dataset.class_map= or the model"
                )


def gallery_cases(cases: Sequence[Case], number: int, seed: int, named: Sequence[str] = ()) -> set[str]:
    """Ids of the cases to show: those named by case or image id, then in seeded order, the classes in turn.

    Raises
    ------
    UserError
        A name that no case has.
    """
    known = {name for case in cases for name in (case.id, case.image_id)}
    for name in named:
        if name not in known:
            near = get_close_matches(name, sorted(known), 3, 0.5) or sorted(known)[:3]
            raise UserError(f"gallery.images: no case or image is called {name!r}; there are {', '.join(near)}, …")
    chosen = {case.id for case in cases if case.id in named or case.image_id in named}
    seen: dict[str, int] = {}
    turns = []
    for i in seeded_order([case.id for case in cases], seed):
        name = cases[i].class_name
        seen[name] = seen.get(name, 0) + 1
        turns.append((seen[name], i))
    return chosen | {cases[i].id for _, i in sorted(turns)[:number]}


def fingerprint(cases: Sequence[Case]) -> str:
    """Hash of every case's id, target and boxes."""
    return hash_key([[c.id, c.target, c.boxes.tolist(), c.other_boxes.tolist()] for c in cases])


def plan_jobs(
    config: dict[str, Any],
    network: Network,
    cases: Sequence[Case],
    methods: Sequence[Bound],
    metrics: Sequence[Bound],
    layers: Sequence[str],
    geometry: str,
) -> tuple[list[Job], str]:
    """Every method at every layer (a control that looks at no layer once), with keys; and the protocol's hash.

    A method whose yaml says ``about.fuse`` has one map over all layers and none of a single one.

    The protocol is everything that changes numbers except method and layer: what shares it can be compared.
    The key adds method and layer. Batch size, device and shards are in neither.
    """
    dataset = {**config["dataset"]}
    if dataset.get("root"):
        dataset["root"] = str(Path(dataset["root"]).expanduser().resolve())
    dataset.pop("allow_bad_records", None)  # which cases there are says `cases`
    measured = {
        part.name: {**part.parameters, "about": {**part.about, **curve_points(part, network.module)}}
        for part in metrics
    }
    protocol = {
        "format": 1,
        "dataset": dataset,
        "cases": fingerprint(cases),
        "limit": config["limit"],
        "seed": config["seed"],
        "chunk": config["chunk"],
        "target": config["target"],
        "geometry": geometry,
        "input": vars(network.spec),
        "model": network.name,
        "weights": network.weights_hash,
        "precision": config["precision"],
        "metrics": {name: {k: v for k, v in m.items() if k != "about"} for name, m in measured.items()},
        "versions": {part.name: part.about.get("version", 0) for part in metrics},
    }
    protocol_key = hash_key(protocol)
    several = [FUSED + config["fuse"]] if config["fuse"] and len(layers) > 1 else []
    # Runs of one protocol are shown together: their layers need one order.
    order = {name: index for index, (name, _) in enumerate(network.module.named_modules())}
    jobs = []
    for method in methods:
        own = [*layers, *several] if looks_at_layer(method) else [NO_LAYER]
        if "fuse" in method.about:  # it is defined as a map over several layers
            if len(layers) < 2:
                raise UserError(f"{method.name} needs two layers or more; name them with layer=, or layer=all")
            own = [FUSED + method.about["fuse"]]
        for layer in own:
            asked = {**method.parameters, "version": method.about.get("version", 0), "relu": method.relu}
            of = layers if layer.startswith(FUSED) else layer
            key = hash_key([protocol, method.name, asked, layer, of])
            name = f"{safe_name(method.name)}@{safe_name(layer)}-{key}"
            folder = Path(config["out"]) / safe_name(dataset["name"]) / safe_name(network.name) / name
            description = {
                "dataset": dataset["name"],
                "model": network.name,
                "weights": network.weights,
                "method": method.name,
                "layer": layer,
                "layer_index": order.get(layer, len(order)),
                "layers": of,
                "key": key,
                "protocol": protocol_key,
                "cases": len(cases),
                "chunk": config["chunk"],
                "seed": config["seed"],
                "metrics": measured,
                "method_parameters": asked,
                "protocol_parameters": protocol,
            }
            jobs.append(Job(method, layer, folder, key, description))
    return jobs, protocol_key


def curve_points(metric: Bound, module: nn.Module) -> dict[str, list[str]]:
    """Names of the points of a metric's curves where they depend on the network: what the function in its about says.

    Raises
    ------
    UserError
        ``about.curve_points`` names what may not be named, or a parameter makes no sense, as ``stages=0``.
    """
    target = str(metric.about.get("curve_points") or "")
    if not target:
        return {}
    function = named_function(target, f"{metric.name}: curve_points")
    taken = inspect.signature(function).parameters
    try:
        return {"curve_points": function(module, **{k: v for k, v in metric.parameters.items() if k in taken})}
    except ValueError as error:
        raise UserError(f"{metric.name}: {error}") from error


def looks_at_layer(method: Bound) -> bool:
    """Whether a method's map depends on a layer; the others are computed once."""
    return bool({"acts", "grads", "forward_from", "gradient", "head"} & set(method.wants))


def write_configs(jobs: Sequence[Job]) -> None:
    """Put each job's `_config.yaml` into its folder."""
    for job in jobs:
        text = yaml.safe_dump(job.config, sort_keys=False, allow_unicode=True)
        path = job.folder / CONFIG
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
