"""Forward-only scoring of many perturbed images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.types import member_logit, member_probability, membership

log = logging.getLogger(__name__)


class Scorer:
    """Target probability of perturbed versions of one batch's images.

    A metric calls it with images and, for each, the index of its case. What all methods and layers share
    (the clean score, the fully perturbed score, a blurred image) is computed once through `once`.

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

    def __call__(self, images: Tensor, cases: Tensor) -> Tensor:
        """Probability (n,) of case ``cases[i]``'s class on ``images[i]``; images (n, C, H, W), cases (n,) long."""
        return self._ask(member_probability, images, cases)

    def logit(self, images: Tensor, cases: Tensor) -> Tensor:
        """Give the explained score (n,), a logit or a group's logsumexp; arguments as in a call."""
        return self._ask(member_logit, images, cases)

    def _ask(self, read: Callable[..., Tensor], images: Tensor, cases: Tensor) -> Tensor:
        scores: list[Tensor] = []
        done = 0
        while done < len(images):
            part = images[done : done + self.batch_size]
            try:
                logits = self._forward(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.batch_size = (len(part) + 1) // 2
                log.warning("out of memory: going on with %d images in a forward pass", self.batch_size)
                continue
            members = self.once("members", partial(membership, self.targets, logits))
            scores.append(read(logits, members[cases[done : done + len(part)]]))
            done += len(part)
        return torch.cat(scores) if scores else images.new_zeros(0)

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
        """Give the result of ``function()``, computed at the first call with this key and kept for the batch."""
        if key not in self._shared:
            self._shared[key] = function()
        return self._shared[key]
