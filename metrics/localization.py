"""Localization as wsolevaluation measures it: MaxBoxAcc, MaxBoxAccV2 and PxAP.

Their values belong to a data set, not to a case: one threshold is chosen for all cases. So a case yields a curve over
thresholds, and the statistic is a function of the curves' mean over cases. Means merge from chunks in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import instance_masks, unit_range

IOUS = (30, 50, 70)
LEVELS = 255
# Runs of set pixels from which on labelling all parts at once beats tracing each.
MANY_RUNS = 2500
# Edges of the published thresholds 0, .001 ... .999, the bin of the value 1 behind them.
EDGES = np.append(np.arange(0, 1, 0.001), [1.0, 2.0])


def max_box_acc(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Whether a box cut from the map meets an instance, at every threshold (MaxBoxAcc and MaxBoxAccV2).

    The map is scaled to 0..255 in 8 bits and cut at ``int(t * 255)`` for t = 0, .001 ... .999, strictly above. All
    contours count, holes' too, each with its tight box; V1 takes the contour of largest area only. One ground truth
    box met suffices. Boxes have wsolevaluation's whole pixels, whose last row and column is one too far, cut to the
    image, and areas with ``+ 1``. Its thousand thresholds are 255 distinct levels; every distinct mask is looked at
    once. Some 30 ms at 224x224 for a CAM; up to 1 s for pixel noise, whose masks have thousands of contours.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Its ``boxes`` in input pixels are used, cut to the image and rounded down.

    Returns
    -------
    dict
        All NaN without a box in the image:

        - ``correct_30``, ``_50``, ``_70`` (N, 255): 1 where a contour's box has IoU of at least .3, .5, .7 with an
          instance at this level, else 0. MaxBoxAccV2 is `mean_of_best` of their means over cases;
        - ``largest_50`` (N, 255): the same at .5 for the largest contour. MaxBoxAcc is `mean_of_best` of its mean;
        - ``best_iou`` (N,): highest IoU over all levels and contours, 0 to 1: what a perfect choice of threshold
          for each image would reach.

    References
    ----------
    Choe et al.: Evaluating weakly supervised object localization methods right, CVPR 2020, and the V2 of their journal
    version, TPAMI 2022.
    """
    rows = []
    for i, heatmap in enumerate(heatmaps):
        truth = whole_boxes(batch.boxes[i], heatmap)
        rows.append(_box_curves(eight_bit(heatmap), truth) if len(truth) else None)
    nothing = {f"correct_{iou}": np.full(LEVELS, np.nan) for iou in IOUS}
    nothing |= {"largest_50": np.full(LEVELS, np.nan), "best_iou": np.array(np.nan)}
    return {
        key: heatmaps.new_tensor(np.stack([(row or nothing)[key] for row in rows]), dtype=torch.float32)
        for key in nothing
    }


def pxap(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Histograms of the map's values on and off the class's masks, from which PxAP follows.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
        Each is scaled to minimum 0 and maximum 1; a constant one becomes 0.
    batch : Batch
        Its ``original_masks`` are used, brought to the map's size as wsolevaluation does it (`corner_mask`), and its
        ``ignore`` regions: their pixels that are in no instance count neither way.

    Returns
    -------
    dict
        All NaN for a case without masks, or none of them in the image:

        - ``positives``, ``negatives`` (N, 1001): pixels on and off the masks with a value in ``[0, .001)`` ...
          ``[.999, 1)``, ``[1, 2)``. PxAP is `pixel_average_precision` of their means over cases;
        - ``ap`` (N,): the same of this case alone, 0 to 1.

    References
    ----------
    Choe et al.: Evaluating weakly supervised object localization methods right, CVPR 2020, section 3.3.
    """
    ignored = batch.ignore or [torch.zeros(0, 4)] * len(heatmaps)
    histograms = np.full((2, len(heatmaps), len(EDGES) - 1), np.nan)
    for i, heatmap in enumerate(heatmaps):
        masks = batch.original_masks[i]
        if masks is None:
            continue
        truth = corner_mask(masks.any(0).cpu().numpy(), batch.to_input[i], heatmap.shape)
        if not truth.any():
            continue
        counted = ~instance_masks(ignored[i], heatmap).any(0).cpu().numpy()
        bins = np.searchsorted(EDGES, score_map(heatmap), side="right") - 1
        for histogram, where in zip(histograms, (truth, ~truth & counted), strict=True):
            histogram[i] = np.bincount(bins[where], minlength=len(EDGES) - 1)
    positives, negatives = (heatmaps.new_tensor(h, dtype=torch.float32) for h in histograms)
    ap = heatmaps.new_tensor(pixel_average_precision([histograms[0], histograms[1]]), dtype=torch.float32)
    return {"positives": positives, "negatives": negatives, "ap": ap}


def mean_of_best(curves: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Mean over the curves of each one's highest point: MaxBoxAcc of one curve, MaxBoxAccV2 of the three.

    Parameters
    ----------
    curves : sequence of array, shape (..., L)
        Means over cases; leading axes (bootstrap resamples) are kept.

    Returns
    -------
    array, shape (...)
    """
    return np.mean([np.asarray(curve).max(-1) for curve in curves], axis=0)


def pixel_average_precision(histograms: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """PxAP: sum over thresholds, from high to low, of the precision times the recall gained.

    Parameters
    ----------
    histograms : sequence of two arrays, shape (..., L)
        Positive and negative pixels by ascending value: sums or means over cases; leading axes are kept.

    Returns
    -------
    array, shape (...)
        0 to 1; NaN where nothing is positive.
    """
    hit, false = (np.flip(np.asarray(h, dtype=np.float64), -1).cumsum(-1) for h in histograms)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = hit / (hit + false)
        gained = np.diff(hit, axis=-1, prepend=0) / hit[..., -1:]
    # Above the highest value there is neither precision nor recall.
    return np.where(gained == 0, 0, precision * gained).sum(-1)


def corner_mask(
    mask: NDArray[np.bool_], to_input: tuple[float, float, float, float], size: Sequence[int]
) -> NDArray[np.bool_]:
    """Bring an original mask to the input as cv2.resize with INTER_NEAREST does, which PxAP's code uses.

    A pixel takes the original one that its upper left CORNER lies in, which shifts the mask by up to half a pixel of
    the input; everything else in this program goes by centres.

    Parameters
    ----------
    mask : array, shape (h, w)
    to_input : (sx, sy, tx, ty)
        As in `Batch`, with whole tx and ty.
    size : (H, W)

    Returns
    -------
    array, shape (H, W), bool
        False where the input shows nothing of the original.
    """
    scale_x, scale_y, shift_x, shift_y = to_input
    taken, inside = [], []
    for old, new, scale, shift in zip(mask.shape, size, (scale_y, scale_x), (shift_y, shift_x), strict=True):
        resized = round(old * scale)
        places = np.arange(new) - round(shift)
        taken.append(np.floor(places * (1 / (resized / old))).astype(int).clip(0, old - 1))
        inside.append((places >= 0) & (places < resized))
    return mask[np.ix_(*taken)] & inside[0][:, None] & inside[1]


def score_map(heatmap: Tensor) -> NDArray[np.float64]:
    """Scale a map (H, W) to minimum 0 and maximum 1 in float64 as wsolevaluation does; a constant one becomes 0."""
    return unit_range(heatmap.detach()[None], torch.float64)[0].cpu().numpy()


def eight_bit(heatmap: Tensor) -> NDArray[np.uint8]:
    """Scale a map (H, W) to 0..255, rounded down."""
    return (score_map(heatmap) * 255).astype(np.uint8)


def whole_boxes(boxes: Tensor, heatmap: Tensor) -> NDArray[np.float64]:
    """Boxes (M, 4) that have a pixel in the image, cut to it and rounded down.

    A whole number stays one where float32 has made less of it: 375 * (224 / 375) is 223.99998.
    """
    height, width = heatmap.shape
    rounding = 4 * np.finfo(np.float32).eps * max(height, width)
    inside = [len(instance_masks(box[None], heatmap)) > 0 for box in boxes]
    kept = boxes.cpu().double().numpy()[np.array(inside, dtype=bool)]
    return np.floor(kept.clip(0, [width, height, width, height]) + rounding)


def overlap(boxes: NDArray[Any], truth: NDArray[Any], extra: float = 0) -> NDArray[np.float64]:
    """IoU of boxes (A, 4) with truth (B, 4), xyxy, shape (A, B); `extra` is added to every side length."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(truth, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + extra
    common = sides.clip(0).prod(-1)
    union = (a[..., 2:] - a[..., :2] + extra).prod(-1) + (b[..., 2:] - b[..., :2] + extra).prod(-1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _box_curves(image: NDArray[np.uint8], truth: NDArray[Any]) -> dict[str, NDArray[Any]]:
    values = np.unique(image)
    # All thresholds from one occurring value up to the next give the same mask.
    lows, repeats = (values[:-1], np.diff(values.astype(int))) if len(values) > 1 else (values, np.array([LEVELS]))
    contours = [contour_boxes((image > low).astype(np.uint8)) for low in lows]
    starts = np.cumsum([0] + [len(boxes) for boxes, _ in contours[:-1]])
    best = overlap(np.concatenate([boxes for boxes, _ in contours]), truth, extra=1).max(1)
    peak = np.repeat(np.maximum.reduceat(best, starts), repeats)
    largest = np.repeat(best[starts + [biggest for _, biggest in contours]], repeats)
    curves = {f"correct_{iou}": (peak >= iou / 100).astype(float) for iou in IOUS}
    return {**curves, "largest_50": (largest >= 0.5).astype(float), "best_iou": best.max()}


def contour_boxes(mask: NDArray[np.uint8]) -> tuple[NDArray[Any], int]:
    """Tight boxes of all contours of a mask, with wsolevaluation's whole pixels.

    Parameters
    ----------
    mask : array, shape (H, W), uint8
        0 and 1. Parts are 8-connected, holes 4-connected; a hole's contour runs over the set pixels around it.

    Returns
    -------
    boxes : array, shape (M, 4)
        x, y, x + width, y + height, the last two cut to W - 1, H - 1; a single (0, 0, 0, 0) for an empty mask.
    largest : int
        Index of the contour with the largest area inside the polygon through its pixels' centres. Where several are
        largest, which has no consequence unless an object is a few pixels small, OpenCV's order decides; it may be
        another one for masks of `MANY_RUNS`.
    """
    if not mask.any():
        return np.zeros((1, 4), dtype=np.int64), 0
    runs = np.count_nonzero(mask[:, 1:] > mask[:, :-1])
    boxes, largest = _label(mask) if runs >= MANY_RUNS else _trace(mask)
    ends = np.minimum(boxes[:, :2] + boxes[:, 2:], np.array(mask.shape[::-1]) - 1)
    return np.concatenate([boxes[:, :2], ends], axis=1), largest


def _trace(mask: NDArray[np.uint8]) -> tuple[NDArray[Any], int]:
    """Boxes (x, y, width, height) and the largest, from the contours themselves: quick where they are few."""
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    boxes = np.array([cv2.boundingRect(contour) for contour in contours])
    return boxes, max(range(len(contours)), key=[cv2.contourArea(contour) for contour in contours].__getitem__)


def _label(mask: NDArray[np.uint8]) -> tuple[NDArray[Any], int]:
    """Do the same as `_trace` by labelling parts and holes: quick where there are thousands."""
    _, labels, parts, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    parts = parts[1:, :4]
    # With a border of background around the mask, the outside is the part of its corner and not a hole.
    _, around, holes, _ = cv2.connectedComponentsWithStats(np.pad(1 - mask, 1, constant_values=1), connectivity=4)
    holes = np.delete(holes, [0, around[0, 0]], axis=0)
    inner = holes[:, :4] + np.array([-2, -2, 2, 2])  # one pixel of border, one for the set pixels around the hole
    # A polygon through centres has at most its box's area less a pixel a side: most parts need not be measured. The
    # largest contour is never a hole's, since the part around it has at least its area.
    bounds = ((parts[:, 2] - 1) * (parts[:, 3] - 1)).tolist()
    largest, size = 0, -1.0
    for i in sorted(range(len(bounds)), key=bounds.__getitem__, reverse=True):
        if bounds[i] <= size:
            break
        x, y, width, height = parts[i].tolist()
        part = (labels[y : y + height, x : x + width] == i + 1).astype(np.uint8)
        outline = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        if (measured := cv2.contourArea(outline[0])) > size:
            largest, size = i, measured
    return np.concatenate([parts, inner]), largest
