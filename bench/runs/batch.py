"""One batch of cases: a shared pass, every job's maps, every metric, rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from bench.datasets.transforms import Sample, collate, seen_batch
from bench.maps.capture import Captured
from bench.maps.explain import Explain
from bench.maps.heatmaps import degenerate, map_ids, upsample
from bench.maps.jobs import View, job_map, shared_pass, wanted_of
from bench.maps.scorer import Scorer, clock
from bench.maps.target_scores import read_output
from bench.runs.execution import Forward, Speed, memory_format
from bench.runs.missing import Needs, Piece, needs_pass, places_of, scales_to_see
from bench.runs.rows import CASE, case_rows, map_columns, metric_columns
from bench.runs.setup import Prepared
from bench.store.files import image_name, write_atomically
from bench.store.parts import read_part
from bench.types import Batch, InputSpec, Job, Reshape


@dataclass(frozen=True, eq=False)
class Setting:
    """What stays the same for all batches of a run.

    `module` and `reshape`, as in `Network`, are None where nothing that is missing needs the network; `running`, as in
    `Explain`, is empty where no metric asks;
    ``forward(speed)`` gives it as a speed wants it.
    ``keeps(job, case id)`` says whether a map is kept; `gallery` are the ids of the cases whose pictures are kept.
    """

    plan: Prepared
    module: nn.Module | None
    reshape: Reshape | None
    running: Sequence[str]
    forward: Callable[[Speed], Forward]
    precision: str
    keeps: Callable[[Job, str], bool]
    gallery: set[str]


@dataclass(frozen=True, eq=False)
class Stored:
    """What is on disk of a case: its columns, and kept maps by index of the job."""

    about: dict[str, Any]
    maps: dict[int, np.ndarray]


@dataclass(eq=False)
class Computed:
    """What one batch gave: by index of the job one row a case, and its seconds; the rest is as the scorer says."""

    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[int, dict[str, float]] = field(default_factory=dict)
    score_batch: int = 0
    passes: int = 0
    saved: int = 0


def compute_batch(
    setting: Setting,
    samples: Sequence[Sample],
    stored: Sequence[Stored | None],
    needs: Needs,
    speed: Speed,
    advance: Callable[[float], None],
) -> Computed:
    """Compute what a batch of N cases lacks: a loop over jobs and, for each, over metrics.

    `stored` (N) is what is on disk of each case; `needs` is the same for all of them; `advance` is called with the
    number of cases done, in fractions.
    """
    plan, device = setting.plan, setting.plan.device
    batch = replace(collate(samples, plan.facts.spec, device, plan.whole.show), explains=plan.explains)
    save_images(setting, batch)
    known = [one.about for one in stored if one] if needs.described else None
    if known:
        batch = replace(batch, targets=[tuple(about["target"]) for about in known])
    began = clock(device)
    seen_at = scales_to_see(needs, plan.jobs, plan.metrics)
    captured = first_pass(setting, batch, needs, jobs_at(1.0, plan.jobs, seen_at), speed)
    seconds = {1.0: clock(device) - began}
    batch = replace(batch, targets=captured.targets)
    module: Any = setting.module
    score: Any = module and Scorer(
        setting.forward(speed), batch.targets, speed.score_batch,
        pad=speed.compiled, bfloat16=setting.precision == "bfloat16", probability=plan.facts.probability,
        read=partial(read_output, batch),
    )  # fmt: skip
    views = {}
    for scale in sorted({scale for scales in seen_at.values() for scale in scales} - {1.0}):
        began = clock(device)
        other = seen_batch(batch, samples, scale)
        views[scale] = view_of(setting, other, scale, jobs_at(scale, plan.jobs, seen_at), speed)
        seconds[scale] = clock(device) - began
    on_disk = {
        j: torch.from_numpy(np.stack([one.maps[j] for one in stored if one])).to(device)
        for j in needs.kept
        if j not in seen_at
    }
    natives = {places_of(plan.jobs[j])[0]: maps for j, maps in on_disk.items() if len(plan.jobs[j].members) == 1}
    jobs = [plan.jobs[j] for j in needs.jobs]
    explain: Any = jobs and Explain(
        module=module, batch=batch, captured=captured, score=score, natives=natives,
        jobs=jobs, job=jobs[0], running=setting.running, memory_format=memory_format(speed.channels_last),
        float64=setting.precision == "float64",
    )  # fmt: skip
    abouts = known or case_rows(batch, captured.logits, plan.facts.probability) if needs.jobs else []
    several = plan.facts.outputs > 1  # of one output the highest says nothing
    batch = replace(batch, predicted=[about["predicted"] if several else None for about in abouts])
    result, seen = Computed(), dict[Any, Any]()
    for own, wanted in needs.blocks:
        for j in own:
            job, began = plan.jobs[j], clock(device)
            native = job_map(module, batch, captured, score, job, natives, views) if j in seen_at else on_disk[j]
            mapped = clock(device)
            heatmaps = upsample(native, batch.images.shape[2:])
            if score:
                score.maps = map_ids(native, seen)
            kept = [j not in needs.kept and setting.keeps(job, case) for case in batch.ids]
            result.rows[j] = rows = job_rows(job, abouts, native, kept)
            for metric in [plan.metrics[m] for m in wanted]:
                again = replace(explain, job=job)
                values = metric_columns(metric.bound, metric.label, heatmaps, batch, score, again, native)
                for row, columns in zip(rows, values, strict=True):
                    row |= columns
            result.seconds[j] = {
                "capture": sum(
                    seconds[scale] / len(jobs_at(scale, plan.jobs, seen_at)) for scale in seen_at.get(j, ())
                ),
                "method": mapped - began,
                "metrics": clock(device) - mapped,
            }
            advance(len(samples) / len(needs.jobs))
    result.score_batch = score.batch_size if score else speed.score_batch
    if score:
        result.saved = score.saved
        result.passes = score.passes + sum(view.score.passes for view in views.values())
    return result


def job_rows(job: Job, abouts: list[dict[str, Any]], native: Tensor, kept: list[bool]) -> list[dict[str, Any]]:
    """Rows of a job's maps, without metrics."""
    columns = zip(abouts, degenerate(native), map_columns(native, kept), strict=True)
    place = {"method": job.label, "layer": job.layer}
    return [{**place, **about, "degenerate": reason, **maps} for about, reason, maps in columns]


def first_pass(setting: Setting, batch: Batch, needs: Needs, fresh: Sequence[Job], speed: Speed) -> Captured:
    """Capture what the jobs look at, in one forward and one backward pass; nothing where none is needed."""
    plan = setting.plan
    if not needs_pass(needs, plan.jobs, plan.metrics):
        return Captured(torch.empty(0), batch.targets, {})
    return pass_of(setting, batch, fresh, speed)


def jobs_at(scale: float, jobs: Sequence[Job], seen_at: Mapping[int, set[float]]) -> list[Job]:
    """Jobs that look at the picture at a scale; `seen_at` as `scales_to_see` gives it."""
    return [jobs[j] for j, scales in seen_at.items() if scale in scales]


def pass_of(setting: Setting, batch: Batch, jobs: Sequence[Job], speed: Speed) -> Captured:
    """Capture the layers of some jobs."""
    wanted = {name for job in jobs for name in job.layers}
    layers = [name for name in setting.plan.facts.layers if name in wanted]
    assert setting.module is not None
    form, float64 = memory_format(speed.channels_last), setting.precision == "float64"
    more: dict[str, Any] = {"memory_format": form, "reshape": setting.reshape, "float64": float64}
    return shared_pass(setting.module, batch, layers, **wanted_of(jobs), **more)


def view_of(setting: Setting, batch: Batch, scale: float, fresh: Sequence[Job], speed: Speed) -> View:
    """Capture what the jobs look at in images of a scale or in the mirror, one forward and one backward pass more.

    The scorer, for methods that perturb these images, is not the compiled one: that takes one size.
    """
    captured = pass_of(setting, batch, fresh, speed)
    assert setting.module is not None
    score = Scorer(
        setting.module, batch.targets, max(1, int(speed.score_batch / scale**2)),
        bfloat16=setting.precision == "bfloat16", probability=setting.plan.facts.probability,
        read=partial(read_output, batch),
    )  # fmt: skip
    return View(batch, captured, score)


def read_stored(piece: Piece, jobs: Sequence[Job]) -> dict[str, Stored]:
    """Columns and kept maps of a piece's cases, from the parts that hold them, by case id."""
    wanted = {jobs[j].key: j for j in piece.needs.kept}
    ids = {case.id for case in piece.cases}
    stored: dict[str, Stored] = {}
    for path in piece.parts if piece.needs.described else ():
        table, note = read_part(path, [*CASE.names, "map", "map_shape"])
        if not note["entries"]:
            continue
        for row in table.slice(0, len(note["cases"])).select(CASE.names).to_pylist():
            if row["case_id"] in ids:
                stored.setdefault(row["case_id"], Stored(row, {}))
        maps, shapes = table.column("map"), table.column("map_shape")
        for e, entry in enumerate(note["entries"]):
            for c, (case, flag) in enumerate(zip(note["cases"], entry["maps"], strict=True)):
                if flag == "1" and case in ids and entry["key"] in wanted:
                    at = e * len(note["cases"]) + c
                    values = maps[at].values.to_numpy().reshape(shapes[at].as_py())
                    stored[case].maps[wanted[entry["key"]]] = values
    return stored


def save_images(setting: Setting, batch: Batch) -> None:
    """Keep the input pictures of the gallery's cases beside the results, for the report; of volumes all slices."""
    spec = setting.plan.facts.spec
    for case_id, image in zip(batch.ids, batch.images, strict=True):
        path = setting.plan.folder.images / f"{image_name(case_id)}.png"
        if case_id in setting.gallery and not path.is_file():
            write_atomically(path, partial(save_image, to_look_at(image, batch.shown, spec), format="png"))


def to_look_at(image: Tensor, shown: Sequence[int], spec: InputSpec) -> Tensor:
    """Channels of an input (C, *spatial) to look at, (1 or 3, H, W) in 0 to 1; a volume's slices below each other.

    Pictures of three channels are as they were. Of others nobody knows which value is bright: the lowest becomes black
    and the highest white.
    """
    mean, std = (torch.tensor(v, device=image.device).view(-1, *[1] * spec.rank) for v in (spec.mean, spec.std))
    pixels = (image * std + mean)[list(shown)]
    if spec.shape[0] != 3 or spec.rank != 2:
        low, high = pixels.aminmax()
        pixels = (pixels - low) / (high - low).clamp(min=torch.finfo(pixels.dtype).tiny)
    return pixels.clamp(0, 1).reshape(len(pixels), -1, spec.sides[-1])
