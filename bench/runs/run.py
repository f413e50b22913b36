"""Cases -> heatmaps -> metrics -> rows, chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.analysis.merged import merge
from bench.datasets.loading import refuse_many_bad, samples
from bench.runs import store
from bench.runs.batch import Setting, compute_chunk
from bench.runs.cost import passes_of
from bench.runs.execution import Speed, choose_speed, forwards, memory_format
from bench.runs.plan import Job, gallery_cases, write_configs
from bench.runs.progress import Progress
from bench.runs.provenance import bad_pictures, finish_provenance, left_out, start_provenance
from bench.runs.setup import Prepared, prepare_run
from bench.types import Bound, Case, Dataset, Network


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
    methods: Sequence[Bound],
    metrics: Sequence[Bound],
) -> Outcome:
    """Compute what is asked and not there yet.

    Parameters
    ----------
    config : dict
        As in conf/config.yaml, plain, and checked with `check`.
    network : Network
    data : Dataset or sequence of Case
        The whole data set; `config` chooses from it.
    methods, metrics : sequence of Bound

    Raises
    ------
    UserError
        A setting that makes no sense, or a results folder that cannot be written.
    """
    plan = prepare_run(config, network, data, methods, metrics)
    jobs, chunks, named = plan.jobs, plan.chunks, [str(name) for name in config["gallery"]["images"]]
    mine = [index for index in range(len(chunks)) if index % config["shards"] == config["shard"]]

    def there(job: Job, index: int) -> bool:
        return present(job, index, chunks[index]) and shows(job, plan.protocol, index, chunks[index], named)

    work = [(index, [job for job in jobs if not there(job, index)]) for index in mine]
    work = [(index, pending) for index, pending in work if pending]
    shown = gallery_cases(plan.cases, config["gallery"]["cases"], config["seed"], named)
    setting = setting_of(config, plan, shown)

    @cache
    def choose() -> Speed:
        """Speed of everything new in this run, found at the first need."""
        scored = [
            len(chunks[index]) * passes_of(pending, plan.metrics, plan.channels).scored for index, pending in work
        ]
        return choose_speed(config, plan.network, plan.device, sum(scored), setting.forward)

    write_configs(jobs)
    speeds = start_provenance(
        [job for job in jobs if any(job in some for _, some in work)], config, plan.device, choose
    )

    def speed_of(job: Job) -> Speed:
        return speeds[job.folder]

    # Jobs that were begun at another speed keep it and so need a pass of their own.
    passes = [
        (index, speed, list(group), len(pending))
        for index, pending in work
        for speed, group in groupby(sorted(pending, key=speed_of), speed_of)
    ]
    queue = [case for index, *_ in passes for case in chunks[index]]
    stream = samples(queue, plan.network.spec, plan.geometry, config["loader_workers"], plan.device)
    pictures = len({case.image_id for case in plan.cases})
    stream = refuse_many_bad(stream, config["dataset"]["name"], pictures, plan.whole.most_bad, bad_pictures(jobs))
    smaller: dict[Speed, Speed] = {}
    try:
        with Progress(sum(len(chunks[index]) for index, _ in work), quiet=config["quiet"]) as progress:
            for index, speed, share, pending in passes:
                plan.network.module.to(memory_format=memory_format(speed.channels_last))
                advance = progress.share(len(share) / pending)
                # What memory did not hold once is not tried again.
                asked = smaller.get(speed, speed)
                smaller[speed] = compute_chunk(setting, stream, len(chunks[index]), index, share, asked, advance)
    finally:
        finish_provenance(jobs, plan.whole.bad_records)
    # Other shards may have finished theirs in the meantime.
    others = [(job, index) for job in jobs for index in range(len(chunks)) if index not in mine]
    complete = all(present(job, index, chunks[index]) for job, index in others)
    for job in jobs if complete else []:
        merge(store.Run(job.folder, job.config, {}))
    return Outcome(
        [job.folder for job in jobs], complete, sum(len(p) for _, p in work), [*plan.notes, *left_out(jobs[0])]
    )


def setting_of(config: dict[str, Any], plan: Prepared, shown: set[str]) -> Setting:
    """Give what all chunks of a run have in common; `shown` are the cases of the gallery."""
    network = plan.network
    return Setting(
        network, plan.layers, plan.metrics, plan.geometry, plan.device, config["precision"],
        forwards(network.module, network.spec.size, plan.device, config["precision"]),
        shown, plan.jobs[0].folder.parent / f"_images-{plan.protocol}", config["save_maps"],
    )  # fmt: skip


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
