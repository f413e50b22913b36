"""Forward-only scoring of many perturbed images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from bench.types import member_logit, member_probability, membership

log = logging.getLogger(__name__)


class Turn(greenlet):
    """One of the functions that `Scorer.together` runs, and the seconds that are its own."""

    used = resumed = 0.0


@dataclass(eq=False)
class Request:
    """Images that wait for their scores; `scores` holds those of the first `done`."""

    read: Callable[..., Tensor]
    images: Tensor
    cases: Tensor
    turn: Turn | None
    done: int = 0
    scores: list[Tensor] = field(default_factory=list)

    @property
    def left(self) -> int:
        """How many images still wait."""
        return len(self.images) - self.done


class Scorer:
    """Target probability of perturbed versions of one batch's images, through one queue of full batches.

    A metric calls it with images and, for each, the index of its case. What all methods and layers share
    (the clean score, the fully perturbed score, a blurred image) is computed once through `once`. Of functions that
    run `together` each rests where it asks for scores, until its images have had their turn in the queue.

    Parameters
    ----------
    model : callable
        Images (n, C, H, W) to logits (n, classes): a network in evaluation mode, or what compiling made of it.
    targets : sequence of tuple of int
        Output indices of each case's class.
    batch_size : int
        Images per forward pass. Halved, and kept so, when the device's memory does not hold them.
    pad : bool
        Fill the last batch up and keep to one memory format, because another would be compiled anew.
    bfloat16 : bool
        Run the network's matrix products and convolutions in bfloat16.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        targets: Sequence[tuple[int, ...]],
        batch_size: int,
        *,
        pad: bool = False,
        bfloat16: bool = False,
    ) -> None:
        self.model, self.targets, self.batch_size = model, targets, batch_size
        self.pad, self.bfloat16 = pad, bfloat16
        self._shared: dict[Hashable, Any] = {}
        self._queue: list[Request] = []
        self._hub: greenlet | None = None
        self._sharing = 0

    def __call__(self, images: Tensor, cases: Tensor) -> Tensor:
        """Probability (n,) of case ``cases[i]``'s class on ``images[i]``; images (n, C, H, W), cases (n,) long."""
        return self._ask(member_probability, images, cases)

    def logit(self, images: Tensor, cases: Tensor) -> Tensor:
        """Give the explained score (n,), a logit or a group's logsumexp; arguments as in a call."""
        return self._ask(member_logit, images, cases)

    def together(self, functions: Iterable[Callable[[], None]]) -> None:
        """Run functions side by side in this thread, so that one's images fill up the batches of another.

        A function begins only when those before it leave a batch unfilled: few are under way at any time.
        """
        self._hub, enabled = getcurrent(), torch.is_grad_enabled()
        left, turns = iter(functions), list[Turn]()
        try:
            while True:
                for turn in turns:
                    turn.resumed = time.perf_counter()
                    turn.switch()
                    turn.used += time.perf_counter() - turn.resumed
                    torch.set_grad_enabled(enabled)
                turns = [turn for turn in turns if not turn.dead]
                if sum(request.left for request in self._queue) < self.batch_size:
                    function = next(left, None)
                    if function is not None:
                        turns.append(Turn(function))
                        continue
                if not turns:
                    return
                self._score_batch()
        finally:
            for turn in turns:  # what an error has left under way must not hold its tensors
                turn.throw()
            self._hub, self._queue = None, []

    def _ask(self, read: Callable[..., Tensor], images: Tensor, cases: Tensor) -> Tensor:
        if not len(images):
            return images.new_zeros(0)
        turn, enabled = getcurrent(), torch.is_grad_enabled()
        request = Request(read, images, cases, turn if isinstance(turn, Turn) else None)
        if self._hub and turn.parent is self._hub and not self._sharing:
            self._queue.append(request)
            while request.left:
                self._hub.switch()
            torch.set_grad_enabled(enabled)
        else:  # at once, with others' images in what is free of the last batch
            self._queue.insert(0, request)
            while request.left:
                self._score_batch()
        return torch.cat(request.scores)

    def _score_batch(self) -> None:
        """Score those that wait first, as many as fit one forward pass."""
        began = time.perf_counter()
        parts: list[tuple[Request, slice]] = []
        free = self.batch_size
        for request in self._queue:
            parts.append((request, slice(request.done, request.done + min(free, request.left))))
            free -= min(free, request.left)
            if not free:
                break
        images = [request.images[part] for request, part in parts]
        try:
            logits = self._forward(images[0] if len(images) == 1 else torch.cat(images))
        except torch.OutOfMemoryError:
            if self.batch_size - free == 1:
                raise
            self.batch_size = (self.batch_size - free + 1) // 2
            log.warning("out of memory: going on with %d images in a forward pass", self.batch_size)
            return
        members = self.once("members", partial(membership, self.targets, logits))
        for (request, part), own in zip(parts, logits.split([len(part) for part in images]), strict=True):
            request.scores.append(request.read(own, members[request.cases[part]]))
            request.done += len(own)
        self._queue = [request for request in self._queue if request.left]
        spent = time.perf_counter() - began
        if isinstance(running := getcurrent(), Turn):
            running.resumed += spent
        for request, part in parts:
            if request.turn:
                request.turn.used += spent * (part.stop - part.start) / len(logits)

    def _forward(self, images: Tensor) -> Tensor:
        missing = self.batch_size - len(images) if self.pad else 0
        if missing:
            images = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
        if self.pad:
            images = images.contiguous()
        reduced = torch.autocast(images.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
        with torch.no_grad(), reduced:
            logits = self.model(images)
        logits = logits.float() if self.bfloat16 else logits
        return logits[: len(logits) - missing]

    def once(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """Give the result of ``function()``, computed at the first call with this key and kept for the batch.

        Scores that the function asks for are not waited for, so that nobody else computes them meanwhile.
        """
        if key not in self._shared:
            self._sharing += 1
            try:
                self._shared[key] = function()
            finally:
                self._sharing -= 1
        return self._shared[key]


def clock(device: torch.device) -> float:
    """Seconds, for differences; in a function that runs `together` its own and its part of the batches."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    turn = getcurrent()
    return turn.used + time.perf_counter() - turn.resumed if isinstance(turn, Turn) else time.perf_counter()
