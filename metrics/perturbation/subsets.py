"""What the map says that random sets of positions are worth, against what the network loses without them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..geometry import constant_rows
from ..sensitivity import agreement, sums_and_drops


def infidelity(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    share: float = 0.25,
    subsets: int = 100,
    cell: int = 16,
    baseline: str = "zero",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Mean square of what the map, in its best unit, gets wrong about what sets of positions are worth (Yeh 2019).

    ``mean over S of (beta * sum of the map over S - (p(x) - p(x without S)))^2``: definition 2.1 of the paper with the
    perturbation "S becomes the baseline" and the map in units of the score, not of the score's gradient (captum's
    infidelity with ``multiply_by_inputs``). The random sets are those of `sensitivity_n`, whose passes this shares
    where the parameters are equal. A map's unit is its own, so ``beta`` is the factor that is best for it, as in the
    authors' experiments and captum's ``normalize=True``, but never below 0: else a map turned upside down would be
    worth as much as the map. Does not depend on a positive factor of the map; does on an added constant.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    share : float
        Between 0 and 1, of the cells; at least one cell and not all are drawn.
    subsets : int
        At least 3; as many forward passes a case, for all methods and layers together.
    cell : int
        Side in input pixels; cells at the right and lower border may be smaller.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    seed : int

    Returns
    -------
    dict
        Lower is better:

        - ``infidelity`` (N,): squared probability, 0 to 1, and usually small, since so are the drops. A constant or
          zero map gets the uniform map's value;
        - ``unexplained`` (N,): the same as a share of the mean squared drop, 0 to 1: 1 where no positive factor brings
          the map nearer to the drops than a map of zeros. NaN where the probability never changes.

    Raises
    ------
    ValueError
        For a share outside 0..1, fewer than 3 subsets or a cell below 1.

    References
    ----------
    Yeh, Hsieh, Suggala, Inouye, Ravikumar: On the (in)fidelity and sensitivity of explanations, NeurIPS 2019.
    """
    if not 0 < share < 1 or subsets < 3 or cell < 1:
        raise ValueError(f"infidelity: share={share} (0 to 1), subsets={subsets} (3 or more), cell={cell} (1 or more)")
    constant = constant_rows(heatmaps)
    # Of a map without information nothing counts but that it is the same everywhere.
    heatmaps = torch.where(constant.view(-1, *[1] * (heatmaps.ndim - 1)), torch.ones_like(heatmaps), heatmaps)
    sums, drops = sums_and_drops(heatmaps, batch, score, share, subsets, cell, baseline, seed)
    lost = drops.double()
    beta = (sums * lost).sum(1) / sums.square().sum(1)
    beta = torch.where(sums.square().sum(1) > 0, beta, 0).clamp(min=0)
    error = (beta[:, None] * sums - lost).square().mean(1)
    return {"infidelity": error.to(drops), "unexplained": (error / lost.square().mean(1)).to(drops)}


def faithfulness_correlation(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    positions: int = 224,
    subsets: int = 100,
    baseline: str = "minimum",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Correlation, over random sets of single positions, of the map's sum with the drop of p (Bhatt et al. 2020).

    At the settings of Quantus 0.6: 100 sets of 224 features, which become the image's smallest value. Features are
    positions here, channels there; Quantus takes the logit unless it is given ``softmax=True``. The formula is
    `sensitivity_n`'s with ``cell=1`` and another size of the sets. The sets do not depend on the map, so that all
    methods and layers share the passes. Does not depend on a positive factor of the map or an added constant.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    positions : int
        Size of each set, 1 or more; an image of no more positions loses all but one.
    subsets : int
        At least 3; as many forward passes a case, for all methods and layers together.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    seed : int

    Returns
    -------
    dict
        ``correlation`` (N,): Pearson, -1 to 1, higher is better; 0 where the map has the same sum over all
        sets, as a constant map has; NaN where all drops are equal.
        Of random maps it is 0 on average.

    Raises
    ------
    ValueError
        For no positions or fewer than 3 subsets.

    References
    ----------
    Bhatt, Weller, Moura: Evaluating and aggregating feature-based model explanations, IJCAI 2020.
    """
    if positions < 1 or subsets < 3:
        raise ValueError(f"faithfulness_correlation: positions={positions} (1 or more), subsets={subsets} (3 or more)")
    share = positions / heatmaps[0].numel()
    sums, drops = sums_and_drops(heatmaps, batch, score, share, subsets, 1, baseline, seed)
    return {"correlation": agreement(heatmaps, sums, drops)}
