"""What a run needs before it computes: settings checked, cases chosen, network known, jobs and protocol planned."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.networks.outputs import is_function, target_function
from bench.runs.execution import set_precision
from bench.runs.facts import Facts, Opener, known_facts, look_at, on_device, remember
from bench.runs.plan import (
    augmented_scales,
    check_targets,
    choose_cases,
    plan_jobs,
    plan_metrics,
)
from bench.runs.setup.checks import (
    cases_beside,
    check_cases,
    check_input,
    faint,
    find_device,
    maps_in_folders,
    other_views,
    scales_in,
    usable,
    words_of,
)
from bench.runs.setup.protocol import protocol_folder
from bench.store.folders import Folder, beside
from bench.types import Batch, Bound, Case, Dataset, Job, Metric, UserError


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
    scales, augment = scales_in(config["scale"]), words_of(config["augment"])
    seen = sorted({*scales, *(abs(one) for views in augmented_scales(augment, scales).values() for one in views)})
    facts = known_facts(Path(config["out"]), network.request, config["layer"], seen)
    if facts is None:
        facts = look_at(on_device(network, device), config["layer"], device, seen)
    if explains is not None:
        facts = replace(facts, outputs=1, probability="none")
    spec = check_input(cases, whole, facts.spec)
    dark = faint(cases, spec) if config["dataset"].get("range", "") is None else []
    has_boxes = any(len(case.boxes) for case in whole.cases)
    geometry = config["transform"] or ("stretch" if has_boxes or spec.rank > 2 else "center_crop")
    present = {*whole.offers} | ({"pictures"} if spec.rank == 2 else set())
    present |= {"boxes"} if any(len(case.boxes) for case in cases) else set()
    present |= {"truth"} if any(len(case.parts) for case in cases) else set()
    present |= {"classes"} if explains is None else set()
    present |= {"others"} if facts.outputs > 1 else set()
    methods, without = usable(methods, present)
    if not methods:
        raise UserError(without[0])
    metrics, notes = usable(metrics, present)
    check_targets(cases, facts.outputs, whole.outputs if config["target"] == "label" else None)
    fixed, metrics = maps_in_folders(methods, metrics, cases, spec.rank)
    resized, metrics = other_views(scales, augment, methods, metrics)
    jobs = plan_jobs(methods, facts.layers, facts.index, config["fuse"], defaults, scales, augment)
    unfused = []
    if config["fuse"] and not any(job.fuse for job in jobs):
        unfused = [f"fuse={config['fuse']}: nothing to fuse; name several layers or scales with layer= or scale="]
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
        notes=whole.notes + dark + without + notes + fixed + resized + unfused + cases_beside(others, cases),
        beside=others,
        explains=explains,
    )
