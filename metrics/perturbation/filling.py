"""Curves whose missing positions are filled from those that are left, anew at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..baselines import shared_baseline
from ..faithfulness import clean_score, pieces, score_all, step_counts
from ..ranking import order, ranks
from ..road import impute

FILLS = ("imputation", "inpainting")
NOISE = 0.01  # standard deviation in normalized space of the noise on imputed positions, as in ROAD
RADIUS = 3  # pixels that Telea's method looks at around each missing one


def filled_curves(
    heatmaps: Tensor, batch: Any, score: Any, steps: int, fill: str, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Probability while positions are taken away and filled in, most and least relevant first; both (N, steps + 1).

    Step ``i`` of the first lacks the ``floor(i * H * W / steps)`` highest positions; of the second it has the
    ``floor((steps - i) * H * W / steps)`` highest left, as in `symmetric_relevance_gain`. With nothing left to fill
    from, the image is its own mean of each channel, so both curves end there.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    steps : int
        Costs ``2 * (steps - 1)`` forward passes a map, and two a case for all maps together.
    fill : {"imputation", "inpainting"}
        ROAD's noisy linear imputation (`metrics.road.impute` and noise of .01), or OpenCV's inpainting by Telea.
    seed : int
        Of the imputation's noise.

    Raises
    ------
    ValueError
        For another fill, ``steps`` below 1, or inpainting without OpenCV or of other than 1 or 3 channels.
    """
    if fill not in FILLS:
        raise ValueError(f"unknown fill '{fill}': {' or '.join(FILLS)}")
    check_pictures(batch.images, fill)
    images, rank = batch.images, ranks(order(heatmaps, batch.ids)).view(heatmaps.shape)
    counts = step_counts(steps, rank[0].numel())
    blank = ("mean", 11, 5.0, 0)
    mean = shared_baseline(batch, score, *blank)
    grain = shared_baseline(batch, score, "noise", seed=seed)
    clean = clean_score(batch, score)
    gone = score.once(("baseline score", *blank), lambda: score_all(mean, score))
    limits = torch.tensor(counts[1:-1], device=rank.device)

    def scores(cases: Tensor) -> Tensor:
        # Every step of every case, both ways: (n, 2, steps - 1) holes, composed piece by piece.
        grid = torch.meshgrid(cases, torch.arange(2), torch.arange(len(limits)), indexing="ij")
        parts = [images.new_zeros(0)]
        for part in torch.stack([axis.flatten() for axis in grid], 1).to(rank.device).split(pieces(images, score, 4)):
            case, way, limit = part[:, 0], part[:, 1, None, None], limits[part[:, 2], None, None]
            missing = (rank[case] < limit) == (way == 0)
            empty = missing.flatten(1).all(1)  # a map of few positions at many steps
            missing = missing & ~empty[:, None, None]
            filled = fill_in(images[case], missing, fill, grain[case])
            parts.append(score(torch.where(empty[:, None, None, None], mean[case], filled), case))
        return torch.cat(parts).view(len(cases), 2, len(limits))

    most, kept = score.per_map(("filled", fill, steps, seed), scores).unbind(1)
    ends = clean[:, None], gone[:, None]
    return torch.cat([ends[0], most, ends[1]], 1), torch.cat([ends[1], kept, ends[0]], 1).flip(1)


def check_pictures(images: Tensor, fill: str) -> None:
    """Raise ValueError for volumes, which nothing here fills."""
    if images.ndim != 4:
        raise ValueError(f"{fill} is for pictures, not for volumes; take another baseline")


def fill_in(images: Tensor, missing: Tensor, fill: str, grain: Tensor) -> Tensor:
    """Fill what is missing (N, H, W) of images (N, C, H, W) by one of `FILLS`; `grain` is standard normal noise."""
    check_pictures(images, fill)
    if fill == "imputation":
        return impute(images, missing) + NOISE * grain * missing[:, None]
    return inpaint(images, missing)


def inpaint(images: Tensor, missing: Tensor) -> Tensor:
    """Fill missing pixels by Telea's fast marching (2004), in OpenCV.

    OpenCV paints pictures of 8 bits: each image's own minimum is 0 there and its maximum 255, so what is painted is in
    steps of 1/255 of its range. Known pixels stay as they are.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
        C is 1 or 3.
    missing : Tensor, shape (N, H, W), bool

    Returns
    -------
    Tensor, shape (N, C, H, W)
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError("inpainting needs OpenCV: pip install opencv-python-headless") from error
    if images.shape[1] not in (1, 3):
        raise ValueError(f"inpainting takes pictures of 1 or 3 channels, not {images.shape[1]}")
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    span = (high - low).clamp(min=torch.finfo(images.dtype).tiny)
    pictures = ((images - low) / span * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    painted = [
        torch.from_numpy(cv2.inpaint(picture, hole, RADIUS, cv2.INPAINT_TELEA)).view(picture.shape)
        for picture, hole in zip(pictures, missing.byte().cpu().numpy(), strict=True)
    ]
    values = torch.stack(painted).permute(0, 3, 1, 2).to(images) / 255 * span + low
    return torch.where(missing[:, None], values, images)
