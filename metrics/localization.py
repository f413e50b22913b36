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

from .boxes.contours import contour_boxes
from .geometry import instance_masks, is_constant, unit_range

IOUS = (30, 50, 70)
LEVELS = 255
# Edges of the published thresholds 0, .001 ... .999, the bin of the value 1 behind them.
EDGES = np.append(np.arange(0, 1, 0.001), [1.0, 2.0])
UPSAMPLINGS = ("linear", "cubic")


def max_box_acc(
    heatmaps: Tensor, batch: Any, *, native: Tensor | None = None, upsampling: str = "linear"
) -> dict[str, Tensor]:
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
    native : Tensor, shape (N, h, w), optional
        The maps at their layer's size; used for ``cubic`` alone.
    upsampling : {"linear", "cubic"}
        ``cubic`` takes the map that OpenCV's INTER_CUBIC makes of the native one, as wsolevaluation and so the
        published tables do, in place of `heatmaps`. There the native map is the CAM without a ReLU.

    Returns
    -------
    dict
        All NaN without a box in the image:

        - ``correct_30``, ``_50``, ``_70`` (N, 255): 1 where a contour's box has IoU of at least .3, .5, .7 with an
          instance at this level, else 0. MaxBoxAccV2 is `mean_of_best` of their means over cases;
        - ``largest_50`` (N, 255): the same at .5 for the largest contour. MaxBoxAcc is `mean_of_best` of its mean;
        - ``best_iou`` (N,): highest IoU over all levels and contours, 0 to 1: what a perfect choice of threshold
          for each image would reach.

    Raises
    ------
    ValueError
        For an unknown `upsampling`.

    References
    ----------
    Choe et al.: Evaluating weakly supervised object localization methods right, CVPR 2020, and the V2 of their journal
    version, TPAMI 2022.
    """
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"upsampling={upsampling} is unknown; it takes {', '.join(UPSAMPLINGS)}")
    if upsampling == "cubic" and native is not None:
        heatmaps = cubic(native, heatmaps.shape[1:]).to(heatmaps)
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


def corner_mask(mask: NDArray[np.bool_], to_input: Sequence[float], size: Sequence[int]) -> NDArray[np.bool_]:
    """Bring an original mask to the input as cv2.resize with INTER_NEAREST does, which PxAP's code uses.

    A pixel takes the original one that its upper left CORNER lies in, which shifts the mask by up to half a pixel of
    the input; everything else in this program goes by centres.

    Parameters
    ----------
    mask : array, shape (h, w), or (d, h, w)
    to_input : (sx, sy, tx, ty)
        As in `Batch`, with whole tx and ty.
    size : (H, W), or (D, H, W)

    Returns
    -------
    array, shape `size`, bool
        False where the input shows nothing of the original.
    """
    rank = len(size)
    taken, inside = [], []
    for old, new, scale, shift in zip(mask.shape, size, to_input[:rank][::-1], to_input[rank:][::-1], strict=True):
        resized = round(old * scale)
        places = np.arange(new) - round(shift)
        taken.append(np.floor(places * (1 / (resized / old))).astype(int).clip(0, old - 1))
        inside.append((places >= 0) & (places < resized))
    result = mask[np.ix_(*taken)]
    for axis, along in enumerate(inside):
        result = result & along.reshape([-1 if other == axis else 1 for other in range(rank)])
    return result


def score_map(heatmap: Tensor) -> NDArray[np.float64]:
    """Scale a map (*spatial) to minimum 0 and maximum 1 in float64 as wsolevaluation does; a constant one becomes 0."""
    return unit_range(heatmap.detach()[None], torch.float64)[0].cpu().numpy()


def cubic(native: Tensor, size: Sequence[int]) -> Tensor:
    """Bring maps (N, h, w) to `size` as OpenCV's INTER_CUBIC does; a constant or non-finite map is zero.

    Cubic interpolation leaves the range of its input, and of a constant map it would leave rounding to be scaled.
    """
    height, width = size
    resized = []
    for one in native.cpu().float():
        sound = bool(one.isfinite().all()) and not is_constant(one)
        enlarged = cv2.resize(one.numpy(), (width, height), interpolation=cv2.INTER_CUBIC) if sound else None
        resized.append(torch.zeros(height, width) if enlarged is None else torch.from_numpy(enlarged))
    return torch.stack(resized)


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
    """IoU of boxes (A, 2 * rank) with truth (B, 2 * rank), x first, shape (A, B); `extra` is added to side lengths."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(truth, np.float64)[None]
    (a0, a1), (b0, b1) = (np.split(one, 2, axis=-1) for one in (a, b))
    common = (np.minimum(a1, b1) - np.maximum(a0, b0) + extra).clip(0).prod(-1)
    union = (a1 - a0 + extra).prod(-1) + (b1 - b0 + extra).prod(-1) - common
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
