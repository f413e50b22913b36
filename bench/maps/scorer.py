"""Forward passes that score many perturbed versions of a batch's images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.maps.target_scores import member_logit, member_probability, membership

log = logging.getLogger(__name__)


class Scorer:
    """Target probability of perturbed versions of one batch's images.

    A metric or method calls it with images and, for each, the index of its case. What all methods and layers share
    (the clean score, the fully perturbed score, a blurred image) is computed once through `once`; what follows from a
    map's order of positions is computed once for equal maps through `per_map`.

    Parameters
    ----------
    model : callable
        Images (n, C, H, W) to logits (n, classes): a network in evaluation mode, or its compiled form.
    targets : sequence of N tuples of int
        Output indices of each case's class.
    batch_size : int
        Images per forward pass. Halved, and kept so, when the device runs out of memory.
    pad : bool
        Fill up every batch and use one memory format, because a compiled network would compile anew for another.
    bfloat16 : bool
        Run the network's matrix products and convolutions in bfloat16.
    probability : {"softmax", "sigmoid", "none"}
        How a call's value follows from the logits; ``none`` gives the explained score.
    read : callable, optional
        ``read(output, cases) -> logits``, see `bench.maps.target_scores.read_output`; None takes the model's output.

    Attributes
    ----------
    maps : list of N hashables, or None
        Identity of each case's map for the job at hand, see `bench.maps.heatmaps.map_ids`; None computes every case.
    passes : int
        Images that went through the network, padding not counted.
    saved : int
        Images that did not have to, because an equal map was scored before.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        targets: Sequence[tuple[int, ...]],
        batch_size: int,
        *,
        pad: bool = False,
        bfloat16: bool = False,
        probability: str = "softmax",
        read: Callable[[Any, Sequence[int]], Tensor] | None = None,
    ) -> None:
        self.model, self.targets, self.batch_size = model, targets, batch_size
        self.pad, self.bfloat16, self.probability, self.read = pad, bfloat16, probability, read
        self.maps: Sequence[Hashable] | None = None
        self.passes = self.saved = 0
        self._shared: dict[Hashable, Any] = {}
        self._shared_passes = 0
        self._rows: dict[Hashable, dict[tuple[int, Hashable], Tensor]] = {}
        self._passes_per_case: dict[Hashable, float] = {}

    def __call__(self, images: Tensor, cases: Tensor) -> Tensor:
        """Probability (n,) of case ``cases[i]``'s class on ``images[i]``; images (n, C, H, W), cases (n,) long."""
        return self._score(partial(member_probability, kind=self.probability), images, cases)

    def logit(self, images: Tensor, cases: Tensor) -> Tensor:
        """Explained score (n,), a logit or a group's logsumexp; arguments as in a call."""
        return self._score(member_logit, images, cases)

    def with_top(self, images: Tensor, cases: Tensor) -> Tensor:
        """Probability as in a call, and 1 where the highest output is one of the class's, else 0; shape (n, 2).

        NaN instead of 0 or 1 where the network has one output, which is always the highest.
        """

        def read(logits: Tensor, members: Tensor) -> Tensor:
            value = member_probability(logits, members, self.probability)
            top = members.gather(1, logits.argmax(1, keepdim=True))[:, 0]
            top = top.to(value) if logits.shape[1] > 1 else torch.full_like(value, torch.nan)
            return torch.stack([value, top], 1)

        return self._score(read, images, cases)

    def once(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """Give ``function()``, computed at the first call with this key and kept for the batch."""
        if key not in self._shared:
            before = self.passes - self._shared_passes
            self._shared[key] = function()
            self._shared_passes = self.passes - before
        return self._shared[key]

    def per_map(self, key: Hashable, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Give a result (N, ...) for every case, computed only for those whose map is new under this key.

        Parameters
        ----------
        key : hashable
            Names the computation with all its parameters.
        function : callable
            ``function(cases (n,) long, on the CPU) -> (n, ...)``: what follows from the ORDER of a map's positions
            alone. One case's row must not depend on which other cases are asked for.
        """
        if self.maps is None:
            return function(torch.arange(len(self.targets)))
        rows = self._rows.setdefault(key, {})
        names = list(enumerate(self.maps))
        new = [name for name in names if name not in rows]
        if new:
            before = self.passes - self._shared_passes
            values = function(torch.tensor([case for case, _ in new]))
            rows.update(zip(new, values.unbind(), strict=True))
            self._passes_per_case[key] = (self.passes - self._shared_passes - before) / len(new)
        self.saved += round(self._passes_per_case[key] * (len(names) - len(new)))
        return torch.stack([rows[name] for name in names])

    def _score(self, read: Callable[[Tensor, Tensor], Tensor], images: Tensor, cases: Tensor) -> Tensor:
        scores = [images.new_zeros(0)]
        done = 0
        while done < len(images):
            part = slice(done, done + self.batch_size)
            try:
                logits = self._forward(images[part], cases[part])
            except torch.OutOfMemoryError:
                tried = self.batch_size if self.pad else len(images[part])
                if tried == 1:
                    raise
                self.batch_size = (tried + 1) // 2
                log.warning("out of memory: continuing with %d images in a forward pass", self.batch_size)
                continue
            members = self.once("members", partial(membership, self.targets, logits))
            scores.append(read(logits, members[cases[part]]))
            done += len(logits)
            self.passes += len(logits)
        return torch.cat(scores[1:] or scores)

    def _forward(self, images: Tensor, cases: Tensor) -> Tensor:
        """Logits (n, classes) of one batch of at most `batch_size` images."""
        missing = self.batch_size - len(images) if self.pad else 0
        if missing:
            images = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
            cases = torch.cat([cases, cases[-1:].expand(missing)])
        if self.pad:
            images = images.contiguous()
        with torch.no_grad():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = self.model(images)
            logits = self.read(logits, cases.tolist()) if self.read else logits
        logits = logits.float() if self.bfloat16 else logits
        return logits[: len(logits) - missing]


def finish(device: torch.device) -> None:
    """Wait until a GPU has done its work, so that its time is counted where it was caused."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds, for differences, once the device has finished its work."""
    finish(device)
    return time.perf_counter()
