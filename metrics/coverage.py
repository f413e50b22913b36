"""Coverage: whether ALL instances are shown by a map that may light no more than they cover; and relevance on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor

from .faithfulness import area, step_counts
from .geometry import instance_masks, positive_energy
from .ranking import expected_counts, order, tied_group

RECALL_AT = (0.25, 0.5, 0.75)
BUDGETS = 20


def box_coverage(heatmaps: Tensor, batch: Any, *, max_area: float = 0.85) -> dict[str, Tensor]:
    """How much of each instance the map's highest positions cover, as many positions as the instances fill.

    Boxes B_1..B_n, union U, M = the |U| highest positions. A map cannot gain by lighting everything, and neither
    threshold nor normalization enters. Boxes are cut to the network's input; an instance wholly outside it does not
    count. Overlapping boxes share their common pixels' coverage and energy. Where the budget cuts a group of tied
    positions the values are expectations over the random order of these; ``min_coverage``, which has no closed form,
    takes the case's own random order (`metrics.ranking.order`). So a constant map scores what random maps score.

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
        - ``min_coverage`` (N,): the smallest c_i; NaN for one instance;
        - ``instance_recall_25``, ``_50``, ``_75`` (N,): share of instances with c_i of at least .25, .5, .75; of a
          cut tied group the probability (hypergeometric) that c_i is so large;
        - ``purity`` (N,): ``|M and U| / |U|``;
        - ``evenness`` (N,): entropy of the instances' shares of the positive energy inside U, divided by log n;
          0 without energy there, NaN for one instance;
        - ``coverage_curve`` (N, 20): coverage where M has 5 %, 10 %, ... 100 % of the image (rounded down);
        - ``curve_area`` (N,): area under that curve from 0 on; a random map scores .5.
    """
    rows = [_one_case(heatmap, batch.boxes[i], batch.ids[i], max_area) for i, heatmap in enumerate(heatmaps)]
    return {name: torch.stack([row[name] for row in rows]).float() for name in rows[0]}


def _one_case(heatmap: Tensor, boxes: Tensor, case: str, max_area: float) -> dict[str, Tensor]:
    masks = instance_masks(boxes, heatmap).flatten(1)
    union = masks.any(0)
    budget = int(union.sum())
    curve_counts = step_counts(BUDGETS, heatmap.numel())
    if budget == 0 or budget > max_area * heatmap.numel():
        nothing = heatmap.new_tensor(math.nan)
        names = ["coverage", "min_coverage", *map(_recall_name, RECALL_AT), "purity", "evenness", "curve_area"]
        return {**{name: nothing for name in names}, "coverage_curve": nothing.expand(BUDGETS)}

    positions = order(heatmap[None], [case])[0]
    values, members = heatmap.flatten()[positions], masks[:, positions]
    sizes = masks.sum(1, keepdim=True)
    covered = expected_counts(values, members, [budget, *curve_counts]) / sizes
    curve = covered[:, 1:].mean(0)
    several = len(masks) > 1
    smallest = (members[:, :budget].sum(1) / sizes[:, 0]).min()
    energy = (positive_energy(heatmap).flatten() * masks).sum(1)
    return {
        "coverage": covered[:, 0].mean(),
        "min_coverage": smallest if several else torch.full_like(smallest, math.nan),
        **{_recall_name(at): _recall(values, members, budget, at) for at in RECALL_AT},
        "purity": expected_counts(values, union[positions][None], [budget])[0, 0] / budget,
        "evenness": _evenness(energy) if several else torch.full_like(energy[0], math.nan),
        "coverage_curve": curve[1:],
        "curve_area": area(curve[None], curve_counts)[0],
    }


def _recall_name(at: float) -> str:
    return f"instance_recall_{round(100 * at)}"


def _recall(values: Tensor, members: Tensor, budget: int, at: float) -> Tensor:
    """Compute the expected share of instances with at least this share of their pixels among the highest positions."""
    first, last = tied_group(values, budget)
    sure, tied = members[:, :first].sum(1).cpu().numpy(), members[:, first:last].sum(1).cpu().numpy()
    lacking = np.ceil(at * members.sum(1).cpu().numpy() - 1e-9) - sure
    # Of the tied positions budget - first are among the highest, drawn without replacement.
    reached = hypergeom.sf(lacking - 1, last - first, tied, budget - first) if last > first else lacking <= 0
    return values.new_tensor(np.mean(reached), dtype=torch.float64)


def _evenness(energies: Tensor) -> Tensor:
    if energies.sum() == 0:
        return torch.zeros_like(energies[0])
    return torch.special.entr(energies / energies.sum()).sum() / math.log(len(energies))


def relevance(heatmaps: Tensor, batch: Any, *, k: int = 1000) -> dict[str, Tensor]:
    """Three published overlaps of a map with the class's pixels G: instance masks, or boxes where there are none.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    k : int
        Positions of the top-k intersection, at least 1; all of the image where it has fewer.

    Returns
    -------
    dict
        0 to 1, higher is better; NaN where G has no pixel in the image. Where the last of the highest positions tie
        with others, the expectation over random orders of these; a constant map scores the share of the image in G:

        - ``mass`` (N,): positive energy in G over all (relevance mass accuracy, Arras et al. 2022);
        - ``rank`` (N,): share of the ``|G|`` highest positions that lie in G (relevance rank accuracy, same);
        - ``top_k`` (N,): share of the `k` highest positions that lie in G (top-k intersection, Theiner et al. 2022).

    Raises
    ------
    ValueError
        For ``k`` below 1.

    References
    ----------
    Arras, Osman, Samek: CLEVR-XAI, Information Fusion 2022. Theiner, Mueller-Budack, Ewerth: Interpretable semantic
    photo geolocation, WACV 2022.
    """
    if k < 1:
        raise ValueError(f"relevance: k must be at least 1, not {k}")
    result = torch.full((3, len(heatmaps)), math.nan, device=heatmaps.device)
    for i, heatmap in enumerate(heatmaps):
        truth = class_pixels(batch, i, heatmap)
        if not bool(truth.any()):
            continue
        energy = positive_energy(heatmap)
        ranked = heatmap.flatten().sort(descending=True)
        counts = [int(truth.sum()), min(k, heatmap.numel())]
        hits = expected_counts(ranked.values, truth.flatten()[ranked.indices][None], counts)[0]
        shares = (hits / hits.new_tensor(counts)).to(energy)
        result[:, i] = torch.stack([energy[truth].sum() / energy.sum(), *shares])
    return dict(zip(("mass", "rank", "top_k"), result, strict=True))


def mask_iou(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Intersection over union of the class's mask G and the map's ``|G|`` highest positions.

    The budget takes the place of a threshold, so no scale of the map enters and a map cannot gain by lighting much or
    little. For h positions on the mask it is ``h / (2 |G| - h)``: ``relevance.rank``, which is ``h / |G|``, in the
    measure of segmentation. Regions to ignore (crowds) that are in no instance count neither way.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Its ``masks`` and ``ignore`` in input pixels are used.

    Returns
    -------
    dict
        ``iou`` (N,), 0 to 1, higher is better; NaN without masks, or none of them in the image. Where the budget cuts a
        group of tied positions, the expectation over the random order of these; so a constant map scores what random
        maps do, some s / (2 - s) where the mask fills a share s of the image.

    References
    ----------
    The measure of Everingham et al.: The PASCAL visual object classes challenge, IJCV 2010, section 4.3; the budget is
    that of relevance rank accuracy, Arras et al. 2022.
    """
    ignored = batch.ignore or [torch.zeros(0, 4)] * len(heatmaps)
    result = torch.full((len(heatmaps),), math.nan, device=heatmaps.device)
    for i, heatmap in enumerate(heatmaps):
        if batch.masks[i] is None:
            continue
        truth = class_pixels(batch, i, heatmap)
        counted = truth | ~instance_masks(ignored[i], heatmap).any(0)
        budget = int(truth.sum())
        if budget:
            values, places = heatmap[counted].sort(descending=True)
            result[i] = _expected_iou(values, truth[counted][places], budget)
    return {"iou": result}


def _expected_iou(values: Tensor, members: Tensor, budget: int) -> float:
    """Mean of h / (2 budget - h) over random orders of tied positions, h members among the budget highest."""
    first, last = tied_group(values, budget)
    sure, tied = int(members[:first].sum()), int(members[first:last].sum())
    drawn = np.arange(min(tied, budget - first) + 1)
    # By its logarithm: `pmf` itself takes a second for thousands of tied positions.
    odds = hypergeom.logpmf(drawn, last - first, tied, budget - first) if last > first else np.zeros(1)
    chances = np.exp(odds)
    hits = sure + drawn
    return float((chances * hits / (2 * budget - hits)).sum())


def class_pixels(batch: Any, i: int, heatmap: Tensor) -> Tensor:
    """Pixels (H, W), bool, of the class in case `i`: the union of its masks, or of its boxes without masks."""
    masks = batch.masks[i]
    masks = instance_masks(batch.boxes[i], heatmap) if masks is None else masks.to(heatmap.device)
    return masks.any(0)
