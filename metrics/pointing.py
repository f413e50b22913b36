"""Pointing: whether the maximum of a map, or its energy, lies on the objects of the class."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    points : Tensor, shape (P, rank), float64
        x, y, in a volume x, y, z, as pixel indices of the original image: whole numbers are pixel centres. Not rounded.
    boxes : Tensor, shape (M, 2 * rank)
        In original pixels, as in `Batch`. Used where there are no masks.
    masks : Tensor or None, shape (M, *spatial)
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
    # The nearest pixel of a box: distances along the axes are independent, so no mask has to be drawn.
    first, last = pixel_ranges(boxes).double().chunk(2, 1)
    away = torch.maximum(torch.minimum(points.round()[:, None], last), first) - points[:, None]
    return (away.square().sum(2) < tolerance**2).any(1)


def near_mask(points: Tensor, mask: Tensor, tolerance: float) -> Tensor:
    """Whether the distance of each point (P, rank) to the nearest pixel of a mask (*spatial) is below the tolerance."""
    places = mask.nonzero().double().flip(1)
    if not len(places):
        return torch.zeros(len(points), dtype=torch.bool)
    if len(points) == 1:
        return ((places - points).square().sum(1) < tolerance**2).any()[None]
    # A constant map points at every position. Distances from whole pixels come quickly, and those of the points differ
    # by no more than the way to the pixel: only points near the tolerance are looked at one by one.
    pixels = torch.minimum(points.round().clamp(min=0), torch.tensor(mask.shape[::-1]) - 1)
    coarse = torch.from_numpy(distance_transform_edt(~mask.numpy()))[pixels.long().flip(1).unbind(1)]
    slack = (points - pixels).norm(dim=1) + 1e-9
    near = coarse + slack < tolerance
    unsure = ~near & (coarse - slack < tolerance)
    if unsure.any():
        nearest, _ = KDTree(places.numpy()).query(points[unsure].numpy())
        near[unsure] = torch.from_numpy(nearest < tolerance)
    return near


def original_points(places: Tensor, size: Sequence[int], to_input: Sequence[float]) -> Tensor:
    """Flat positions (P,) of a map of this size as points (P, rank), x first, of the original image."""
    axes = [axis.double() for axis in torch.unravel_index(places, tuple(size))]
    return torch.stack(to_original(axes, to_input), dim=1)


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
        points = original_points(highest, heatmap.shape, batch.to_input[i])
        shares[i] = hits(points, boxes, None if masks is None else masks.cpu(), tolerance).double().mean()
    shares = shares.to(heatmaps.device)
    hard = torch.tensor([_is_difficult(batch, i) for i in range(len(heatmaps))], device=heatmaps.device)
    return {"hit": shares, "hit_difficult": shares.masked_fill(~hard, math.nan)}


def _is_difficult(batch: Any, i: int) -> bool:
    masks = batch.original_masks[i]
    area = union_area(batch.original_boxes[i]) if masks is None else float(masks.any(0).sum())
    return bool(batch.distractors[i]) and area < SMALL * math.prod(batch.sizes[i])


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
        points = original_points(places, heatmap.shape, batch.to_input[i])
        # One row a peak, one column an instance.
        columns = [
            hits(points, boxes[m : m + 1], None if masks is None else masks[m : m + 1].cpu(), tolerance)
            for m in range(len(boxes))
        ]
        table = torch.stack(columns, dim=1)
        result[:, i] = torch.stack([table.any(), table.any(1).float().mean(), table.any(0).float().mean()])
    return dict(zip(("hit", "precision", "recall"), result.to(heatmaps.device), strict=True))


def peaks(heatmap: Tensor, k: int, radius: int, ranked: Tensor) -> Tensor:
    """Flat positions of the up to `k` highest peaks of a map (*spatial), as `top_k_pointing` defines them.

    `ranked` are the map's positions (P,) from highest to lowest.
    """
    if is_constant(heatmap):
        return ranked[:k]
    values = heatmap.float()
    pool = torch.nn.functional.max_pool2d if heatmap.ndim == 2 else torch.nn.functional.max_pool3d
    window = pool(values[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]
    candidates = (values == window) & (values > values.min())
    highest = ranked[candidates.flatten()[ranked]]
    indices = torch.stack(torch.unravel_index(highest, tuple(heatmap.shape)), 1).tolist()
    chosen: list[int] = []
    places: list[list[int]] = []
    for position, place in zip(highest.tolist(), indices, strict=True):
        if all(max(abs(a - b) for a, b in zip(place, other, strict=True)) > radius for other in places):
            chosen.append(position)
            places.append(place)
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
