"""Deletion and insertion: how the network's probability follows the map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .baselines import shared_baseline
from .geometry import constant_rows
from .ranking import order, ranks

# Elements of the images composed at once: on the CPU they should still be in its cache when the network reads them.
PIECE = {"cpu": 2**21, "device": 2**26}

# Smallest probability that the whole image must add for a curve to be opened: below it the quotient is noise.
SMALLEST_OPENING = 0.05


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
    open: bool = False,
) -> dict[str, Tensor]:
    """Area under the probability while positions are replaced by the baseline, highest first (RISE, section 4.3).

    Step ``i`` has the ``floor(i * H * W / steps)`` highest positions replaced, and exactly this share of the image
    is its abscissa. Tied positions stand in the case's own random order. Equal maps of a case are scored once.
    ``steps=224`` on a 224x224 input is the published protocol.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
        ``score(images, cases) -> probabilities``, with ``score.once`` and ``score.batch_size``.
    steps : int
        Intervals of the curve; costs ``steps - 1`` forward passes a map, and two a case for all maps together.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    kernel, sigma, seed
        Of the baselines ``blur`` and ``noise``.
    open : bool
        Stretch each case's curve so that the fully perturbed image is 0 and the clean one 1, so that sure and
        unsure cases weigh alike: ``(curve - perturbed) / (clean - perturbed)``. Cases whose clean image adds less
        than .05 are NaN.

    Returns
    -------
    dict
        ``auc`` (N,), lower is better, 0 to 1 unless opened; ``curve`` (N, steps + 1), probability;
        ``correlation`` (N,), -1 to 1, higher is better: Pearson correlation over the steps between the drop of the
        probability and the mean of the map where the step perturbs (deletion correlation of Gomez et al.); 0 for a
        constant map, NaN where the probability never changes.

    Raises
    ------
    ValueError
        For an unknown baseline, an even kernel or ``steps`` below 1.

    References
    ----------
    Petsiuk, Das, Saenko: RISE, BMVC 2018. Gomez, Freour, Mouchere: Metrics for saliency map evaluation of deep
    learning explanation methods, ICPRAI 2022.
    """
    return _perturb(heatmaps, batch, score, steps, (baseline, kernel, sigma, seed), open, deleting=True)


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
    open: bool = False,
) -> dict[str, Tensor]:
    """Area under the probability while positions of the image return to the baseline, highest first (RISE, 4.3).

    Parameters, cost and errors as in `deletion`.

    Returns
    -------
    dict
        ``auc`` (N,), higher is better, 0 to 1 unless opened; ``curve`` (N, steps + 1), probability;
        ``correlation`` (N,), as in `deletion`, with the rise of the probability.
    """
    return _perturb(heatmaps, batch, score, steps, (baseline, kernel, sigma, seed), open, deleting=False)


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
    """Probability (N,) of every case on its own version of the image, images (N, C, *spatial)."""
    return score(images, torch.arange(len(images), device=images.device))


def clean_score(batch: Any, score: Any) -> Tensor:
    """Probability (N,) on the unperturbed images, computed once for all metrics, methods and layers."""
    return score.once("clean score", lambda: score_all(batch.images, score))


def pieces(images: Tensor, score: Any, times: int = 1) -> int:
    """How many images of this size to compose at once: whole batches of the scorer, so that none is half empty.

    `times` is the memory that composing one takes, in images.
    """
    elements = PIECE["cpu" if images.device.type == "cpu" else "device"]
    return score.batch_size * max(1, elements // images[0].numel() // times // score.batch_size)


def correlate(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of rows of a and b (N, L), shape (N,); NaN where either row is constant."""
    constant = constant_rows(a) | constant_rows(b)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # Divided first, since the squares of small numbers would vanish.
    a, b = a / a.abs().amax(1, keepdim=True), b / b.abs().amax(1, keepdim=True)
    correlation = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return correlation.masked_fill(constant, torch.nan)


def _perturb(
    heatmaps: Tensor, batch: Any, score: Any, steps: int, blank: tuple, opened: bool, deleting: bool
) -> dict[str, Tensor]:
    counts = step_counts(steps, heatmaps[0].numel())
    images = batch.images
    # The two end points do not depend on the map: scored once for all methods and layers.
    baseline = shared_baseline(batch, score, *blank)
    clean = clean_score(batch, score)
    gone = score.once(("baseline score", *blank), lambda: score_all(baseline, score))
    before, after = (images, baseline) if deleting else (baseline, images)
    first, last = (clean, gone) if deleting else (gone, clean)
    positions = order(heatmaps, batch.ids)
    rank = ranks(positions).view(heatmaps.shape)

    def scores(cases: Tensor) -> Tensor:
        return score_steps(rank, before, after, cases.to(rank.device), counts[1:-1], score)

    middle = score.per_map(("perturbed", deleting, steps, *blank), scores)
    curve = torch.cat([first[:, None], middle, last[:, None]], dim=1)

    change = curve.diff(dim=1) * (-1 if deleting else 1)
    if opened:
        span = (clean - gone)[:, None]
        curve = ((curve - gone[:, None]) / span).masked_fill(span < SMALLEST_OPENING, torch.nan)
    return {"auc": area(curve, counts), "curve": curve, "correlation": _agreement(heatmaps, positions, change, counts)}


def score_steps(rank: Tensor, before: Tensor, after: Tensor, cases: Tensor, counts: list[int], score: Any) -> Tensor:
    """Probability (n, len(counts)) of these cases where the `counts` highest positions of `before` are from `after`."""
    steps = len(counts)
    limits = torch.tensor(counts, device=rank.device, dtype=torch.int32).view(-1, *[1] * (before.ndim - 1))
    rank = rank.int()
    total = len(cases) * steps
    piece = pieces(before, score)
    composed = torch.empty_like(before[:1].expand(min(piece, total), *before.shape[1:]))
    numbers = cases.tolist()  # indexing with a tensor on the GPU would wait for the GPU at every case
    scores = [before.new_zeros(0)]
    # Cases follow each other without a gap, so that the scorer's batches are full up to the last.
    for start in range(0, total, piece):
        stop = min(start + piece, total)
        for place in range(start // steps, -(-stop // steps)):
            first, last = max(start, place * steps), min(stop, (place + 1) * steps)
            case = numbers[place]
            changed = (rank[case] < limits[first - place * steps : last - place * steps]).to(before)
            # With weights 0 and 1 this is `where` to the bit, on a CPU in a third of its time.
            torch.lerp(before[case], after[case], changed, out=composed[first - start : last - start])
        places = torch.arange(start, stop, device=rank.device) // steps
        scores.append(score(composed[: stop - start], cases[places]))
    return torch.cat(scores).view(len(cases), steps)


def _agreement(heatmaps: Tensor, positions: Tensor, change: Tensor, counts: list[int]) -> Tensor:
    """Correlation of each step's change of the probability with the mean of the map over the step's positions."""
    flat = heatmaps.flatten(1).float()
    constant = constant_rows(flat)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    sizes = [after - before for before, after in zip(counts[:-1], counts[1:], strict=True)]
    means = [part.mean(1) for part in flat.gather(1, positions).split(sizes, dim=1)]
    used = [i for i, size in enumerate(sizes) if size]  # more steps than positions: some perturb nothing
    agreement = correlate(torch.stack(means, dim=1)[:, used].to(change), change[:, used])
    return agreement.masked_fill(constant, 0)
