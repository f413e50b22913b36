"""What several metrics share: boxes as sets of pixels, and the energy of a map.

Pixel ``i`` covers ``[i, i + 1)`` on continuous coordinates, its centre lies at ``i + 0.5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_constant(heatmap: Tensor) -> bool:
    """Whether a map (*spatial) says nothing about position, as a zero map or one that came from NaN."""
    return bool(heatmap.max() == heatmap.min())


def constant_rows(values: Tensor) -> Tensor:
    """Say of each row of values (N, ...), such as a map, whether it is one value everywhere; bool (N,)."""
    flat = values.flatten(1)
    return flat.amax(1) == flat.amin(1)


def pixel_ranges(boxes: Tensor) -> Tensor:
    """First and last pixel of each box along each axis: those whose centre lies in ``[x0, x1)``, ``[y0, y1)``.

    A box too thin to hold a centre along an axis gets the pixel its own centre lies in, so no object vanishes.

    Parameters
    ----------
    boxes : Tensor, shape (M, 2 * rank)
        xyxy, in a volume xyzxyz, float or whole numbers, x1 and y1 exclusive.

    Returns
    -------
    Tensor, shape (M, 2 * rank)
        x0, y0, x1, y1, both ends INCLUSIVE, long, not cut to any image.
    """
    low, high = boxes.float().chunk(2, 1)
    first, last = (low - 0.5).ceil(), (high - 0.5).ceil() - 1
    middle = ((low + high) / 2).floor()
    thin = last < first
    return torch.cat([torch.where(thin, middle, first), torch.where(thin, middle, last)], dim=1).long()


def box_masks(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Pixels of each box, cut to the image; a box wholly outside it has none.

    Parameters
    ----------
    boxes : Tensor, shape (M, 2 * rank)
        xyxy, in a volume xyzxyz, in the image's pixels, x1 and y1 exclusive.
    size : sequence of int
        (height, width), or (depth, height, width).

    Returns
    -------
    Tensor, shape (M, *size), bool
    """
    rank = len(size)
    ranges = pixel_ranges(boxes.reshape(-1, 2 * rank))
    inside = torch.ones(len(ranges), *[1] * rank, dtype=torch.bool, device=boxes.device)
    for axis, length in enumerate(size):
        shape = [-1 if other == axis else 1 for other in range(rank)]
        places = torch.arange(length, device=boxes.device).view(shape)
        # x, the last axis, comes first.
        first, last = (ranges[:, at].view(-1, *[1] * rank) for at in (rank - 1 - axis, 2 * rank - 1 - axis))
        inside = inside & (places >= first) & (places <= last)
    return inside


def union_area(boxes: Tensor) -> float:
    """Area, or volume, of the union of boxes (M, 2 * rank) in pixels: of the parts that their sides cut out."""
    if not len(boxes):
        return 0.0
    boxes = boxes.double().cpu()
    rank = boxes.shape[1] // 2
    covered, sizes = torch.ones(len(boxes), *[1] * rank, dtype=torch.bool), torch.ones([1] * rank, dtype=torch.float64)
    for axis in range(rank):
        edges = boxes[:, axis::rank].unique()
        shape = [-1 if other == axis else 1 for other in range(rank)]
        inside = (boxes[:, axis, None] <= edges[:-1]) & (edges[:-1] < boxes[:, rank + axis, None])
        covered = covered & inside.view(len(boxes), *shape)
        sizes = sizes * edges.diff().view(shape)
    return float((covered.any(0) * sizes).sum())


def instance_masks(boxes: Tensor, heatmap: Tensor) -> Tensor:
    """Masks (M, *spatial) on the map's device of the boxes that have a pixel in the image; M may be 0."""
    masks = box_masks(boxes.to(heatmap.device), heatmap.shape)
    return masks[masks.flatten(1).any(1)]


def positive_energy(heatmap: Tensor) -> Tensor:
    """Positive part of a map, float32, divided by its maximum so that sums neither overflow nor vanish.

    A map without positive values shows no place more than another: it counts as uniform, 1 everywhere.
    """
    positive = heatmap.float().clamp(min=0)
    peak = positive.max()
    return positive / peak if peak > 0 else torch.ones_like(positive)


def unit_range(heatmaps: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scale maps (N, *spatial) to minimum 0 and maximum 1; a constant map, which points nowhere, becomes 0.

    It computes in float64, where differences of float32 values neither overflow nor vanish; wsolevaluation's protocol
    needs the float64 values.
    """
    flat = heatmaps.flatten(1).double()
    flat = flat - flat.amin(1, keepdim=True)
    peak = flat.amax(1, keepdim=True)
    return torch.where(peak > 0, flat / peak, torch.zeros_like(flat)).to(dtype).view(heatmaps.shape)


def to_original(places: Sequence[Any], to_input: Sequence[float]) -> tuple[Any, ...]:
    """Pixel index (row, column) of the input as the pixel index (x, y) of the original image, not rounded.

    Parameters
    ----------
    places : sequence of float or Tensor
        Index of an input pixel along each axis; its centre is half a pixel further.
    to_input : sequence of float
        (sx, sy, tx, ty) with ``x_input = sx * x_original + tx`` on continuous coordinates; in a volume also z's.

    Returns
    -------
    tuple of float or Tensor
        x, y, or x, y, z; whole numbers are centres of original pixels.
    """
    rank = len(places)
    return tuple(
        (place + 0.5 - shift) / scale - 0.5
        for place, scale, shift in zip(reversed(places), to_input[:rank], to_input[rank:], strict=True)
    )
