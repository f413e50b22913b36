"""The few tensor steps that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half precision as float32, anything wider as it is: sums over positions and channels need the digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def weighted_sum(weights: Tensor, acts: Tensor) -> Tensor:
    """Sum over channels of weight times activation.

    Parameters
    ----------
    weights : Tensor, shape (N, K) or (N, K, *spatial)
        One weight per channel, or one per channel and position.
    acts : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
    """
    if weights.ndim > 2:
        return (weights * acts).sum(1)
    return torch.bmm(weights[:, None], acts.flatten(2)).view(len(acts), *acts.shape[2:])


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Quotient, and 0 where the denominator is exactly 0 (never an epsilon: it would change small values)."""
    empty = denominator == 0
    return (numerator / denominator.masked_fill(empty, 1)).masked_fill(empty, 0)
