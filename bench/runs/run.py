"""What is missing of a run is computed batch by batch and written part by part."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import Any

import torch

from bench.datasets.loading import Bad, refuse_many_bad, samples
from bench.datasets.transforms import Sample
from bench.networks.running import running_of
from bench.runs.batch import Setting, Stored, compute_batch, read_stored
from bench.runs.cost import passes_of
from bench.runs.execution import Speed, choose_speed, forwards, memory_format
from bench.runs.facts import Opener, on_device
from bench.runs.missing import Needs, Notes, Piece, missing, needs_network, read_notes, scales_to_see
from bench.runs.plan import gallery_cases, sizes_of
from bench.runs.progress import Progress
from bench.runs.provenance import facts, kept_or_chosen, left_out
from bench.runs.rows import Writer
from bench.runs.setup import Prepared
from bench.store.files import image_name
from bench.store.folders import Folder, damaged
from bench.store.parts import CHUNK
from bench.types import Job, at_scale

log = logging.getLogger(__name__)
SMALL = 32 * 32  # positions of the largest map that is kept without being asked for


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run did.

    `folder` is None for an estimate. `complete` says whether everything asked for is on disk, also what other shards
    compute; `computed` counts the cases of which something was computed. `cases`, `entries` and `metrics` are ids and
    keys of what was asked for. `passes` and `saved` are perturbed images that went through the network, and those
    that equal maps made needless. `beside` are results of other methods to compare with.
    """

    folder: Folder | None
    complete: bool
    computed: int = 0
    cases: list[str] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    passes: int = 0
    saved: int = 0
    notes: list[str] = field(default_factory=list)
    beside: list[Folder] = field(default_factory=list)


def run(config: dict[str, Any], network: Opener, plan: Prepared) -> Outcome:
    """Compute what is asked for and not on disk yet.

    `config` is as in conf/config.yaml, plain, and checked by `bench.runs.setup.checks.check`; `network` is opened only
    where something needs it. UserError where the results folder cannot be written.
    """
    gallery = gallery_cases(plan.cases, config["gallery"]["cases"], [str(n) for n in config["gallery"]["images"]])
    keeps = partial(keeps_map, plan, str(config["save_maps"]).lower(), gallery)
    chunks = range(-(-len(plan.cases) // CHUNK))
    own = [chunk for chunk in chunks if chunk % config["shards"] == config["shard"]]

    def lacking(notes: Notes) -> list[Piece]:
        return missing(plan.cases, notes, plan.jobs, plan.metrics, keeps, partial(lacks_picture, plan, gallery))

    notes = read_notes(plan.folder, own)
    pieces = lacking(notes)
    writer = Writer(plan, facts(config, plan.device), [note for parts in notes.values() for _, note in parts])
    passes = saved = 0
    if pieces:
        setting = setting_of(config, plan, network, keeps, gallery, pieces)
        writer.module, writer.running = setting.module, setting.running
        writer.speed = speed_for(config, plan, network, setting, pieces, writer.made)
        try:
            with Progress(sum(len(p.cases) for p in pieces), quiet=config["quiet"], name=config["worker"]) as progress:
                for needs, batch, stored in batches(config, plan, pieces, writer, progress):
                    tries = [batch]
                    while tries:
                        part, before = tries.pop(0), progress.done
                        about = [stored.get(sample.case.id) for sample in part]
                        try:
                            computed = compute_batch(setting, part, about, needs, writer.speed, progress.advance)
                        except torch.OutOfMemoryError:
                            tries, progress.done = halves(part, writer) + tries, before
                            continue
                        passes, saved = passes + computed.passes, saved + computed.saved
                        writer.add(part, computed)
        finally:
            writer.finish(plan.whole.bad_records)
    if not pieces and damaged(plan.folder):
        writer.finish(plan.whole.bad_records)
    others = [chunk for chunk in chunks if chunk not in own]
    return Outcome(
        folder=plan.folder,
        complete=not others or not lacking(read_notes(plan.folder, others)),
        computed=sum(len(piece.cases) for piece in pieces),
        cases=[case.id for case in plan.cases],
        entries=[job.key for job in plan.jobs],
        metrics=[metric.key for metric in plan.metrics],
        passes=passes,
        saved=saved,
        notes=[*plan.notes, *left_out(writer.notes)],
        beside=plan.beside,
    )


def keeps_map(plan: Prepared, save_maps: str, gallery: set[str], job: Job, case_id: str) -> bool:
    """Whether a job's map of a case is kept: small ones unless told otherwise, and all of the gallery's cases."""
    if case_id in gallery or save_maps in ("all", "true"):
        return True
    sizes = {at_scale(layer, abs(scale)) for layer, scale in job.members}  # one for a mean over the mirror image
    if save_maps != "auto" or len(sizes) > 1 or not job.layers or job.method.about.get("size") == "input":
        return False
    return math.prod(plan.facts.shapes[sizes.pop()][1:]) <= SMALL


def lacks_picture(plan: Prepared, gallery: set[str], case_id: str) -> bool:
    """Whether the gallery shows the case and its picture is not on disk."""
    return case_id in gallery and not (plan.folder.images / f"{image_name(case_id)}.png").is_file()


def setting_of(
    config: dict[str, Any],
    plan: Prepared,
    network: Opener,
    keeps: Callable[[Job, str], bool],
    gallery: set[str],
    pieces: Sequence[Piece],
) -> Setting:
    """Collect what all batches have in common; the network is loaded where a piece needs it."""
    needed = any(needs_network(needs, plan.jobs, plan.metrics) for needs in {piece.needs for piece in pieces})
    opened = on_device(network, plan.device) if needed else None
    module: Any = opened and opened.module
    wanted = {name for metric in plan.metrics for name in metric.bound.wants}
    shape = plan.facts.spec.shape
    precision = config["precision"]
    return Setting(
        plan=plan,
        module=module,
        reshape=opened.reshape if opened else None,
        running=running_of(opened) if opened and "explain" in wanted else (),
        forward=forwards(module, shape, plan.device, precision),
        precision=precision,
        keeps=keeps,
        gallery=gallery,
    )


def speed_for(
    config: dict[str, Any],
    plan: Prepared,
    network: Opener,
    setting: Setting,
    pieces: Sequence[Piece],
    made: dict[str, Any],
) -> Speed:
    """Batch sizes and memory format: those that the folder was begun with, else as asked for or measured."""
    if setting.module is None:
        return Speed(batch=CHUNK, score_batch=CHUNK, channels_last=True, compiled=False)
    scored = 0
    for piece in pieces:
        for own, wanted in piece.needs.blocks:
            jobs, metrics = [plan.jobs[j] for j in own], [plan.metrics[m].bound for m in wanted]
            scored += len(piece.cases) * passes_of(jobs, metrics, plan.facts.shapes).scored

    def choose() -> Speed:
        return choose_speed(config, network(), plan.device, scored, setting.forward)

    speed = kept_or_chosen(plan.folder, made, choose)
    setting.module.to(memory_format=memory_format(speed.channels_last))
    return speed


def batches(
    config: dict[str, Any], plan: Prepared, pieces: Sequence[Piece], writer: Writer, progress: Progress
) -> Iterator[tuple[Needs, list[Sample], dict[str, Stored]]]:
    """Yield batches of cases that lack the same, with what is on disk of them; a batch may span chunks.

    Pictures that cannot be decoded are left out and noted by the writer.
    """
    queue = [case for piece in pieces for case in piece.cases]
    seen = [scales_to_see(needs, plan.jobs, plan.metrics) for needs in {piece.needs for piece in pieces}]
    scales = sizes_of(scale for one in seen for own in one.values() for scale in own)
    stream = samples(queue, plan.facts.spec, plan.geometry, config["loader_workers"], plan.device, scales)
    pictures = len({case.image_id for case in plan.cases})
    known = {skipped["image_id"] for note in writer.notes for skipped in note["skipped"]}
    stream = refuse_many_bad(stream, config["dataset"]["name"], pictures, plan.whole.most_bad, known)
    for needs, group in groupby(pieces, key=lambda piece: piece.needs):
        ready: list[Sample] = []
        stored: dict[str, Stored] = {}
        for piece in group:
            stored |= read_stored(piece, plan.jobs)
            writer.pieces.append(piece)
            for sample in islice(stream, len(piece.cases)):
                if isinstance(sample, Bad):
                    writer.skipped[sample.case_id] = vars(sample)
                    progress.advance(1)
                    continue
                ready.append(sample)
                if len(ready) == writer.speed.batch:
                    yield needs, ready, stored
                    for done in ready:
                        stored.pop(done.case.id, None)
                    ready = []
        if ready:
            yield needs, ready, stored


def halves(part: list[Sample], writer: Writer) -> list[list[Sample]]:
    """Both halves of a batch that memory did not hold; later batches are as small.

    Raises
    ------
    torch.OutOfMemoryError
        Memory does not hold a single case either.
    """
    speed = writer.speed
    if len(part) == 1 and speed.score_batch == 1:
        raise torch.OutOfMemoryError("out of memory with one case and one image a pass; use a smaller network or layer")
    torch.cuda.empty_cache()
    if len(part) == 1:  # a method's own passes, which go through the network in batches of the scorer's size
        writer.speed = replace(speed, score_batch=(speed.score_batch + 1) // 2, compiled=False)
        parts = [part]
    else:
        half = (len(part) + 1) // 2
        writer.speed, parts = replace(speed, batch=half), [part[:half], part[half:]]
    log.warning(
        "out of memory: continuing with %d cases, %d perturbed images", writer.speed.batch, writer.speed.score_batch
    )
    return parts
