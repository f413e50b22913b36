"""What a run wants and the results folder does not hold yet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.runs.plan import reads_network
from bench.store.folders import Folder, set_aside
from bench.store.parts import CHUNK, read_part
from bench.types import Case, Job, Metric, at_scale

log = logging.getLogger(__name__)
Notes = dict[int, list[tuple[Path, dict[str, Any]]]]  # sound parts and their notes by chunk


@dataclass(frozen=True)
class Needs:
    """What some cases lack.

    `blocks` are indices of jobs and of metrics: each of these jobs lacks each of these metrics, its map, or both. Maps
    of the jobs in `kept` are on disk, of those or of what they are made of, and if `described` what the network says of
    the case.
    """

    blocks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    kept: tuple[int, ...]
    described: bool

    @property
    def jobs(self) -> list[int]:
        """Indices of all jobs, in order."""
        return sorted(job for jobs, _ in self.blocks for job in jobs)


@dataclass(frozen=True, eq=False)
class Piece:
    """Cases of one chunk that lack the same; `parts` hold what is known of them."""

    chunk: int
    cases: list[Case]
    needs: Needs
    parts: list[Path]


@dataclass(eq=False)
class Held:
    """What the parts of one chunk hold, by case id."""

    scores: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    maps: dict[str, set[str]] = field(default_factory=dict)
    described: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    def add(self, note: dict[str, Any]) -> None:
        """Add what a part's note names."""
        self.skipped |= {skipped["case_id"] for skipped in note["skipped"]}
        self.described |= set(note["cases"])
        for entry in note["entries"]:
            kept = {case for case, flag in zip(note["cases"], entry["maps"], strict=True) if flag == "1"}
            self.maps.setdefault(entry["key"], set()).update(kept)
            for key in ("", *(metric["key"] for metric in note["metrics"].values())):
                self.scores.setdefault((entry["key"], key), set()).update(note["cases"])


def read_notes(folder: Folder, chunks: Iterable[int]) -> Notes:
    """Sound parts and their notes by chunk; damaged ones are named and set aside, to be computed again."""
    notes: Notes = {chunk: [] for chunk in chunks}
    for path in folder.parts:
        number = int(path.name.split("-")[1])
        if number not in notes:
            continue
        try:
            note = read_part(path, [])[1]
            if note["protocol"] != folder.protocol["key"]:
                raise ValueError(f"{path} belongs to another protocol")
        except (ValueError, OSError) as error:
            log.warning("%s; it is set aside and computed again", error)
            set_aside(path)
            continue
        notes[number].append((path, note))
    return notes


def missing(
    cases: Sequence[Case],
    notes: Notes,
    jobs: Sequence[Job],
    metrics: Sequence[Metric],
    keeps: Callable[[Job, str], bool],
    lacks_picture: Callable[[str], bool],
) -> list[Piece]:
    """List what is wanted and not held, as pieces of cases that lack the same, pieces of equal needs together.

    `cases` are all in the order of the protocol, `notes` those of the chunks to look at. ``keeps(job, case id)`` says
    whether a map is to be kept, ``lacks_picture(case id)`` whether the gallery lacks the case's picture.
    """
    pieces: dict[Needs, list[Piece]] = {}
    for chunk, parts in notes.items():
        held = Held()
        for _, note in parts:
            held.add(note)
        groups: dict[Needs, list[Case]] = {}
        for case in cases[CHUNK * chunk : CHUNK * (chunk + 1)]:
            if case.id in held.skipped:
                continue
            needs = needs_of(case, held, jobs, metrics, keeps)
            if needs.blocks or lacks_picture(case.id):
                groups.setdefault(needs, []).append(case)
        for needs, members in groups.items():
            pieces.setdefault(needs, []).append(Piece(chunk, members, needs, [path for path, _ in parts]))
    return [piece for group in pieces.values() for piece in group]


def needs_of(
    case: Case, held: Held, jobs: Sequence[Job], metrics: Sequence[Metric], keeps: Callable[[Job, str], bool]
) -> Needs:
    """List what one case lacks."""
    lacking: dict[tuple[int, ...], list[int]] = {}
    for i, job in enumerate(jobs):
        absent = tuple(
            m for m, metric in enumerate(metrics) if case.id not in held.scores.get((job.key, metric.key), ())
        )
        has_row = case.id in held.scores.get((job.key, ""), ())
        if absent or not has_row or (keeps(job, case.id) and case.id not in held.maps.get(job.key, ())):
            lacking.setdefault(absent, []).append(i)
    blocks = tuple((tuple(own), absent) for absent, own in lacking.items())
    on_disk = {i for i, job in enumerate(jobs) if case.id in held.maps.get(job.key, ())}
    wanted = {i for own in lacking.values() for i in own}
    members = {place for i in wanted - on_disk for place in places_of(jobs[i])}
    parts = {i for i in on_disk if len(jobs[i].members) == 1 and places_of(jobs[i])[0] in members}
    return Needs(blocks, tuple(sorted(on_disk & wanted | parts)), case.id in held.described)


def places_of(job: Job) -> list[tuple[str, str]]:
    """Keys, among native maps, of those that a job's map is made of: the method's label, and the layer at a scale."""
    return [(job.label, at_scale(*member)) for member in job.members]


def scales_to_see(needs: Needs, jobs: Sequence[Job], metrics: Sequence[Metric]) -> dict[int, set[float]]:
    """Scales at which each job whose map is made now has to see the picture: those of which no map is on disk.

    Where a metric asks again, all maps are made, since it compares with what their pass gave.
    """
    again = asks_again(needs, metrics)
    held = {place for i in needs.kept if len(jobs[i].members) == 1 and not again for place in places_of(jobs[i])}
    return {
        j: {at for (_, at), place in zip(jobs[j].members, places_of(jobs[j]), strict=True) if place not in held}
        for j in needs.jobs
        if again or j not in needs.kept
    }


def asks_again(needs: Needs, metrics: Sequence[Metric]) -> bool:
    """Whether a metric that is lacking asks methods for further maps."""
    return any("explain" in metrics[m].bound.wants for _, wanted in needs.blocks for m in wanted)


def needs_pass(needs: Needs, jobs: Sequence[Job], metrics: Sequence[Metric]) -> bool:
    """Whether the images must go through the network at the plain size before any metric looks at a map."""
    seen = scales_to_see(needs, jobs, metrics)
    fresh = any(1.0 in seen[j] for j in read_anew(needs, jobs))
    return bool(needs.blocks) and (fresh or not needs.described or asks_again(needs, metrics))


def needs_network(needs: Needs, jobs: Sequence[Job], metrics: Sequence[Metric]) -> bool:
    """Whether the network must be loaded."""
    scored = any("score" in metrics[m].bound.wants for _, wanted in needs.blocks for m in wanted)
    return scored or bool(read_anew(needs, jobs)) or needs_pass(needs, jobs, metrics)


def read_anew(needs: Needs, jobs: Sequence[Job]) -> list[int]:
    """Jobs whose maps are not on disk and take a pass of the network."""
    return [j for j in needs.jobs if j not in needs.kept and reads_network(jobs[j].method)]
