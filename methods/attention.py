"""Methods that look at a transformer's self-attention, all blocks at once; they need no layer.

`attention` describes it, ``maps`` A (N, heads, T, T) from each of T tokens (row) to each (column), first block first;
``tokens`` (rows, columns), which token lies where; ``readers`` (T,), the share of each token in what the classifier
reads: the papers' class token, also with a distillation token half each, and without a class token all positions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .common import widen


def attention_rollout(*, attention: Any) -> Tensor:
    """Attention rollout: how much of each position's input the class token has read through all blocks.

    map = the class token's row of B_L .. B_1, B = (mean of A over heads + I) / 2, where I is the residual connection
    (Abnar and Zuidema, ACL 2020, arXiv:2005.00928, section 3). The paper leaves open what a map of a picture is: it is
    the row of the token that is classified, as in Chefer et al. 2021.

    Parameters
    ----------
    attention : Attention
        See the module.

    Returns
    -------
    Tensor, shape (N, rows, columns)
        At least 0; with the other tokens it sums to 1. Not class-discriminative.
    """
    rows = _read(attention)
    for block in reversed(attention.maps):
        rows = (rows @ widen(block).mean(1) + rows) / 2
    return rows[:, 0, attention.tokens]


def chefer_cam(*, attention: Any, attention_grads: Sequence[Tensor]) -> Tensor:
    """CheferCAM: relevance that grows through the blocks by attention times its gradient.

    R = I at first, then R + mean over heads of relu(g A) R block by block, g = dy/dA; map = the class token's row of R
    (Chefer, Gur and Wolf, Generic attention-model explainability, ICCV 2021, arXiv:2103.15679, equations 5 and 6, the
    rules for self-attention). Not their method of CVPR 2021, which propagates relevance through every layer.

    Parameters
    ----------
    attention : Attention
        See the module.
    attention_grads : sequence of Tensor, shape (N, heads, T, T)
        Gradient of the score at each block's attention.

    Returns
    -------
    Tensor, shape (N, rows, columns)
        At least 0.
    """
    rows = _read(attention)
    for block, grads in zip(reversed(attention.maps), reversed(attention_grads), strict=True):
        rows = rows + rows @ (widen(grads) * widen(block)).relu().mean(1)
    return rows[:, 0, attention.tokens]


def legrad(*, attention: Any, attention_pass: Callable[[str], Any]) -> Tensor:
    """LeGrad: how much attention to a position could raise the score that each block's output would have.

    map = mean over blocks, heads and reading tokens of relu(dy_l/dA_l), where y_l is what the network's own last
    steps (norm, pooling, classifier) make of the output of block l (Bousselham et al., ICCV 2025, arXiv:2404.03214, and
    the authors' code). All blocks count, as in the paper; their code begins with the last but one. The score is the
    logit after the network's own pooling, where their code for CLIP takes the mean of all tokens and a cosine; they
    stretch the map to 0 .. 1 at the end. Passes per image: one forward and one backward, in which no block's output
    goes on with its gradient.

    Parameters
    ----------
    attention : Attention
        See the module.
    attention_pass : callable
        ``attention_pass("blocks") -> Attention`` with these gradients.

    Returns
    -------
    Tensor, shape (N, rows, columns)
        At least 0.
    """
    grads = attention_pass("blocks").grads
    relevance = torch.stack([widen(one).relu().flatten(1, 2).mean(1) for one in grads]).mean(0)
    return relevance[:, attention.tokens]


def ag_cam(*, attention: Any, attention_pass: Callable[[str], Any]) -> Tensor:
    """AG-CAM: positive gradients of the class token's attention, guided by the sigmoid of what its softmax gets.

    map = sum over blocks and heads of sigmoid(S) relu(dy/dA) in the class token's row, S = q k / sqrt(d) before the
    softmax (Leem and Seo, AAAI 2024, arXiv:2402.04563). The gradient goes down the residual connections and MLPs only,
    not through what comes into an attention module, as in the authors' code. Passes per image: one forward and one
    backward.

    Parameters
    ----------
    attention : Attention
        See the module.
    attention_pass : callable
        ``attention_pass("inputs") -> Attention`` with these gradients and ``scores`` S.

    Returns
    -------
    Tensor, shape (N, rows, columns)
        At least 0.
    """
    own, rows = attention_pass("inputs"), _read(attention)
    guided = [(widen(s).sigmoid() * widen(g).relu()).sum(1) for s, g in zip(own.scores, own.grads, strict=True)]
    return (rows @ torch.stack(guided).sum(0))[:, 0, attention.tokens]


def _read(attention: Any) -> Tensor:
    """Row (N, 1, T) that picks, or averages, what the classifier reads."""
    return widen(attention.readers).expand(len(attention.maps[0]), 1, -1)
