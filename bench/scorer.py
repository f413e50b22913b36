"""Forward-only scoring of many perturbed images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import group_logit, group_probability


class Scorer:
    """Target probability of perturbed versions of one batch's images.

    A metric calls it with images and, for each, the index of its case. What all methods and layers share
    (the clean score, the fully perturbed score, a blurred image) is computed once through `once`.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    targets : sequence of tuple of int
        Output indices of each case's class.
    batch_size : int
        Images per forward pass.
    """

    def __init__(self, model: nn.Module, targets: Sequence[tuple[int, ...]], batch_size: int) -> None:
        self.model, self.targets, self.batch_size = model, targets, batch_size
        self._shared: dict[Hashable, Any] = {}

    def __call__(self, images: Tensor, cases: Tensor) -> Tensor:
        """Probability (n,) of case ``cases[i]``'s class on ``images[i]``; images (n, C, H, W), cases (n,) long."""
        return self._ask(group_probability, images, cases)

    def logit(self, images: Tensor, cases: Tensor) -> Tensor:
        """Give the explained score (n,), a logit or a group's logsumexp; arguments as in a call."""
        return self._ask(group_logit, images, cases)

    def _ask(self, read: Callable[..., Tensor], images: Tensor, cases: Tensor) -> Tensor:
        scores = []
        with torch.no_grad():
            for part, index in zip(images.split(self.batch_size), cases.split(self.batch_size), strict=True):
                scores.append(read(self.model(part), [self.targets[i] for i in index.tolist()]))
        return torch.cat(scores) if scores else images.new_zeros(0)

    def once(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """Give the result of ``function()``, computed at the first call with this key and kept for the batch."""
        if key not in self._shared:
            self._shared[key] = function()
        return self._shared[key]
