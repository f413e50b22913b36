"""Pointing: whether the maximum of a map, or its energy, lies on the objects of the class."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

from .geometry import instance_masks, is_constant, pixel_ranges, positive_energy, to_original, union_area
from .ranking import order

# Largest share of the image that the instances of a case of the difficult subset fill.
SMALL = 0.25


def hits(points: Tensor, boxes: Tensor, masks: Tensor | None, tolerance: float = 15) -> Tensor:
    """Whether a pixel of the ground truth lies at squared distance below ``tolerance ** 2`` from each point.

    Parameters
    ----------
    points : Tensor, shape (P, 2), float64
        x, y as pixel indices of the original image: whole numbers are pixel centres. Not rounded.
    boxes : Tensor, shape (M, 4)
        xyxy in original pixels, x1 and y1 exclusive. Used where there are no masks.
    masks : Tensor or None, shape (M, H, W)
        Instance masks in original pixels.
    tolerance : float
        In original pixels; the inequality is strict.

    Returns
    -------
    Tensor, shape (P,), bool
        False where there is no ground truth at all.
    """
    if masks is not None:
        return near_mask(points, masks.any(0), tolerance)
    # The nearest pixel of a box: distances along x and y are independent, so no mask has to be drawn.
    x0, y0, x1, y1 = pixel_ranges(boxes).double().unbind(1)
    x, y = points[:, :1], points[:, 1:]
    across = torch.maximum(torch.minimum(x.round(), x1), x0) - x
    down = torch.maximum(torch.minimum(y.round(), y1), y0) - y
    return (across**2 + down**2 < tolerance**2).any(1)


def near_mask(points: Tensor, mask: Tensor, tolerance: float) -> Tensor:
    """Whether the distance of each point (P, 2) to the nearest pixel of a mask (H, W) is below the tolerance."""
    rows, columns = mask.nonzero().double().unbind(1)
    if not len(rows):
        return torch.zeros(len(points), dtype=torch.bool)
    if len(points) == 1:
        x, y = points[0].tolist()
        return ((columns - x) ** 2 + (rows - y) ** 2 < tolerance**2).any()[None]
    # A constant map points at every position. Distances from whole pixels come quickly, and those of the points differ
    # by no more than the way to the pixel: only points near the tolerance are looked at one by one.
    pixels = torch.minimum(points.round().clamp(min=0), torch.tensor(mask.shape[::-1]) - 1)
    x, y = pixels.long().unbind(1)
    coarse = torch.from_numpy(distance_transform_edt(~mask.numpy()))[y, x]
    slack = (points - pixels).norm(dim=1) + 1e-9
    near = coarse + slack < tolerance
    unsure = ~near & (coarse - slack < tolerance)
    if unsure.any():
        nearest, _ = KDTree(torch.stack([columns, rows], dim=1).numpy()).query(points[unsure].numpy())
        near[unsure] = torch.from_numpy(nearest < tolerance)
    return near


def original_points(places: Tensor, width: int, to_input: tuple[float, float, float, float]) -> Tensor:
    """Flat positions (P,) of a map as points (P, 2), x and y, of the original image."""
    return torch.stack(to_original((places // width).double(), (places % width).double(), to_input), dim=1)


def pointing_game(heatmaps: Tensor, batch: Any, *, tolerance: float = 15) -> dict[str, Tensor]:
    """Whether the map's maximum hits an instance of the class, in original pixels (TorchRay's protocol).

    All instances count, ``difficult`` ones included; masks where the data set has them, else boxes. Where several
    positions share the maximum, each of them points with the same probability; a constant map points anywhere. A COCO
    crowd is no instance here; TorchRay counts it as one, which ``dataset.crowds=class`` does.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    tolerance : float
        In original pixels.

    Returns
    -------
    dict
        - ``hit`` (N,): 1 or 0, between them the share of the tied maxima that hit; NaN (left out) without ground
          truth and where all instances are ``difficult``. Instances that the input cuts away count as any other:
          a map that cannot see the object misses it;
        - ``hit_difficult`` (N,): the same, NaN outside the difficult subset of Zhang et al.: instances that together
          fill less than a quarter of the image, beside an object of another class. Masks where there are any, else
          boxes; on VOC2007 test objects of other classes that are ``difficult`` do not count beside. This gives exactly
          TorchRay's lists: on VOC2007 test 2,230 pairs, and on COCO with ``dataset.crowds=class``.

    References
    ----------
    Zhang et al.: Top-down neural attention by excitation backprop, IJCV 2018. Fong, Patrick, Vedaldi:
    Understanding deep networks via extremal perturbations, ICCV 2019 (TorchRay).
    """
    shares = torch.full((len(heatmaps),), math.nan)
    for i, heatmap in enumerate(heatmaps.cpu()):
        boxes, masks = batch.original_boxes[i].cpu(), batch.original_masks[i]
        if len(boxes) == 0 or bool(batch.difficult[i].all()):
            continue
        highest = (heatmap == heatmap.max()).flatten().nonzero()[:, 0]
        points = original_points(highest, heatmap.shape[1], batch.to_input[i])
        shares[i] = hits(points, boxes, None if masks is None else masks.cpu(), tolerance).double().mean()
    shares = shares.to(heatmaps.device)
    hard = torch.tensor([_is_difficult(batch, i) for i in range(len(heatmaps))], device=heatmaps.device)
    return {"hit": shares, "hit_difficult": shares.masked_fill(~hard, math.nan)}


def _is_difficult(batch: Any, i: int) -> bool:
    height, width = batch.sizes[i]
    masks = batch.original_masks[i]
    area = union_area(batch.original_boxes[i]) if masks is None else float(masks.any(0).sum())
    return bool(batch.distractors[i]) and area < SMALL * height * width


def top_k_pointing(
    heatmaps: Tensor, batch: Any, *, k: int | None = None, radius: int = 8, tolerance: float = 15
) -> dict[str, Tensor]:
    """Pointing game with the map's `k` highest peaks: a map of several objects should have a peak on each.

    A peak is the highest position of the window of ``2 * radius + 1`` around it and above the map's minimum; of several
    as high, the first in the case's random order, others within the window are dropped. A constant map has the first
    positions of that order as its peaks. Left out as in `pointing_game`.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    k : int, optional
        Peaks looked at; the number of instances by default.
    radius : int
        In input pixels.
    tolerance : float
        In original pixels, as in `pointing_game`.

    Returns
    -------
    dict
        0 to 1, higher is better:

        - ``hit`` (N,): 1 where any of the peaks hits an instance (``k=1`` is the pointing game);
        - ``precision`` (N,): share of the peaks that hit one;
        - ``recall`` (N,): share of the instances that a peak hits.

    Raises
    ------
    ValueError
        For ``k`` or ``radius`` below 1.
    """
    if radius < 1 or (k is not None and k < 1):
        raise ValueError(f"top_k_pointing: k and radius must be at least 1, not {k} and {radius}")
    result = torch.full((3, len(heatmaps)), math.nan)
    for i, heatmap in enumerate(heatmaps.cpu()):
        boxes, masks = batch.original_boxes[i].cpu(), batch.original_masks[i]
        if len(boxes) == 0 or bool(batch.difficult[i].all()):
            continue
        ranked = order(heatmap[None], [batch.ids[i]])[0]
        places = peaks(heatmap, k or len(boxes), radius, ranked)
        points = original_points(places, heatmap.shape[1], batch.to_input[i])
        # One row a peak, one column an instance.
        columns = [
            hits(points, boxes[m : m + 1], None if masks is None else masks[m : m + 1].cpu(), tolerance)
            for m in range(len(boxes))
        ]
        table = torch.stack(columns, dim=1)
        result[:, i] = torch.stack([table.any(), table.any(1).float().mean(), table.any(0).float().mean()])
    return dict(zip(("hit", "precision", "recall"), result.to(heatmaps.device), strict=True))


def peaks(heatmap: Tensor, k: int, radius: int, ranked: Tensor) -> Tensor:
    """Flat positions of the up to `k` highest peaks of a map (H, W), as `top_k_pointing` defines them.

    `ranked` are the map's positions (P,) from highest to lowest.
    """
    if is_constant(heatmap):
        return ranked[:k]
    values = heatmap.float()
    window = torch.nn.functional.max_pool2d(values[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]
    candidates = (values == window) & (values > values.min())
    chosen: list[int] = []
    width = heatmap.shape[1]
    for position in ranked[candidates.flatten()[ranked]].tolist():
        row, column = divmod(position, width)
        if all(max(abs(row - other // width), abs(column - other % width)) > radius for other in chosen):
            chosen.append(position)
        if len(chosen) == k:
            break
    return torch.tensor(chosen, dtype=torch.long)


def grid_pointing_game(heatmaps: Tensor, batch: Any, *, rows: int = 2, columns: int = 2) -> dict[str, Tensor]:
    """Share of the positive energy in the mosaic's cells that show the class (Boehle et al. 2021, section 3.2).

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
        Cells that hold the centre of one of its ``boxes`` show the class.
    rows, columns : int
        Cells of the mosaic; borders are rounded to whole pixels.

    Returns
    -------
    dict
        ``share`` (N,), 0 to 1, higher is better; NaN without a box whose centre lies in the image. A uniform map, and
        one without positive values, scores ``1 / (rows * columns)`` for each cell of the class.

    References
    ----------
    Boehle, Fritz, Schiele: Convolutional dynamic alignment networks for interpretable classifications, CVPR 2021.
    """
    height, width = heatmaps.shape[1:]
    vertical = (torch.arange(height) + 0.5).mul(rows / height).floor().long()
    horizontal = (torch.arange(width) + 0.5).mul(columns / width).floor().long()
    cells = (vertical[:, None] * columns + horizontal).to(heatmaps.device)
    shares = torch.full((len(heatmaps),), math.nan, device=heatmaps.device)
    for i, heatmap in enumerate(heatmaps):
        boxes = batch.boxes[i].to(heatmap.device)
        x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).floor().long().unbind(1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if bool(inside.any()):
            energy = positive_energy(heatmap)
            shown = torch.isin(cells, cells[y[inside], x[inside]])
            shares[i] = energy[shown].sum() / energy.sum()
    return {"share": shares}


def energy_pointing_game(heatmaps: Tensor, batch: Any) -> dict[str, Tensor]:
    """Share of the map's positive energy that lies inside the union of the class's boxes (Score-CAM, section 4.3).

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch

    Returns
    -------
    dict
        ``energy`` (N,), 0 to 1; NaN without a box in the image. A uniform map, and one without positive values,
        scores the share of the image that the boxes cover.

    References
    ----------
    Wang et al.: Score-CAM, CVPR workshops 2020.
    """
    shares = torch.full((len(heatmaps),), math.nan, device=heatmaps.device)
    for i, heatmap in enumerate(heatmaps):
        masks = instance_masks(batch.boxes[i], heatmap)
        if len(masks):
            energy = positive_energy(heatmap)
            shares[i] = energy[masks.any(0)].sum() / energy.sum()
    return {"energy": shares}
