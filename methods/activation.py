"""CAM methods that look at activations only."""

from __future__ import annotations

from torch import Tensor

from methods.common import widen


def activation_sum(acts: Tensor) -> Tensor:
    """Sum of the activations over channels: the control for every sum-type map.

    map = sum_k A_k; LaFAM (Karjauv and Albayrak, 2024, arXiv:2407.06321).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        Not class-discriminative. A sum, where LaFAM takes the mean: the same map up to the factor K.
    """
    return widen(acts).sum(1)
