"""Explained score and probability of a target, one output or a group of outputs, from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def membership(targets: Sequence[tuple[int, ...]], logits: Tensor) -> Tensor:
    """Which outputs belong to each target's group: bool (len(targets), C), on the device of the logits (n, C)."""
    rows = [i for i, group in enumerate(targets) for _ in group]
    columns = [index for group in targets for index in group]
    members = logits.new_zeros(len(targets), logits.shape[1])
    members[rows, columns] = 1
    return members > 0


def member_logit(logits: Tensor, members: Tensor) -> Tensor:
    """Logsumexp over the outputs that `members`, bool (N, C), names in each row of the logits (N, C); shape (N,)."""
    return logits.masked_fill(~members, -math.inf).logsumexp(1)


def member_probability(logits: Tensor, members: Tensor) -> Tensor:
    """Sum of the softmax over the outputs that `members`, bool (N, C), names in each row; shape (N,), 0 to 1."""
    return (logits.float().softmax(1) * members).sum(1)


def group_logit(logits: Tensor, targets: Sequence[tuple[int, ...]]) -> Tensor:
    """Explained score (N,) of logits (N, C): the target's logit, logsumexp over a group's; one group per row."""
    return member_logit(logits, membership(targets, logits))


def group_probability(logits: Tensor, targets: Sequence[tuple[int, ...]]) -> Tensor:
    """Softmax probability of each row's target, summed over its group; shape (N,), range 0 to 1."""
    return member_probability(logits, membership(targets, logits))
