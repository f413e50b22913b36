"""Is the map's sum over positions what these are worth: by drops of the score (sensitivity-n), or where it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .baselines import shared_baseline
from .faithfulness import clean_score, correlate, pieces
from .geometry import constant_rows, positive_energy
from .ranking import generator

TRUTHS = ("rank", "match", "leak", "against", "missed", "outside")
# A value below this share of the largest is rounding: the weights of a glyph's channels cancel.
NOTHING = 1e-3
# Values that differ by less, as a share of the largest, are alike: noise under a glyph changes its value by .003.
ALIKE = 0.05


def sensitivity_n(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    share: float = 0.25,
    subsets: int = 100,
    cell: int = 16,
    baseline: str = "zero",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Correlation, over random sets of positions, of the map's sum with the drop when they are replaced.

    The image is cut into cells of ``cell`` pixels a side (1 gives the published single pixels, whose random sets
    hardly differ on smooth maps); each set holds ``share`` of them. The sets follow from the seed and the case's id
    and do not depend on the map, so all methods and layers together pay ``subsets`` forward passes a case.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    share : float
        Between 0 and 1, of the cells; at least one cell and not all are drawn.
    subsets : int
        At least 3.
    cell : int
        Side in input pixels; cells at the right and lower border may be smaller.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`.
    seed : int

    Returns
    -------
    dict
        ``correlation`` (N,): Pearson, -1 to 1, higher is better; 0 where the map has the same sum over all
        sets, as a constant map has; NaN where all drops are equal.

    Raises
    ------
    ValueError
        For a share outside 0..1, fewer than 3 subsets or a cell below 1.

    References
    ----------
    Ancona, Ceolini, Oztireli, Gross: Towards better understanding of gradient-based attribution methods, ICLR 2018.
    """
    if not 0 < share < 1 or subsets < 3 or cell < 1:
        raise ValueError(
            f"sensitivity_n: share={share} (0 to 1), subsets={subsets} (3 or more), cell={cell} (1 or more)"
        )
    sums, drops = sums_and_drops(heatmaps, batch, score, share, subsets, cell, baseline, seed)
    return {"correlation": agreement(heatmaps, sums, drops)}


def agreement(heatmaps: Tensor, sums: Tensor, drops: Tensor) -> Tensor:
    """Correlate sums with drops (N, subsets), Pearson: 0 where a map's sums are all equal, NaN where the drops are."""
    alike = constant_rows(heatmaps) | constant_rows(sums)
    return correlate(sums, drops.double()).to(drops).masked_fill(alike & ~constant_rows(drops), 0)


def sums_and_drops(
    heatmaps: Tensor, batch: Any, score: Any, share: float, subsets: int, cell: int, baseline: str, seed: int
) -> tuple[Tensor, Tensor]:
    """Compare a map with its image on random sets of cells; the sets and drops are the same for all maps of a case.

    Parameters are those of `sensitivity_n`, and not checked.

    Returns
    -------
    sums : Tensor, shape (N, subsets), float64
        The map's sum over each set, in units of its largest absolute value.
    drops : Tensor, shape (N, subsets)
        Drop of the probability when the set is replaced by the baseline.
    """
    size = heatmaps.shape[1:]
    cells, numbers = cells_of(size, cell)
    numbers = numbers.to(heatmaps.device)
    key = ("sensitivity_n", share, subsets, cell, baseline, seed)

    def measure() -> tuple[Tensor, Tensor]:
        drawn = torch.stack([draw_sets(math.prod(cells), share, subsets, f"{seed}:{case}") for case in batch.ids])
        drawn = drawn.to(heatmaps.device)
        return drawn, _drops(drawn, numbers, batch, score, shared_baseline(batch, score, baseline, seed=seed))

    drawn, drops = score.once(key, measure)
    # Sums over random sets of a smooth map's positions differ little from one another.
    flat = heatmaps.flatten(1).double()
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
    # Not by a scatter, whose order of additions varies on a GPU.
    padding = [pad for side, count in zip(size[::-1], cells[::-1], strict=True) for pad in (0, count * cell - side)]
    whole = torch.nn.functional.pad(flat.view_as(heatmaps), padding)
    shape = [part for count in cells for part in (count, cell)]
    within = whole.view(-1, *shape).sum(tuple(range(2, 2 * len(cells) + 1, 2))).flatten(1)
    sums = torch.stack([sets.to(flat) @ values for sets, values in zip(drawn, within, strict=True)])
    return sums, drops


def cells_of(size: Sequence[int], cell: int) -> tuple[list[int], Tensor]:
    """How many cells of this side an image of this size has along each axis, and each position's cell (*size)."""
    cells = [-(-side // cell) for side in size]
    numbers = torch.zeros(1, dtype=torch.long)
    for side, count in zip(size, cells, strict=True):
        numbers = numbers[..., None] * count + torch.arange(side) // cell
    return cells, numbers[0]


def draw_sets(cells: int, share: float, subsets: int, key: str) -> Tensor:
    """Random sets of cells, bool (subsets, cells); drawn on the CPU, so that every machine draws the same.

    From numbers of their own, which are not those of the baseline ``noise``.
    """
    size = min(max(1, round(share * cells)), max(1, cells - 1))
    places = torch.rand(subsets, cells, generator=generator(f"sets:{key}")).argsort(dim=1, stable=True)
    return torch.zeros(subsets, cells, dtype=torch.bool).scatter_(1, places[:, :size], True)


def _drops(drawn: Tensor, numbers: Tensor, batch: Any, score: Any, blank: Tensor) -> Tensor:
    """Drop of the probability (N, subsets) when each set is replaced by the baseline."""
    images, (n, subsets) = batch.images, drawn.shape[:2]
    cases = torch.arange(n, device=drawn.device).repeat_interleave(subsets)
    sets = drawn.flatten(0, 1)
    scores = []
    piece = pieces(images, score)
    for case, chosen in zip(cases.split(piece), sets.split(piece), strict=True):
        scores.append(score(torch.where(chosen[:, numbers][:, None], blank[case], images[case]), case))
    return clean_score(batch, score)[:, None] - torch.cat(scores).view(n, subsets)


def planted_truth(heatmaps: Tensor, batch: Any, *, margin: float = 4, least: float = 0.25) -> dict[str, Tensor]:
    """Whether the map's energy lies on the planted parts as their known values say.

    The energy of a part is the sum of the map's positive values within its box. A part speaks for the class if its
    value is above 0, against it if below, and is worth nothing if its absolute value is under a thousandth of the
    largest.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, *spatial)
    batch : Batch
        Its ``parts`` and ``values`` (Shapley values of the class's score) are used.
    margin : float
        In pixels, added to the boxes on all sides: linear upsampling carries a map so far beyond its positions.
    least : float
        A part is missed if its share of the energy of all parts for the class is below this times its share of their
        value.

    Returns
    -------
    dict
        All (N,), 0 to 1, NaN without parts of the kind that they speak of:

        - ``rank``, higher is better: over pairs of parts whose values differ by a twentieth of the largest or more, how
          often the one of higher value has more energy; ties are half; .5 is chance. The area under the ROC curve
          where there are two values;
        - ``match``, higher is better: 1 - half the sum of absolute differences between the shares of energy and of
          value, over the parts for the class; 0 where they have no energy;
        - ``leak``, ``against``, lower is better: share of the energy of all parts that lies on those worth nothing,
          and on those against the class; 0 where no part has energy;
        - ``missed``, lower is better: share of the parts for the class that are missed;
        - ``outside``, lower is better: share of the map's energy on no part. A uniform map's is the area's.
    """
    result = torch.full((len(TRUTHS), len(heatmaps)), math.nan)
    for i, heatmap in enumerate(heatmaps):
        if i < len(batch.parts) and len(batch.parts[i]):
            energy = positive_energy(heatmap)
            windows = [part_window(part, margin, heatmap.shape) for part in batch.parts[i].tolist()]
            parts = torch.stack([energy[window].sum(dtype=torch.float64) for window in windows]).cpu()
            whole = energy.sum(dtype=torch.float64)
            for window in windows:  # the map is this function's own
                energy[window] = 0
            outside = float(energy.sum(dtype=torch.float64) / whole)
            result[:, i] = torch.tensor([*_truths(parts, batch.values[i].double().cpu(), least), outside])
    return dict(zip(TRUTHS, result.to(heatmaps.device), strict=True))


def part_window(part: Sequence[float], margin: float, size: Sequence[int]) -> tuple[slice, ...]:
    """Positions of a map of this size whose centres lie in a box (2 * rank), x first, grown by the margin."""
    rank = len(size)
    window = []
    for axis, length in enumerate(size):
        low, high = part[rank - 1 - axis] - margin, part[2 * rank - 1 - axis] + margin
        first, end = (min(max(math.ceil(edge - 0.5), 0), length) for edge in (low, high))
        window.append(slice(first, end))
    return tuple(window)


def _truths(energy: Tensor, values: Tensor, least: float) -> list[float]:
    """Rank, match, leak, against and missed of one map from energies and values (P,)."""
    zero = NOTHING * values.abs().max()
    speaks, total = values > zero, energy.sum()
    higher = values[:, None] - values > ALIKE * values.abs().max()
    wins = (energy[:, None] > energy).double() + (energy[:, None] == energy).double() / 2
    rank = float(wins[higher].mean()) if higher.any() else math.nan
    match = missed = math.nan
    if speaks.any():
        shown, worth = energy[speaks], values[speaks] / values[speaks].sum()
        shown = shown / shown.sum() if shown.any() else shown
        match = float(1 - (shown - worth).abs().sum() / 2) if shown.any() else 0.0
        missed = float((shown < least * worth).double().mean())
    shares = [
        float(energy[kind].sum() / total if total > 0 else 0.0) if kind.any() else math.nan
        for kind in (values.abs() <= zero, values < -zero)
    ]
    return [rank, match, *shares, missed]
