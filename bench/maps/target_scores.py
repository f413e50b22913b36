"""Explained score and probability of a target: one output, a group of outputs, or a user's function of the output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.types import Batch


def read_output(batch: Batch, output: Any, cases: Sequence[int] | None = None) -> Tensor:
    """Logits (n, C) of pictures of these cases of a batch (None: of all) in what the network returned for them.

    Where a user's function says what is explained, its scores stand there as the only output (n, 1).
    """
    if batch.explains is None:
        return output
    return batch.explains(output, batch if cases is None else rows_of(batch, cases))[:, None]


def rows_of(batch: Batch, cases: Sequence[int]) -> Batch:
    """Make a batch of some of a batch's cases, in this order, also several times the same."""
    lists = {name: value for name, value in vars(batch).items() if isinstance(value, list) and value}
    chosen: dict[str, Any] = {name: [value[i] for i in cases] for name, value in lists.items()}
    return replace(batch, images=batch.images[list(cases)], **chosen)


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


def member_probability(logits: Tensor, members: Tensor, kind: str = "softmax") -> Tensor:
    """Probability (N,) of the outputs that `members`, bool (N, C), names in each row of the logits (N, C).

    `kind` is ``softmax`` (their sum), ``sigmoid`` (that of any of them, 1 - prod(1 - p)), both 0 to 1, or ``none``: the
    explained score itself, see `member_logit`.
    """
    if kind == "none":
        return member_logit(logits, members).float()
    if kind == "sigmoid":  # 1 - sigmoid(x) = sigmoid(-x), also where that is tiny; a single output stays exact
        none_of = ((-logits.float()).sigmoid() + ~members).clamp(max=1).prod(1)
        return torch.where(members.sum(1) == 1, (logits.float().sigmoid() * members).sum(1), 1 - none_of)
    return (logits.float().softmax(1) * members).sum(1)


def output_values(logits: Tensor, kind: str = "softmax") -> Tensor:
    """Probability of every output alone, (N, C) like the logits; `kind` as in `member_probability`."""
    return {"none": logits.float(), "sigmoid": logits.float().sigmoid(), "softmax": logits.float().softmax(1)}[kind]


def group_logit(logits: Tensor, targets: Sequence[tuple[int, ...]]) -> Tensor:
    """Explained score (N,) of logits (N, C): the target's logit, logsumexp over a group's; one group per row."""
    return member_logit(logits, membership(targets, logits))


def group_probability(logits: Tensor, targets: Sequence[tuple[int, ...]], kind: str = "softmax") -> Tensor:
    """Probability (N,) of each row's target, one output or a group; `kind` as in `member_probability`."""
    return member_probability(logits, membership(targets, logits), kind)
