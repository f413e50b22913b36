"""What several metrics share: boxes as sets of pixels, and the energy of a map.

Pixel ``i`` covers ``[i, i + 1)`` on continuous coordinates, its centre lies at ``i + 0.5``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_constant(heatmap: Tensor) -> bool:
    """Whether a map (H, W) says nothing about position, as a zero map or one that came from NaN."""
    return bool(heatmap.max() == heatmap.min())


def pixel_ranges(boxes: Tensor) -> Tensor:
    """First and last pixel of each box along x and y: those whose centre lies in ``[x0, x1)``, ``[y0, y1)``.

    A box too thin to hold a centre along an axis gets the pixel its own centre lies in, so no object vanishes.

    Parameters
    ----------
    boxes : Tensor, shape (M, 4)
        xyxy, float or whole numbers, x1 and y1 exclusive.

    Returns
    -------
    Tensor, shape (M, 4)
        x0, y0, x1, y1, both ends INCLUSIVE, long, not cut to any image.
    """
    low, high = boxes[:, :2].float(), boxes[:, 2:].float()
    first, last = (low - 0.5).ceil(), (high - 0.5).ceil() - 1
    middle = ((low + high) / 2).floor()
    thin = last < first
    return torch.cat([torch.where(thin, middle, first), torch.where(thin, middle, last)], dim=1).long()


def box_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Pixels of each box, cut to the image; a box wholly outside it has none.

    Parameters
    ----------
    boxes : Tensor, shape (M, 4)
        xyxy in the image's pixels, x1 and y1 exclusive.
    height, width : int

    Returns
    -------
    Tensor, shape (M, height, width), bool
    """
    x0, y0, x1, y1 = pixel_ranges(boxes)[:, :, None].unbind(1)
    rows, columns = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    inside_y, inside_x = (rows >= y0) & (rows <= y1), (columns >= x0) & (columns <= x1)
    return inside_y[:, :, None] & inside_x[:, None, :]


def union_area(boxes: Tensor) -> float:
    """Area of the union of boxes (M, 4), xyxy, in square pixels: of the rectangles that their sides cut out."""
    boxes = boxes.double().cpu()
    x, y = boxes[:, ::2].unique(), boxes[:, 1::2].unique()
    across = (boxes[:, :1] <= x[:-1]) & (x[:-1] < boxes[:, 2:3])
    down = (boxes[:, 1:2] <= y[:-1]) & (y[:-1] < boxes[:, 3:])
    covered = (down[:, :, None] & across[:, None, :]).any(0)
    return float((covered * y.diff()[:, None] * x.diff()).sum())


def instance_masks(boxes: Tensor, heatmap: Tensor) -> Tensor:
    """Masks (M, H, W) on the map's device of the boxes that have a pixel in the image; M may be 0."""
    masks = box_masks(boxes.to(heatmap.device), heatmap.shape[0], heatmap.shape[1])
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


def to_original(
    row: float | Tensor, column: float | Tensor, to_input: tuple[float, float, float, float]
) -> tuple[Any, Any]:
    """Pixel index (row, column) of the input as the pixel index (x, y) of the original image, not rounded.

    Parameters
    ----------
    row, column : float or Tensor
        Index of an input pixel; its centre is half a pixel further.
    to_input : tuple
        (sx, sy, tx, ty) with ``x_input = sx * x_original + tx`` on continuous coordinates.

    Returns
    -------
    tuple of float or Tensor
        x, y; whole numbers are centres of original pixels.
    """
    scale_x, scale_y, shift_x, shift_y = to_input
    return (column + 0.5 - shift_x) / scale_x - 0.5, (row + 0.5 - shift_y) / scale_y - 0.5
