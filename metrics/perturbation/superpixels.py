"""IROF: deletion of superpixels instead of single positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from skimage.segmentation import slic
from torch import Tensor

from ..baselines import shared_baseline
from ..faithfulness import clean_score, score_all, score_steps
from ..ranking import order, ranks


def irof(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    segments: int = 100,
    steps: int = 25,
    baseline: str = "mean",
    kernel: int = 11,
    sigma: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Remove superpixels, highest mean of the map first: area over p / p(clean) (iterative removal of features).

    Superpixels follow the picture's edges, so what is replaced has no shape of its own. They are SLIC's of the image in
    normalized space (which SLIC scales to 0..1 itself), compactness 10, and sorted by the map's mean over each; equal
    means stand in the case's own random order. Of L superpixels step ``i`` has ``floor(i * L / steps)`` replaced and
    exactly this share as its abscissa, so ``steps`` of L or more is one superpixel at a time, as published.

    ``aoc = integral over the share of (1 - p / p(clean))``. Does not depend on a positive factor of the map or an added
    constant; does on other monotone transforms, which change means. A map without information has one random order of
    superpixels, and on average the value of random maps.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
        ``score(images, cases) -> probabilities``, with ``score.once`` and ``score.per_map``.
    segments : int
        About how many superpixels SLIC makes of an image, 2 or more.
    steps : int
        Intervals of the curve; costs ``steps - 1`` forward passes a map, and two a case for all maps together.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`; the authors' is the image's mean.
    kernel, sigma, seed
        Of the baselines ``blur`` and ``noise``.

    Returns
    -------
    dict
        ``aoc`` (N,): share, at most 1, higher is better; negative where the probability rises; NaN where the clean
        image's is 0 or below. ``curve`` (N, steps + 1), probability.

    Raises
    ------
    ValueError
        For fewer than 2 segments, ``steps`` below 1, an unknown baseline or an even kernel.

    References
    ----------
    Rieger, Hansen: IROF: a low resource evaluation metric for explanation methods, arXiv 2003.08747, 2020. Achanta et
    al.: SLIC superpixels compared to state-of-the-art superpixel methods, TPAMI 2012.
    """
    if segments < 2 or steps < 1:
        raise ValueError(f"irof: segments={segments} (2 or more), steps={steps} (1 or more)")
    blank = (baseline, kernel, sigma, seed)
    after = shared_baseline(batch, score, *blank)
    clean = clean_score(batch, score)
    gone = score.once(("baseline score", *blank), lambda: score_all(after, score))
    labels = score.once(("superpixels", segments), lambda: [superpixels(image, segments) for image in batch.images])
    # Superpixels count in whole numbers of steps, since their number differs between images.
    when = [_steps_until_gone(*each, steps) for each in zip(heatmaps.cpu(), labels, batch.ids, strict=True)]
    rank = torch.stack(when).to(batch.images.device)

    def scores(cases: Tensor) -> Tensor:
        return score_steps(rank, batch.images, after, cases.to(rank.device), list(range(1, steps)), score)

    # Maps that differ by a positive factor, which are equal maps here, have their superpixels in the same order.
    middle = score.per_map(("irof", segments, steps, *blank), scores)
    curve = torch.cat([clean[:, None], middle, gone[:, None]], dim=1)
    numbers = torch.tensor([int(label.max()) + 1 for label in labels])[:, None]
    shares = (torch.arange(steps + 1) * numbers // steps / numbers).to(curve)
    kept = (curve / clean[:, None]).masked_fill(clean[:, None] <= 0, torch.nan)
    return {"aoc": 1 - torch.trapezoid(kept, shares, dim=1), "curve": curve}


def superpixels(image: Tensor, segments: int) -> Tensor:
    """Give every position of an image (C, *spatial) the number of its superpixel, from 0 without gaps; on the CPU."""
    picture = image.detach().cpu().double().movedim(0, -1).numpy()
    parts = slic(picture, n_segments=segments, compactness=10, start_label=0, channel_axis=-1)
    return torch.from_numpy(np.unique(parts, return_inverse=True)[1].reshape(parts.shape))


def _steps_until_gone(heatmap: Tensor, labels: Tensor, case: str, steps: int) -> Tensor:
    """How many steps leave each position (*spatial) in place: the first that replaces it is this plus 1."""
    if heatmap.max() == heatmap.min():
        heatmap = torch.zeros_like(heatmap)  # sums of equal values may differ in their last bit
    size = torch.bincount(labels.flatten())
    total = torch.bincount(labels.flatten(), heatmap.flatten().double(), minlength=len(size))
    rank = ranks(order((total / size).float()[None], [case]))[0]
    return (-(-(rank + 1) * steps // len(size)) - 1)[labels]
