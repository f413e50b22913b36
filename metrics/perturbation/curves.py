"""Metrics that read the curves of deletion and insertion, and pay for no pass that these two have paid for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..faithfulness import area, deletion, insertion, step_counts
from .filling import FILLS, filled_curves


def symmetric_relevance_gain(
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
    """Area under the probability with the least relevant positions replaced first, minus that with the most (SRG).

    ``gain = least - most``. Both curves go from the clean image to the baseline, so what the baseline itself does to
    the network cancels to a good part. ``most`` is `deletion`'s area; ``least`` is that of `insertion` from the SAME
    baseline, since replacing the lowest positions first and putting back the highest first pass through the same
    images. So the passes are shared with both metrics where their baseline and steps are equal. Step ``i`` of ``least``
    leaves the ``floor((steps - i) * H * W / steps)`` highest positions.

    Depends on the order of positions alone. A map turned upside down (without ties, ``H * W`` a multiple of ``steps``)
    has the opposite gain. Random orders, and so maps without information, have a mean gain of 0 (a step of rounding
    aside where ``H * W`` is no multiple of ``steps``).

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
        ``score(images, cases) -> probabilities``, with ``score.once`` and ``score.per_map``.
    steps : int
        Intervals of each curve; costs ``2 * (steps - 1)`` forward passes a map, and two a case for all maps together.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum", "imputation", "inpainting"}
        See `metrics.baselines.baseline_images`; the last two fill from what is left, anew at every step, see
        `metrics.perturbation.filling.filled_curves`.
    kernel, sigma, seed
        Of the baselines ``blur``, ``noise`` and ``imputation``.

    Returns
    -------
    dict
        - ``gain`` (N,), probability, -1 to 1, higher is better;
        - ``most`` (N,), 0 to 1, lower is better; ``least`` (N,), 0 to 1, higher is better;
        - ``most_curve``, ``least_curve`` (N, steps + 1), probability over the replaced share.

    Raises
    ------
    ValueError
        For an unknown baseline, an even kernel, ``steps`` below 1, or inpainting without OpenCV.

    References
    ----------
    Bluecher, Vielhaben, Strodthoff: Decoupling pixel flipping and occlusion strategy for consistent XAI benchmarks,
    Transactions on Machine Learning Research 2024.
    """
    if baseline in FILLS:
        first, last = filled_curves(heatmaps, batch, score, steps, baseline, seed)
    else:
        options: dict[str, Any] = {"steps": steps, "baseline": baseline, "kernel": kernel, "sigma": sigma, "seed": seed}
        first = deletion(heatmaps, batch, score=score, **options)["curve"]
        last = insertion(heatmaps, batch, score=score, **options)["curve"].flip(1)
    counts = step_counts(steps, heatmaps[0].numel())
    # Seen from its end the second curve is an insertion, whose abscissa are these shares.
    most, least = area(first, counts), area(last.flip(1), counts)
    return {"gain": least - most, "most": most, "least": least, "most_curve": first, "least_curve": last}


def deletion_insertion_combined(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    steps: int = 28,
    deletion_baseline: str = "zero",
    insertion_baseline: str = "blur",
    kernel: int = 11,
    sigma: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Take deletion's area from insertion's, each with its own baseline: Group-CAM's over-all score.

    Nothing but the difference of `insertion` and `deletion`, whose passes it shares. Unlike the symmetric relevance
    gain it compares two baselines, so that a random order does not score 0 but what the blur leaves of the probability.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    steps : int
        Intervals of each curve; costs ``2 * (steps - 1)`` forward passes a map, and three a case for all maps together.
    deletion_baseline, insertion_baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    kernel, sigma, seed
        Of the baselines ``blur`` and ``noise``.

    Returns
    -------
    dict
        ``difference`` (N,), probability, -1 to 1, higher is better.

    Raises
    ------
    ValueError
        For an unknown baseline, an even kernel or ``steps`` below 1.

    References
    ----------
    Zhang, Rao, Yang: Group-CAM: group score-weighted visual explanations for deep convolutional networks, arXiv
    2103.13859, 2021. The curves are RISE's.
    """
    options: dict[str, Any] = {"steps": steps, "kernel": kernel, "sigma": sigma, "seed": seed}
    inserted = insertion(heatmaps, batch, score=score, baseline=insertion_baseline, **options)
    deleted = deletion(heatmaps, batch, score=score, baseline=deletion_baseline, **options)
    return {"difference": inserted["auc"] - deleted["auc"]}


def pixel_flipping(heatmaps: Tensor, batch: Any, *, score: Any, steps: int = 28) -> dict[str, Tensor]:
    """Probability while the highest positions become the image's own minimum, as Quantus 0.6 draws this curve.

    Deletion at Quantus's settings: the baseline is the smallest value of the image over all channels ("black"), the
    curve begins AFTER the first step and has no clean image, and the area is a trapezoid over these ``steps`` points,
    here divided by their ``steps - 1`` intervals (Quantus's own area is ``steps - 1`` times as large). A step of
    ``3 * H * W / steps`` of Quantus's features, which are channels, is one of ours where ``H * W`` is a multiple of
    ``steps``; its tutorials take 224 features, ``steps=672`` at 224x224. Passes are shared with
    ``deletion(baseline="minimum")`` of the same steps. Depends on the order of positions alone.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    steps : int
        2 or more; costs ``steps - 1`` forward passes a map, and two a case for all maps together.

    Returns
    -------
    dict
        ``auc`` (N,), probability, 0 to 1, lower is better; ``curve`` (N, steps), probability.

    Raises
    ------
    ValueError
        For ``steps`` below 2.

    References
    ----------
    Bach et al.: On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance propagation,
    PLOS ONE 2015. Hedstroem et al.: Quantus, Journal of Machine Learning Research 2023.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, not {steps}")
    curve = deletion(heatmaps, batch, score=score, steps=steps, baseline="minimum")["curve"][:, 1:]
    return {"auc": torch.trapezoid(curve, dim=1) / (steps - 1), "curve": curve}


def monotonicity(
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
    """Whether the probability never falls while positions are added to the baseline, least relevant first (Arya 2019).

    Arya et al.'s monotonicity, not the rank correlation of the same name by Nguyen and Rodriguez Martinez (2020).
    Adding the lowest positions first passes through the images of `deletion` in the opposite direction, whose passes it
    shares: step ``i`` has all but the ``floor((steps - i) * H * W / steps)`` highest positions in place. Depends on the
    order of positions alone; points of the curve that hold no new position do not count.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    steps : int
        2 or more; costs ``steps - 1`` forward passes a map, and two a case for all maps together.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    kernel, sigma, seed
        Of the baselines ``blur`` and ``noise``.

    Returns
    -------
    dict
        From the first added positions to the whole image, as in Quantus; the step from the bare baseline does not
        count. Both higher is better, NaN for an image of a single position:

        - ``monotone`` (N,): 1 where no step lowers the probability, else 0; hardly ever 1 on photographs;
        - ``share`` (N,): share of the steps that do not lower it, 0 to 1.

    Raises
    ------
    ValueError
        For an unknown baseline, an even kernel or ``steps`` below 2.

    References
    ----------
    Arya et al.: One explanation does not fit all: a toolkit and taxonomy of AI explainability techniques, arXiv
    1909.03012, 2019. After Luss et al., arXiv 1905.12698.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, not {steps}")
    options: dict[str, Any] = {"steps": steps, "baseline": baseline, "kernel": kernel, "sigma": sigma, "seed": seed}
    deleted = deletion(heatmaps, batch, score=score, **options)["curve"]
    counts = torch.tensor([i * heatmaps[0].numel() // steps for i in range(steps + 1)], device=deleted.device)
    # Backwards in time: a step adds what deletion took away. The last interval of deletion ends at the bare baseline.
    rising = (deleted[:, :-1] >= deleted[:, 1:])[:, :-1]
    moving = counts.diff()[:-1] > 0
    share = rising[:, moving].to(deleted.dtype).mean(1)
    return {"monotone": (share == 1).to(share.dtype).masked_fill(share.isnan(), torch.nan), "share": share}
