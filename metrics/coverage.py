"""Box coverage: whether ALL instances are shown by a map that may light no more than they cover."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metrics.faithfulness import area, step_counts
from metrics.geometry import instance_masks, order, positive_energy

RECALL_AT = (0.25, 0.5, 0.75)
BUDGETS = 20


def box_coverage(heatmaps: Tensor, batch: Any, *, max_area: float = 0.85) -> dict[str, Tensor]:
    """How much of each instance the map's highest positions cover, as many positions as the instances fill.

    Boxes B_1..B_n, union U, M = the |U| highest positions (ties in row-major order). A map cannot gain by lighting
    everything, and neither threshold nor normalization enters. Boxes are cut to the network's input; an instance
    wholly outside it does not count. Overlapping boxes share their common pixels' coverage and energy.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Its ``boxes`` in input pixels are used.
    max_area : float
        Cases whose U fills more than this share of the image are left out: nearly any map covers them.

    Returns
    -------
    dict
        All NaN for a case that is left out or has no instance; ranges 0 to 1, higher is better:

        - ``coverage`` (N,): mean over instances of c_i = ``|M and B_i| / |B_i|``;
        - ``min_coverage`` (N,): the smallest c_i;
        - ``instance_recall_25``, ``_50``, ``_75`` (N,): share of instances with c_i of at least .25, .5, .75;
        - ``purity`` (N,): ``|M and U| / |U|``;
        - ``evenness`` (N,): entropy of the instances' shares of the positive energy inside U, divided by log n;
          1 for one instance, 0 for several without energy;
        - ``coverage_curve`` (N, 20): coverage where M has 5 %, 10 %, ... 100 % of the image (rounded down);
        - ``curve_area`` (N,): area under that curve from 0 on; a random map scores .5.
    """
    rows = [_one_case(heatmap, batch.boxes[i], max_area) for i, heatmap in enumerate(heatmaps)]
    return {name: torch.stack([row[name] for row in rows]).float() for name in rows[0]}


def _one_case(heatmap: Tensor, boxes: Tensor, max_area: float) -> dict[str, Tensor]:
    masks = instance_masks(boxes, heatmap).flatten(1)
    union = masks.any(0)
    budget = int(union.sum())
    curve_counts = step_counts(BUDGETS, heatmap.numel())
    if budget == 0 or budget > max_area * heatmap.numel():
        nothing = heatmap.new_tensor(math.nan)
        names = ["coverage", "min_coverage", *map(_recall_name, RECALL_AT), "purity", "evenness", "curve_area"]
        return {**{name: nothing for name in names}, "coverage_curve": nothing.expand(BUDGETS)}

    positions = order(heatmap[None])[0]
    # covered[i, k]: pixels of instance i among the k highest positions.
    covered = torch.nn.functional.pad(masks[:, positions].cumsum(1), (1, 0)) / masks.sum(1, keepdim=True)
    instances = covered[:, budget]
    curve = covered[:, curve_counts].mean(0)
    return {
        "coverage": instances.mean(),
        "min_coverage": instances.min(),
        **{_recall_name(at): (instances >= at).float().mean() for at in RECALL_AT},
        "purity": union[positions[:budget]].float().mean(),
        "evenness": _evenness((positive_energy(heatmap).flatten() * masks).sum(1)),
        "coverage_curve": curve[1:],
        "curve_area": area(curve[None], curve_counts)[0],
    }


def _recall_name(at: float) -> str:
    return f"instance_recall_{round(100 * at)}"


def _evenness(energies: Tensor) -> Tensor:
    if len(energies) == 1:
        return torch.ones_like(energies[0])
    if energies.sum() == 0:
        return torch.zeros_like(energies[0])
    return torch.special.entr(energies / energies.sum()).sum() / math.log(len(energies))
