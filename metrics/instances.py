"""Boxes cut from the map, matched one to one with the instances: what MaxBoxAcc, satisfied with one, does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .geometry import instance_masks
from .localization import overlap, score_map
from .ranking import generator

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


def instance_boxes(
    heatmaps: Tensor,
    batch: Any,
    *,
    threshold: float = 0.5,
    iou: float = 0.5,
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, Tensor]:
    """Recall, precision and average precision of the boxes of the map's connected parts, matched one to one.

    The map, scaled to 0..1, is cut strictly above a threshold; each connected part (8 neighbours, 26 in a volume) gives
    its tight box. A box and an instance may be matched at IoU of at least `iou`, each once; the largest possible
    matching counts. So one blob over three objects finds one of them at most.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Its ``boxes`` in input pixels are used, cut to the image, not rounded.
    threshold : float
        Of the scalar outputs, 0 to below 1.
    iou : float
        Above 0, at most 1.
    thresholds : sequence of float
        Of the curves.

    Returns
    -------
    dict
        0 to 1, higher is better; all NaN without a box in the image:

        - ``recall``, ``precision``, ``f1`` (N,): matched instances over instances, over boxes, and their harmonic mean;
          a map that gives no box (a constant one) has 0;
        - ``average_precision`` (N,): boxes ranked by the map's sum inside their part, each takes the free instance it
          overlaps most; area under the precision made monotone, over recall;
        - ``recall_curve``, ``precision_curve``, ``f1_curve`` (N, len(thresholds)). The best threshold for the whole
          data set is where the mean of ``f1_curve`` over cases is highest.

    Raises
    ------
    ValueError
        For a threshold outside 0..1 or an `iou` outside it.
    """
    if not all(0 <= t < 1 for t in (threshold, *thresholds)) or not 0 < iou <= 1:
        raise ValueError(f"instance_boxes: thresholds must be 0 to below 1 and 0 < iou <= 1, not iou={iou}")
    rows = [
        _one_case(heatmap, boxes, case, threshold, iou, thresholds)
        for heatmap, boxes, case in zip(heatmaps, batch.boxes, batch.ids, strict=True)
    ]
    return {key: heatmaps.new_tensor(np.stack([row[key] for row in rows]), dtype=torch.float32) for key in rows[0]}


def _one_case(
    heatmap: Tensor, boxes: Tensor, case: str, threshold: float, iou: float, thresholds: Sequence[float]
) -> dict[str, NDArray[Any]]:
    ends = list(reversed(heatmap.shape)) * 2
    inside = [len(instance_masks(box[None], heatmap)) > 0 for box in boxes]
    truth = boxes.cpu().double().numpy()[np.array(inside, dtype=bool)].clip(0, ends)
    values = score_map(heatmap)
    counts = []
    for cut in (threshold, *thresholds):
        proposals, mass = part_boxes(values, cut)
        possible = overlap(proposals, truth) >= iou
        counts.append((_matching(possible), len(proposals)))
        if len(counts) == 1:
            ranked = overlap(proposals, truth)[_by_mass(mass, case)]
            average = _average_precision(ranked, iou) if len(truth) else np.nan
    matched, proposed = np.array(counts, dtype=np.float64).T
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = matched / len(truth) if len(truth) else np.full_like(matched, np.nan)
        precision = np.where(proposed > 0, matched / proposed, 0) + 0 * recall  # NaN where recall is
        f1 = 2 * matched / (proposed + len(truth)) + 0 * recall
    rates = {"recall": recall, "precision": precision, "f1": f1}
    scalars = {name: rate[0] for name, rate in rates.items()} | {"average_precision": np.array(average)}
    return scalars | {f"{name}_curve": rate[1:] for name, rate in rates.items()}


def part_boxes(values: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes (M, 2 * rank), x first, with exclusive ends, and sums (M,) of the connected parts above the threshold.

    Positions are connected that touch, also with a corner.
    """
    rank = values.ndim
    labels, parts = ndimage.label(values > threshold, structure=np.ones((3,) * rank))
    if parts == 0:
        return np.zeros((0, 2 * rank)), np.zeros(0)
    sides = [list(reversed(place)) for place in ndimage.find_objects(labels)]
    boxes = np.array([[*(s.start for s in one), *(s.stop for s in one)] for one in sides], dtype=np.float64)
    return boxes, np.bincount(labels.ravel(), weights=values.ravel())[1:].astype(np.float64)


def _matching(possible: NDArray[np.bool_]) -> int:
    """Largest number of pairs, each row and column used once."""
    possible = possible[possible.any(1)]
    return int(possible[linear_sum_assignment(possible, maximize=True)].sum()) if possible.size else 0


def _by_mass(mass: NDArray[np.float64], case: str) -> NDArray[np.int64]:
    """Order of the parts, the largest mass first; equal ones in a random order that follows from the case's id."""
    lots = torch.rand(len(mass), generator=generator(f"parts:{case}")).numpy()
    # In float32, so that parts of one shape are equal wherever they lie.
    return np.lexsort((lots, -mass.astype(np.float32)))


def _average_precision(overlaps: NDArray[np.float64], iou: float) -> NDArray[np.float64]:
    """Average precision of M ranked boxes, from their overlaps (M, G) with the instances."""
    free = np.ones(overlaps.shape[1], dtype=bool)
    hits = np.zeros(len(overlaps))
    for place, row in enumerate(overlaps):
        allowed = np.where(free & (row >= iou), row, -1)
        if allowed.max() >= 0:
            free[allowed.argmax()], hits[place] = False, 1
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return np.asarray((envelope * hits).sum() / len(free))
