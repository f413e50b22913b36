"""The box of a map at a threshold that no ground truth chose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from torch import Tensor

from ..localization import eight_bit, overlap, whole_boxes
from .contours import contour_boxes

RULES = ("mean", "otsu")


def gt_known(heatmaps: Tensor, batch: Any, *, threshold: float | str = 0.2, iou: float = 0.5) -> dict[str, Tensor]:
    """Whether the map's box at one threshold meets an instance, and whether its class is predicted, too.

    The map is scaled to 0..255 in 8 bits and cut strictly above the threshold; the tight box of the contour of largest
    area is the map's. Boxes and IoU are wsolevaluation's, as in `metrics.localization.max_box_acc`, which takes the
    threshold that is best for the test data: at each of its levels ``largest_50`` is this metric. One instance met
    suffices. A constant map has no box.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Its ``boxes`` in input pixels are used, cut to the image and rounded down, and ``predicted``.
    threshold : float or {"mean", "otsu"}
        Share of the range of the map's values, 0 to below 1: .2 of the maximum is the rule of Zhou et al. 2016, whose
        lowest value is taken to be 0. ``mean``: the mean of the map's values, as Wei et al. 2017 cut theirs. ``otsu``:
        what parts the values' histogram in two with the largest variance between them (Otsu 1979).
    iou : float
        Above 0, at most 1.

    Returns
    -------
    dict
        0 to 1, higher is better; NaN without a box in the image:

        - ``iou`` (N,): largest intersection over union of the map's box with an instance; 0 without a box;
        - ``gt_known`` (N,): 1 where that is at least `iou`: localization with the class known;
        - ``top_1_loc`` (N,): 1 where also the most probable class is the case's, NaN where it is not known.

    Raises
    ------
    ValueError
        For an unknown rule, a threshold outside 0..1 or an `iou` outside it.

    References
    ----------
    Zhou, Khosla, Lapedriza, Oliva, Torralba: Learning deep features for discriminative localization, CVPR 2016,
    section 3.2. Russakovsky et al.: ImageNet large scale visual recognition challenge, IJCV 2015 (the two errors). Wei,
    Luo, Wu, Zhou: Selective convolutional descriptor aggregation for fine-grained image retrieval, TIP 2017. Otsu: A
    threshold selection method from gray-level histograms, 1979.
    """
    known = threshold in RULES if isinstance(threshold, str) else 0 <= threshold < 1
    if not known or not 0 < iou <= 1:
        raise ValueError(f"threshold={threshold} and iou={iou}: 0 to below 1 or {', '.join(RULES)}, and above 0 to 1")
    best = []
    for i, heatmap in enumerate(heatmaps):
        truth = whole_boxes(batch.boxes[i], heatmap)
        best.append(_best_overlap(eight_bit(heatmap), truth, threshold) if len(truth) else math.nan)
    met = [share if math.isnan(share) else float(share >= iou) for share in best]
    predicted = batch.predicted or [None] * len(best)
    right = [math.nan if p is None else float(p in group) for p, group in zip(predicted, batch.targets, strict=True)]
    both = [one * other for one, other in zip(met, right, strict=True)]
    named = {"iou": best, "gt_known": met, "top_1_loc": both}
    return {name: heatmaps.new_tensor(values, dtype=torch.float32) for name, values in named.items()}


def _best_overlap(image: NDArray[np.uint8], truth: NDArray[Any], threshold: float | str) -> float:
    mask = image > level(image, threshold)
    if not mask.any():
        return 0.0
    boxes, largest = contour_boxes(mask.astype(np.uint8))
    return float(overlap(boxes[largest : largest + 1], truth, extra=1).max())


def level(image: NDArray[np.uint8], threshold: float | str) -> float:
    """Value of an 8-bit map (H, W) that its foreground is above; rules as in `gt_known`."""
    if threshold == "mean":
        return float(image.mean())
    if threshold == "otsu":
        return float(threshold_otsu(image))
    return int(float(threshold) * 255)
