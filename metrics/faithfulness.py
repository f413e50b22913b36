"""Deletion and insertion: how the network's probability follows the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metrics.baselines import baseline_images
from metrics.geometry import ranks

# Elements of the images composed at once. On the CPU the allocator gives larger blocks back to the system each
# time, and their page faults cost more than composing; on a device large pieces fill the scorer's batches.
PIECE = {"cpu": 2**22, "device": 2**26}


def deletion(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    steps: int = 28,
    baseline: str = "zero",
    kernel: int = 11,
    sigma: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Area under the probability while positions are replaced by the baseline, highest first (RISE, section 4.3).

    Step ``i`` has the ``floor(i * H * W / steps)`` highest positions replaced, and exactly this share of the image
    is its abscissa. ``steps=224`` on a 224x224 input is the published protocol.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
        ``score(images, cases) -> probabilities``, with ``score.once``.
    steps : int
        Intervals of the curve; costs ``steps - 1`` forward passes a map, and two a case for all maps together.
    baseline : {"zero", "blur", "black", "mean", "noise"}
        See `metrics.baselines.baseline_images`.
    kernel, sigma, seed
        Of the baselines ``blur`` and ``noise``.

    Returns
    -------
    dict
        ``auc`` (N,), 0 to 1, lower is better; ``curve`` (N, steps + 1), probability.

    Raises
    ------
    ValueError
        For an unknown baseline, an even kernel or ``steps`` below 1.

    References
    ----------
    Petsiuk, Das, Saenko: RISE, BMVC 2018.
    """
    return _perturb(heatmaps, batch, score, steps, ("blank", baseline, kernel, sigma, seed), deleting=True)


def insertion(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    steps: int = 28,
    baseline: str = "blur",
    kernel: int = 11,
    sigma: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Area under the probability while positions of the image return to the baseline, highest first (RISE, 4.3).

    Parameters, cost and errors as in `deletion`.

    Returns
    -------
    dict
        ``auc`` (N,), 0 to 1, higher is better; ``curve`` (N, steps + 1), probability.
    """
    return _perturb(heatmaps, batch, score, steps, ("blank", baseline, kernel, sigma, seed), deleting=False)


def step_counts(steps: int, positions: int) -> list[int]:
    """Perturbed positions at each of the ``steps + 1`` points of a curve: ``floor(i * positions / steps)``."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    return [i * positions // steps for i in range(steps + 1)]


def area(curve: Tensor, counts: list[int]) -> Tensor:
    """Trapezoid area of curves (N, L) over the share of positions; shape (N,)."""
    share = torch.tensor(counts, dtype=curve.dtype, device=curve.device) / counts[-1]
    return torch.trapezoid(curve, share, dim=1)


def score_all(images: Tensor, score: Any) -> Tensor:
    """Probability (N,) of every case on its own version of the image, images (N, C, H, W)."""
    return score(images, torch.arange(len(images), device=images.device))


def _perturb(heatmaps: Tensor, batch: Any, score: Any, steps: int, blank: tuple, deleting: bool) -> dict[str, Tensor]:
    counts = step_counts(steps, heatmaps[0].numel())
    images = batch.images
    # The two end points do not depend on the map: scored once for all methods and layers.
    baseline = score.once(blank, lambda: baseline_images(batch, *blank[1:]))
    clean = score.once("clean score", lambda: score_all(images, score))
    gone = score.once((*blank, "score"), lambda: score_all(baseline, score))
    before, after = (images, baseline) if deleting else (baseline, images)

    rank = ranks(heatmaps).int()
    inner = torch.tensor(counts[1:-1], device=rank.device, dtype=rank.dtype)
    middle = clean.new_zeros(len(images), len(inner))
    elements = PIECE["cpu" if images.device.type == "cpu" else "device"]
    piece = 2 ** max(0, (elements // images[0].numel()).bit_length() - 1)
    group = max(1, piece // max(1, len(inner)))
    for i in range(0, len(images), group):
        some = slice(i, i + group)
        cases = torch.arange(len(images), device=rank.device)[some]
        for k in range(0, len(inner), piece):
            count = inner[k : k + piece]
            changed = (rank[some, None] < count[:, None]).view(len(cases), len(count), 1, *heatmaps.shape[1:])
            composed = torch.where(changed, after[some, None], before[some, None]).flatten(0, 1)
            probability = score(composed, cases.repeat_interleave(len(count)))
            middle[some, k : k + piece] = probability.view(len(cases), len(count))
    first, last = (clean, gone) if deleting else (gone, clean)
    curve = torch.cat([first[:, None], middle, last[:, None]], dim=1)
    return {"auc": area(curve, counts), "curve": curve}
