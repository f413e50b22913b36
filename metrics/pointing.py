"""Pointing: whether the maximum of a map, or its energy, lies on the objects of the class."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from metrics.geometry import instance_masks, is_constant, maximum, pixel_ranges, positive_energy, to_original


def hit(point: tuple[float, float], boxes: Tensor, masks: Tensor | None, tolerance: float = 15) -> bool:
    """Whether a pixel of the ground truth lies at squared distance below ``tolerance ** 2`` from the point.

    Parameters
    ----------
    point : tuple of float
        x, y as pixel indices of the original image: whole numbers are pixel centres. Not rounded.
    boxes : Tensor, shape (M, 4)
        xyxy in original pixels, x1 and y1 exclusive. Used where there are no masks.
    masks : Tensor or None, shape (M, H, W)
        Instance masks in original pixels.
    tolerance : float
        In original pixels; the inequality is strict.

    Returns
    -------
    bool
        False where there is no ground truth at all.
    """
    x, y = point
    if masks is not None:
        rows, columns = masks.any(0).nonzero().double().unbind(1)
        return bool(((columns - x) ** 2 + (rows - y) ** 2 < tolerance**2).any())
    # The nearest pixel of a box: distances along x and y are independent, so no mask has to be drawn.
    x0, y0, x1, y1 = pixel_ranges(boxes).double().unbind(1)
    across = torch.maximum(torch.minimum(torch.full_like(x0, x).round(), x1), x0) - x
    down = torch.maximum(torch.minimum(torch.full_like(y0, y).round(), y1), y0) - y
    return bool((across**2 + down**2 < tolerance**2).any())


def pointing_game(heatmaps: Tensor, batch: Any, *, tolerance: float = 15) -> dict[str, Tensor]:
    """Whether the map's maximum hits an instance of the class, in original pixels (TorchRay's protocol).

    All instances count, ``difficult`` ones included; masks where the data set has them, else boxes. Where several
    positions share the maximum the first in row-major order points.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    tolerance : float
        In original pixels.

    Returns
    -------
    dict
        ``hit`` (N,): 1 or 0; 0 for a constant map, which points nowhere; NaN (left out) without ground truth and
        where all instances are ``difficult``.

    References
    ----------
    Zhang et al.: Top-down neural attention by excitation backprop, IJCV 2018. Fong, Patrick, Vedaldi:
    Understanding deep networks via extremal perturbations, ICCV 2019 (TorchRay).
    """
    hits = []
    for i, heatmap in enumerate(heatmaps.cpu()):
        boxes, masks = batch.original_boxes[i].cpu(), batch.original_masks[i]
        if len(boxes) == 0 or bool(batch.difficult[i].all()):
            hits.append(math.nan)
        elif is_constant(heatmap):
            hits.append(0.0)
        else:
            point = to_original(*maximum(heatmap), batch.to_input[i])
            hits.append(float(hit(point, boxes, None if masks is None else masks.cpu(), tolerance)))
    return {"hit": heatmaps.new_tensor(hits, dtype=torch.float32)}


def energy_pointing_game(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Share of the map's positive energy that lies inside the union of the class's boxes (Score-CAM, section 4.3).

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch

    Returns
    -------
    dict
        ``energy`` (N,), 0 to 1; 0 for a map without positive values, NaN without a box in the image. A uniform
        map scores the share of the image its boxes cover.

    References
    ----------
    Wang et al.: Score-CAM, CVPR workshops 2020.
    """
    shares = torch.full((len(heatmaps),), math.nan, device=heatmaps.device)
    for i, heatmap in enumerate(heatmaps):
        masks = instance_masks(batch.boxes[i], heatmap)
        if len(masks):
            energy = positive_energy(heatmap)
            shares[i] = energy[masks.any(0)].sum() / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny)
    return {"energy": shares}
