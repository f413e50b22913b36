"""Boxes of the contours of a mask, as wsolevaluation finds them with OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Runs of set pixels from which on labelling all parts at once beats tracing each.
MANY_RUNS = 2500


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
