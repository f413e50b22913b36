"""Maps of the jobs' methods: of the batch as it is and, for metrics that ask again, of what they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from bench.maps.capture import Captured, capture
from bench.maps.heatmaps import fuse, native_map, upsample
from bench.maps.method_inputs import offered
from bench.maps.scorer import Scorer
from bench.runs.plan import FUSED, NO_LAYER, Job
from bench.types import Batch, Bound

# What a method may take without being told which class is asked about.
CLASS_BLIND = {"acts", "images", "ids"}


def shared_pass(
    module: nn.Module, batch: Batch, layers: Sequence[str], gradients: bool, memory_format: torch.memory_format
) -> Captured:
    """One pass over a batch for all methods and layers; cases of one image share its forward pass."""
    first = {name: i for i, name in reversed(list(enumerate(batch.image_ids)))}
    different = sorted(first.values())
    images = batch.images[different].contiguous(memory_format=memory_format)
    image_of = [different.index(first[name]) for name in batch.image_ids]
    return capture(module, images, batch.targets, layers, gradients=gradients, image_of=image_of)


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps from one shared pass over a batch; `captured` and `score` are of `module` on this batch."""

    module: nn.Module
    batch: Batch
    captured: Captured
    score: Scorer

    def of(self, job: Job) -> Tensor:
        """Give the job's maps: (N, *spatial) at its layer, (N, H, W) where it has none or is fused."""
        if not job.layer.startswith(FUSED):
            return self.native(job.method, job.layer)
        natives = [self.native(job.method, name) for name in self.captured.layers]
        return fuse([upsample(native, self.batch.images.shape[2:]) for native in natives], job.layer[len(FUSED) :])

    def native(self, method: Bound, name: str) -> Tensor:
        """Native map, made once where a fused map asks for it again."""

        def make() -> Tensor:
            layer = self.captured.layers.get(name)
            offer = offered(self.module, name, layer, self.captured.logits, self.batch, self.score)
            shape = self.batch.images.shape[2:] if layer is None else layer.acts.shape[2:]
            return native_map(method, offer, (len(self.batch.ids), *shape))

        return self.score.once(("map", method.name, name), make, rests=True)


@dataclass(frozen=True, eq=False)
class Explain:
    """One job's method asked again, at the same layer, about other images, other classes or another network.

    Attributes
    ----------
    maps : Maps
        Of the batch as it is.
    jobs : sequence of Job
        All of the batch: what does not depend on the job's own map is made for all of them from one pass.
    job : Job
        The one that is asked.
    memory_format : torch.memory_format
        Of the images, the one in which the network is quick.
    """

    maps: Maps
    jobs: Sequence[Job]
    job: Job
    memory_format: torch.memory_format = torch.channels_last
    _kept: dict[Hashable, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """The network: to be looked at, never to be changed."""
        return self.maps.module

    @property
    def logits(self) -> Tensor:
        """Logits (N, C) of the batch's images."""
        return self.maps.captured.logits

    def __call__(
        self,
        images: Tensor | None = None,
        targets: Sequence[tuple[int, ...]] | None = None,
        change: Callable[[nn.Module], nn.Module] | None = None,
    ) -> Tensor:
        """Make the method's maps again, at input size.

        Parameters
        ----------
        images : Tensor, shape (N, C, H, W), optional
            Instead of the batch's. Costs one pass a map, since every map has images of its own.
        targets : sequence of N tuples of int, optional
            Classes asked about instead of the batch's.
        change : callable, optional
            ``change(module) -> module``, hashable and the same for the same change: a changed COPY of the network.
            Without `images` all jobs of the batch share one pass for the same `targets` and `change`; a method that
            is told nothing of the class gives the maps that it gave.

        Returns
        -------
        Tensor, shape (N, H, W)
            Non-finite maps are zero, as for every metric.
        """
        size = self.maps.batch.images.shape[2:]
        if images is None and change is None and set(self.job.method.wants) <= CLASS_BLIND:
            return upsample(self.maps.of(self.job), size)
        if images is not None:
            layers = list(self.maps.captured.layers) if self.job.layer.startswith(FUSED) else [self.job.layer]
            asked = self._ask(images, targets, change, [name for name in layers if name != NO_LAYER], [self.job])
            return upsample(asked[self.job.key], size)
        question = (None if targets is None else tuple(targets), change)
        if question not in self._kept:
            self._kept[question] = self._ask(None, targets, change, list(self.maps.captured.layers), self.jobs)
        return upsample(self._kept[question][self.job.key], size)

    def _ask(
        self,
        images: Tensor | None,
        targets: Sequence[tuple[int, ...]] | None,
        change: Callable[[nn.Module], nn.Module] | None,
        layers: list[str],
        jobs: Iterable[Job],
    ) -> dict[str, Tensor]:
        """Make the maps of these jobs from one pass, by key; the pass itself is not kept."""
        before = self.maps.batch
        batch = replace(
            before,
            images=before.images if images is None else images,
            targets=before.targets if targets is None else list(targets),
        )
        module = self.module if change is None else change(self.module)
        gradients = any("grads" in job.method.wants for job in jobs)
        if images is None:
            captured = shared_pass(module, batch, layers, gradients, self.memory_format)
        else:
            inputs = images.contiguous(memory_format=self.memory_format)
            captured = capture(module, inputs, batch.targets, layers, gradients=gradients)
        maps = Maps(module, batch, captured, Scorer(module, batch.targets, self.maps.score.batch_size))
        return {job.key: maps.of(job) for job in jobs}
