"""Forward-only scoring of many perturbed images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from bench.maps.target_scores import member_logit, member_probability, membership

log = logging.getLogger(__name__)


class Turn(greenlet):
    """One of the functions that `Scorer.together` runs.

    Attributes
    ----------
    ready : callable
        Whether what it rests for is there.
    used : float
        Seconds of its own up to `since`.
    since : float
        When it went on for the last time; later by what it spent on a batch, which is shared out by itself.
    """

    used = since = 0.0
    ready: Callable[[], bool] = staticmethod(lambda: True)


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

    @property
    def kind(self) -> tuple[object, ...]:
        """What images in one forward pass have in common."""
        return self.images.shape[1:], self.images.dtype, self.images.device


class Scorer:
    """Target probability of perturbed versions of one batch's images, through one queue of full batches.

    A metric calls it with images and, for each, the index of its case. What all methods and layers share
    (the clean score, the fully perturbed score, a blurred image) is computed once through `once`. Of functions that
    run `together` each rests where it asks for scores, until its images have had their turn in the queue. A function
    must not hold a hook on the network while it asks: others' images may go through it.

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
        self._hub: Any = None
        self._at_once = 0
        self._in_work: set[Hashable] = set()

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
                while ready := [turn for turn in turns if turn.ready()]:
                    for turn in ready:
                        turn.since = time.perf_counter()
                        turn.switch()
                        turn.used += time.perf_counter() - turn.since
                        torch.set_grad_enabled(enabled)
                    turns = [turn for turn in turns if not turn.dead]
                function = next(left, None) if sum(r.left for r in self._queue) < self.batch_size else None
                if function is not None:
                    turns.append(Turn(function))
                elif self._queue:
                    self._score_batch()
                elif turns:
                    raise RuntimeError("functions rest for what none of them does")
                else:
                    return
        finally:
            self._hub, self._queue = None, []
            for turn in turns:  # what an error has left under way must not hold its tensors
                turn.throw()

    def rest(self, ready: Callable[[], bool]) -> None:
        """Let others of `together` go on until this is so; it must come about by what they do.

        Who may not rest goes on at once: what is no function of `together`, or is computed at once.
        """
        turn, enabled = getcurrent(), torch.is_grad_enabled()
        while self._may_rest(turn) and not ready():
            turn.ready = ready
            try:
                self._hub.switch()
            finally:
                del turn.ready  # it holds images
            torch.set_grad_enabled(enabled)

    def _may_rest(self, turn: greenlet) -> TypeGuard[Turn]:
        """Whether this is one of `together`'s functions, not at what is computed at once, nor in an unusual setting."""
        # What is set for the whole thread must not reach others.
        unusual = torch.is_inference_mode_enabled() or any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        return self._hub is not None and turn.parent is self._hub and not self._at_once and not unusual

    def _ask(self, read: Callable[..., Tensor], images: Tensor, cases: Tensor) -> Tensor:
        if not len(images):
            return images.new_zeros(0)
        turn = getcurrent()
        request = Request(read, images, cases, turn if isinstance(turn, Turn) else None)
        finish(images.device)
        if self._may_rest(turn):
            self._queue.append(request)
            self.rest(lambda: not request.left)
        else:  # before all others, whose images fill up its last batch; they go on later
            self._queue.insert(0, request)
            try:
                while request.left:
                    self._score_batch()
            finally:
                self._queue = [other for other in self._queue if other is not request]
        return torch.cat(request.scores)

    def _score_batch(self) -> None:
        """Score those that wait first, as many as fit one forward pass; what is not of the first one's kind waits."""
        began = time.perf_counter()
        parts: list[tuple[Request, slice]] = []
        free, kind = self.batch_size, self._queue[0].kind
        for request in self._queue:
            number = min(free, request.left) if request.kind == kind else 0
            if number:
                parts.append((request, slice(request.done, request.done + number)))
                free -= number
        images = [request.images[part] for request, part in parts]
        try:
            logits = self._forward(images[0] if len(images) == 1 else torch.cat(images))
        except torch.OutOfMemoryError:
            tried = self.batch_size if self.pad else self.batch_size - free
            if tried == 1:
                raise
            self.batch_size = (tried + 1) // 2
            self._share_out(time.perf_counter() - began, parts)
            log.warning("out of memory: going on with %d images in a forward pass", self.batch_size)
            return
        members = self.once("members", partial(membership, self.targets, logits))
        for (request, part), own in zip(parts, logits.split([len(part) for part in images]), strict=True):
            request.scores.append(request.read(own, members[request.cases[part]]))
            request.done += len(own)
        self._queue = [request for request in self._queue if request.left]
        finish(logits.device)
        self._share_out(time.perf_counter() - began, parts)

    def _share_out(self, spent: float, parts: Sequence[tuple[Request, slice]]) -> None:
        """Count a batch's seconds for those whose images are in it, and not for who happens to run."""
        if isinstance(running := getcurrent(), Turn):
            running.since += spent
        number = sum(part.stop - part.start for _, part in parts)
        for request, part in parts:
            if request.turn:
                request.turn.used += spent * (part.stop - part.start) / number

    def _forward(self, images: Tensor) -> Tensor:
        missing = self.batch_size - len(images) if self.pad else 0
        if missing:
            images = torch.cat([images, images[-1:].expand(missing, *images.shape[1:])])
        if self.pad:
            images = images.contiguous()
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(images)
        logits = logits.float() if self.bfloat16 else logits
        return logits[: len(logits) - missing]

    def once(self, key: Hashable, function: Callable[[], Any], *, rests: bool = False) -> Any:
        """Give the result of ``function()``, computed at the first call with this key and kept for the batch.

        Scores that it asks for are computed at once, since many would wait for them, each holding its own maps; with
        `rests` they have their turn in the queue, and who wants the same result rests, too.
        """
        self.rest(lambda: key not in self._in_work)
        if key not in self._shared:
            self._in_work.add(key)
            self._at_once += not rests
            try:
                self._shared.setdefault(key, function())
            finally:
                self._in_work.discard(key)
                self._at_once -= not rests
        return self._shared[key]


def finish(device: torch.device) -> None:
    """Wait for a GPU, so that its work counts where it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds, for differences, when the device has finished; of `together`'s functions each has its own.

    A batch counts for those whose images are in it.
    """
    finish(device)
    turn = getcurrent()
    return turn.used + time.perf_counter() - turn.since if isinstance(turn, Turn) else time.perf_counter()
