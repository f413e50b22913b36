"""What is looked at of a case: a picture with its map and boxes; of a volume, three slices through one voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis.groups import Group
from bench.analysis.kept_maps import upsample


@dataclass(frozen=True, eq=False)
class View:
    """A picture (H, W, 3) in 0 to 1, a map (h, w) of all of it or None, and boxes (M, 4), xyxy, in it.

    `size` is the height and width that the boxes speak of.
    """

    size: tuple[int, int]
    image: NDArray[np.float64]
    heat: NDArray[np.float64] | None
    boxes: NDArray[np.float64]
    others: NDArray[np.float64]


def input_size(group: Group, image: NDArray[np.float64]) -> tuple[int, ...]:
    """Pixels of the network's input along each axis, where `image` is one of its kept pictures."""
    known = group.parameters.get("input", {})
    if known.get("rank", 2) == 2:
        return image.shape[:2]
    return tuple(known["size"]) if isinstance(known["size"], list) else (known["size"],) * known["rank"]


def view_of(image: NDArray[np.float64], about: dict[str, Any], size: Sequence[int], heat: Any = None) -> View:
    """Picture, map and boxes of a case with the columns `about`; a volume's slices through the map's maximum.

    `image` is as it was kept, a volume's slices below each other, and `heat` the native map (*spatial) or None: then
    the slices go through the middle of the first box, or of the volume.
    """
    boxes, others = (
        np.asarray([] if about[key] is None else about[key], dtype=np.float64).reshape(-1, 2 * len(size))
        for key in ("boxes", "other_boxes")
    )
    if len(size) == 2:
        return View((int(about["height"]), int(about["width"])), image, heat, boxes, others)
    at = [side // 2 for side in size]
    if heat is not None:
        heat = upsample(heat, *size)
        at = [int(place) for place in np.unravel_index(heat.argmax(), heat.shape)]
    elif len(boxes):
        at = [int(place) for place in reversed((boxes[0, :3] + boxes[0, 3:]) // 2)]
    slices = three_slices(image.reshape(*size, 3), at, 1.0)
    heat = None if heat is None else three_slices(heat, at, heat.min())
    return View(slices.shape[:2], slices, heat, *(slice_boxes(each, at, size) for each in (boxes, others)))


def three_slices(values: NDArray[Any], at: Sequence[int], empty: float) -> NDArray[Any]:
    """Slices of a volume (D, H, W, ...) through a voxel (z, y, x), as one picture (H + D, W + D, ...).

    Upper left the slice of z, beside it that of x with z to the right, below it that of y with z downwards.
    """
    depth, height, width = values.shape[:3]
    z, y, x = at
    picture = np.full((height + depth, width + depth, *values.shape[3:]), empty, dtype=np.float64)
    picture[:height, :width] = values[z]
    picture[:height, width:] = values[:, :, x].swapaxes(0, 1)
    picture[height:, :width] = values[:, y]
    return picture


def slice_boxes(boxes: NDArray[np.float64], at: Sequence[int], size: Sequence[int]) -> NDArray[np.float64]:
    """Where boxes (M, 6), x first, cut the slices of `three_slices`, as boxes (n, 4) of that picture."""
    z, y, x = (place + 0.5 for place in at)
    _, height, width = size
    rows = []
    for x0, y0, z0, x1, y1, z1 in boxes.tolist():
        rows += [[x0, y0, x1, y1]] if z0 <= z < z1 else []
        rows += [[width + z0, y0, width + z1, y1]] if x0 <= x < x1 else []
        rows += [[x0, height + z0, x1, height + z1]] if y0 <= y < y1 else []
    return np.asarray(rows, dtype=np.float64).reshape(-1, 4)
