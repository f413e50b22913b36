"""Maps made again, for metrics that ask: of changed images, of other classes, of a changed network."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.maps.capture import Captured, capture
from bench.maps.heatmaps import upsample
from bench.maps.jobs import Natives, job_map, shared_pass, wanted_of
from bench.maps.precise import capture_float64
from bench.maps.scorer import Scorer
from bench.maps.target_scores import read_output
from bench.types import NO_LAYER, Batch, Job, UserError

# What a method may take that does not depend on the class.
CLASS_BLIND = {"acts", "images", "shown", "ids", "once", "attention"}

Perturb = Callable[[Tensor, Sequence[str]], Tensor]


def copied(module: nn.Module) -> nn.Module:
    """Copy a network, also one that keeps tensors of its last pass as attributes, which Python does not copy.

    UserError for one that keeps what cannot be copied, such as a lock or an open file.
    """
    kept = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    try:
        return deepcopy(module, {id(value): value.detach() for value in kept if not value.is_leaf})
    except (TypeError, RuntimeError) as error:
        raise UserError(
            f"the network {type(module).__name__} keeps something that cannot be copied ({error}); take that attribute "
            "from it"
        ) from error


def changed(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Let `change` make a changed copy of a network; of one that Python does not copy as it is, of a copy of ours."""
    try:
        return change(module)
    except (TypeError, RuntimeError):
        return change(copied(module))


@dataclass(frozen=True, eq=False)
class Answer:
    """What one question gave: native maps by the jobs' keys, and logits (N, C).

    Of perturbed images also the distances (N,) from the batch's own, over all values: of the images, ``shift``, and of
    each layer's activations.
    """

    maps: dict[str, Tensor]
    logits: Tensor
    shift: Tensor
    moved: dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Explain:
    """One job's method asked again, at the same layer, about other images, other classes or another network.

    `module` is to be looked at, never to be changed; `captured` and `score` are of it on `batch`; `natives` as in
    `job_map`. What does not depend on the job's own map is made for all `jobs` from one pass;
    ``dataclasses.replace(explain, job=other)`` gives the next one. `running` names the modules in the order of
    `bench.networks.running.running_order`; `memory_format` is the network's fastest; `float64` as in `shared_pass`.
    """

    module: nn.Module
    batch: Batch
    captured: Captured
    score: Scorer
    natives: Natives
    jobs: Sequence[Job]
    job: Job
    running: Sequence[str]
    memory_format: torch.memory_format = torch.channels_last
    float64: bool = False
    _kept: dict[Hashable, Answer] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """Logits (N, C) of the batch's images."""
        return self.captured.logits

    @property
    def layers(self) -> list[str]:
        """Names of the layers that the job's map is made of; none for a method that looks at none."""
        return [name for name in self.job.layers if name != NO_LAYER]

    def __call__(
        self,
        images: Tensor | None = None,
        targets: Sequence[tuple[int, ...]] | None = None,
        change: Callable[[nn.Module], nn.Module] | None = None,
        perturb: Perturb | None = None,
    ) -> Tensor:
        """Make the method's maps again, at input size.

        Parameters
        ----------
        images : Tensor, shape (N, C, H, W), optional
            Instead of the batch's. Costs one pass a map, since every map has images of its own.
        targets : sequence of N tuples of int, optional
            Classes to explain instead of the batch's.
        change : callable, optional
            ``change(module) -> module``, hashable and equal for the same change: a changed COPY of the network.
        perturb : callable, optional
            ``perturb(images, image ids) -> images``, hashable and equal for the same perturbation; what it makes of an
            image follows from that image and its id.

        Returns
        -------
        Tensor, shape (N, H, W)
            Non-finite maps are zero, as for every metric. Without `images` all jobs of the batch share one pass for
            the same `targets`, `change` and `perturb`; a method that does not know the class gives the maps that it
            gave before where nothing else is changed.
        """
        size = self.batch.images.shape[2:]
        if images is not None:
            batch = replace(self.batch, images=images, targets=list(targets or self.batch.targets))
            answer = self._make(batch, change, self.layers, [self.job], shared=False)
        elif change is None and perturb is None and set(self.job.method.wants) <= CLASS_BLIND:
            maps = job_map(self.module, self.batch, self.captured, self.score, self.job, self.natives)
            return upsample(maps, size)
        else:
            answer = self._answer(targets, change, perturb)
        return upsample(answer.maps[self.job.key], size)

    def effect(self, perturb: Perturb) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give what perturbed images change in the network; from the pass that ``explain(perturb=...)`` makes.

        Returns
        -------
        shift : Tensor, shape (N,)
            Distance of the images from the batch's own.
        logits : Tensor, shape (N, C)
        moved : Tensor or None, shape (N,)
            Distance of the activations at the job's layer, or at all of its layers together, from the batch's own as a
            share of their norm; NaN where that is 0. None for a method that looks at no layer.
        """
        answer = self._answer(None, None, perturb)
        if not self.layers:
            return answer.shift, answer.logits, None
        distance = torch.stack([answer.moved[name] for name in self.layers]).norm(dim=0)
        norm = torch.stack([norms(self.captured.layers[name].acts) for name in self.layers]).norm(dim=0)
        return answer.shift, answer.logits, torch.where(norm > 0, distance / norm, torch.nan)

    def features(self, images: Tensor | None = None) -> dict[str, Tensor]:
        """Give the mean over positions (N, K), float64, of each captured layer's activations, by the layer's name.

        Of other images (N, C, *spatial) than the batch's at the price of one forward pass.
        """
        layers = self.captured.layers
        if images is not None and layers:
            batch = replace(self.batch, images=images)
            layers = self._each(self.module, batch, list(layers), gradients=False).layers
            self.score.passes += len(images)
        return {name: layer.acts.flatten(2).mean(2, dtype=torch.float64) for name, layer in layers.items()}

    def _each(self, module: nn.Module, batch: Batch, layers: Sequence[str], **wanted: Any) -> Captured:
        """Capture layers in a pass that looks at every case's own image."""
        inputs = batch.images.contiguous(memory_format=self.memory_format)
        run = capture_float64 if self.float64 else capture
        read = partial(read_output, batch)
        return run(module, inputs, batch.targets, layers, reshape=self.captured.reshape, read=read, **wanted)

    def _answer(
        self,
        targets: Sequence[tuple[int, ...]] | None,
        change: Callable[[nn.Module], nn.Module] | None,
        perturb: Perturb | None,
    ) -> Answer:
        """Ask for all jobs at once; what was asked before is not asked again."""
        question = (None if targets is None else tuple(targets), change, perturb)
        if question not in self._kept:
            batch = replace(self.batch, targets=list(targets or self.batch.targets))
            if perturb is not None:
                batch = replace(batch, images=perturb(batch.images, batch.image_ids))
            answer = self._make(batch, change, list(self.captured.layers), self.jobs)
            self._kept[question] = answer
        return self._kept[question]

    def _make(
        self,
        batch: Batch,
        change: Callable[[nn.Module], nn.Module] | None,
        layers: Sequence[str],
        jobs: Sequence[Job],
        *,
        shared: bool = True,
    ) -> Answer:
        """Make the maps of these jobs from one pass; `shared`: cases of one image have equal images."""
        module = self.module if change is None else changed(self.module, change)
        wanted, reshape, form = wanted_of(jobs), self.captured.reshape, self.memory_format
        if shared:
            more: dict[str, Any] = {"memory_format": form, "reshape": reshape, "float64": self.float64}
            captured = shared_pass(module, batch, layers, **wanted, **more)
        else:
            captured = self._each(module, batch, layers, **wanted)
        kind, read = self.score.probability, partial(read_output, batch)
        score = Scorer(module, batch.targets, self.score.batch_size, probability=kind, read=read)
        natives: Natives = {}
        maps = {job.key: job_map(module, batch, captured, score, job, natives) for job in jobs}
        self.score.passes += score.passes
        perturbed = shared and change is None and batch.images is not self.batch.images
        own = self.captured.layers if perturbed else {}
        moved = {name: norms(captured.layers[name].acts - layer.acts) for name, layer in own.items()}
        return Answer(maps, captured.logits, norms(batch.images - self.batch.images), moved)


def norms(values: Tensor) -> Tensor:
    """Euclidean norm (N,) of values (N, ...), in float64: in float32 squares may be 0 or infinite."""
    return torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)
