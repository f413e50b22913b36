"""The shared pass of a batch, and a job's maps from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.maps.capture import Captured, capture
from bench.maps.heatmaps import fuse, fuse_backward, native_map, upsample
from bench.maps.method_inputs import offered
from bench.maps.precise import capture_float64
from bench.maps.scorer import Scorer
from bench.maps.target_scores import read_output
from bench.types import Attention, Batch, Bound, Job, Layer, Reshape, at_scale

Natives = dict[tuple[str, str], Tensor]


def wanted_of(jobs: Sequence[Job]) -> dict[str, Any]:
    """List what a pass must keep for these jobs' methods, as arguments of `capture`: ``gradients``, ``attention``."""
    names = {name for job in jobs for name in job.method.wants}
    attention = "gradients" if "attention_grads" in names else "maps" if "attention" in names else ""
    return {"gradients": bool(names & {"grads", "attention_grads"}), "attention": attention}


@dataclass(frozen=True, eq=False)
class View:
    """A batch at one scale, or in the mirror: its images are those, and `captured` and `score` are of them."""

    batch: Batch
    captured: Captured
    score: Scorer


def shared_pass(
    module: nn.Module,
    batch: Batch,
    layers: Sequence[str],
    gradients: bool,
    memory_format: torch.memory_format,
    reshape: Reshape | None = None,
    *,
    float64: bool = False,
    attention: str = "",
) -> Captured:
    """One pass over a batch for all methods and layers; cases of one image share its forward pass.

    A user's function may read each case's output in its own way, so that then each case has its own.
    """
    names = batch.ids if batch.explains else batch.image_ids
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    different = sorted(first.values())
    images = batch.images[different].contiguous(memory_format=memory_format)
    image_of = [different.index(first[name]) for name in names]
    run = capture_float64 if float64 else capture
    return run(
        module,
        images,
        batch.targets,
        layers,
        gradients=gradients,
        image_of=image_of,
        reshape=reshape,
        read=partial(read_output, batch),
        attention=attention,
    )


def map_size(method: Bound, layer: Layer | None, batch: Batch, attention: Attention | None = None) -> Sequence[int]:
    """Size of a method's maps: its layer's or its tokens', the input's without either."""
    if attention and "attention" in method.wants:
        return attention.tokens.shape
    return batch.images.shape[2:] if layer is None else layer.acts.shape[2:]


def job_map(
    module: nn.Module,
    batch: Batch,
    captured: Captured,
    score: Scorer,
    job: Job,
    natives: Natives,
    views: Mapping[float, View] | None = None,
) -> Tensor:
    """Make a job's maps: float32 (N, *spatial) at its layer or on its tokens, (N, H, W) without either or fused.

    `captured` (with all layers of the job) and `score` are of `module` on this batch; `views` are the batch at other
    scales and in the mirror, for the jobs that look at these. `natives`, kept by the caller for one batch, holds native
    maps by method, layer and scale, so that a fused map and the maps of its layers are made from the same ones: at
    first those on disk. Those of the mirror image are mirrored back. An augmented map has the size of the maps that it
    is the mean of where that is one, as with ``flip``, else the input's.
    """
    size = batch.images.shape[2:]
    maps = []
    if job.augmented:
        for scale in job.scales:
            one = replace(job, scales=(scale,), augmented=False)
            maps.append(job_map(module, batch, captured, score, one, natives, views))
        if len({one.shape for one in maps}) == 1:
            size = maps[0].shape[1:]
        return fuse([upsample(one, size) for one in maps], "mean")
    for name, scale in job.members:
        place = job.label, at_scale(name, scale)
        if place not in natives:
            seen = View(batch, captured, score) if scale == 1 else (views or {})[scale]
            layer, attention = seen.captured.layers.get(name), seen.captured.attention
            offer = offered(module, name, layer, seen.captured.logits, seen.batch, seen.score, attention)
            shape = map_size(job.method, layer, seen.batch, attention)
            native = native_map(job.method, offer, (len(batch.ids), *shape), seen.batch.images.shape[2:])
            natives[place] = native.flip(-1) if scale < 0 else native
        maps.append(natives[place])
    if job.fuse == "backward":
        return upsample(fuse_backward(maps), size)
    return fuse([upsample(one, size) for one in maps], job.fuse) if job.fuse else maps[0]
