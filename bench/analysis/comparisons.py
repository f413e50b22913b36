"""Paired differences of every method to the reference and to every control, by one test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.curves import Statistic, each_entry, read_curves, statistic_curves, statistics_of
from bench.analysis.groups import Entry, Group
from bench.analysis.parts import metric_of
from bench.analysis.significance import holm, paired_p, verdict
from bench.analysis.statistics import Array, means, percentile_interval, resampled_means
from bench.types import NO_LAYER, plain_layer

ALL, ONE = "all", "one object"  # which cases a mean is over
EQUAL_WITHIN = 1e-5  # of the larger value: methods whose values differ by less on all cases are the same
FEW = 256  # cases, which are compared before all others
RESULT = ("mean", "ci_low", "ci_high", "n", "n_images")
PAIR = ("against", "against_layer", "difference", "difference_low", "difference_high", "p")
Images = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Block:
    """Columns of every entry that are averaged in one way, and their means in all resamples.

    Attributes
    ----------
    names, cases : list of str, str
        Columns as in the summary; `ALL`, or which cases count.
    values : list of ndarray, shape (cases, C)
        By entry; NaN where a case does not count.
    drawn : list of ndarray, shape (R, C)
    draw : function
        Values (cases, C) -> their mean in every resample.
    strata : ndarray or None
        Classes, where the mean is over classes.
    """

    names: list[str]
    cases: str
    values: list[Array]
    drawn: list[Array]
    draw: Callable[[Array], Array]
    strata: Images | None = None

    @cached_property
    def described(self) -> list[Array]:
        """Mean and both ends of its interval of every column, shape (3, C), by entry."""
        pairs = zip(self.values, self.drawn, strict=True)
        return [describe(values, drawn, self.strata, values) for values, drawn in pairs]


def compare_group(group: Group, reference: str, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean of every entry and column, beside its paired differences to the reference and to the controls.

    Returns
    -------
    DataFrame
        One row an entry, column and opponent, or one with an empty ``against`` where there is none: method, layer,
        metric, cases, `RESULT`, `PAIR` and ``verdict``. Differences are method minus opponent on the cases that both
        have, with the same resamples. Their p is `paired_p`'s, Holm-corrected over all comparisons of the column. There
        is no verdict on a method whose maps are mostly degenerate, nor by comparison with one.
    """
    unusable = {(entry.method, entry.layer) for entry in group.entries if not entry.ranked and not entry.control}
    rows = [row for block in blocks_of(group, resamples, seed) for row in block_rows(group, block, reference)]
    rows += statistic_rows(group, reference, resamples // 4, seed)
    table = pd.DataFrame(rows, columns=["layer", "method", "metric", "cases", *RESULT, *PAIR])
    for _, part in table.groupby(["metric", "cases"]):
        table.loc[part.index, "p"] = holm(part["p"].to_numpy(dtype=np.float64))
    table["verdict"] = [
        verdict(
            row.difference_low,
            row.difference_high,
            row.p,
            row.n_images,
            group.higher_is_better(row.metric),
            group.width(row.metric),
        )
        if row.against and unusable.isdisjoint([(row.method, row.layer), (row.against, row.against_layer)])
        else ""
        for row in table.itertuples()
    ]
    return table


def blocks_of(group: Group, resamples: int, seed: int) -> list[Block]:
    """Values of cases, class means, and cases with one object: each drawn for all entries as one matrix product."""
    plain = partial(resampled_means, clusters=group.images, count=group.image_count, resamples=resamples, seed=seed)
    metrics = list(map(metric_of, group.outputs))
    averaged = [i for i, (m, name) in enumerate(metrics) if name in (group.about(m).get("class_mean") or [])]
    single = [i for i, output in enumerate(group.outputs) if group.question(output) == ONE]
    one = group.cases["n_instances"].to_numpy() == 1
    values = [entry.values for entry in group.entries]
    alone = [np.where(one[:, None], entry.values[:, single], np.nan) for entry in group.entries]
    blocks = [block_of(group.outputs, ALL, values, plain)]
    if averaged:
        names = [f"{group.outputs[i]}_class_mean" for i in averaged]
        draw = partial(plain, strata=group.classes)
        blocks.append(block_of(names, ALL, [own[:, averaged] for own in values], draw, group.classes))
    if single and one.any():
        blocks.append(block_of([group.outputs[i] for i in single], ONE, alone, plain))
    return blocks


def block_of(
    names: list[str], cases: str, values: list[Array], draw: Callable[[Array], Array], strata: Images | None = None
) -> Block:
    """Draw the resamples of all entries at once."""
    drawn = np.split(draw(np.concatenate(values, axis=1)), len(values), axis=1)
    return Block(names=names, cases=cases, values=values, drawn=drawn, draw=draw, strata=strata)


def describe(values: Array, resampled: Array, strata: Any, scaled_by: Array) -> Array:
    """Mean and both ends of its interval of every column, shape (3, columns), steady to 12 digits of `scaled_by`."""
    return steady(np.stack([means(values, strata), *percentile_interval(resampled)]), scaled_by)


def steady(numbers: Array, scaled_by: Array) -> Array:
    """Numbers (M, C) without what differs between machines: sums that cancel leave 1e-17 of one or the other sign."""
    scale = np.max(np.abs(scaled_by), axis=0, where=np.isfinite(scaled_by), initial=0.0)
    scale = np.where(scale > 0, scale, 1.0)
    return np.round(numbers / scale, 12) * scale + 0.0


def block_rows(group: Group, block: Block, reference: str) -> list[dict[str, Any]]:
    """Rows of a block, p uncorrected."""
    place = {entry.label: i for i, entry in enumerate(group.entries)}
    rows = []
    for i, entry in enumerate(group.entries):
        present = np.isfinite(block.values[i])
        opponents = [other for other in opponents_of(group, entry, reference) if np.isfinite(other.values).any()]
        pairs = [(other, pair_of(group, block, i, place[other.label])) for other in opponents]
        for at in np.flatnonzero(present.any(axis=0)):
            about: dict[str, Any] = {"layer": entry.layer, "method": entry.method}
            about |= {"metric": block.names[at], "cases": block.cases}
            images = images_under(group, present[:, at])
            about |= dict(zip(RESULT, (*block.described[i][:, at], int(present[:, at].sum()), images), strict=True))
            own = [
                about | dict(zip(PAIR, (other.method, other.layer, *numbers[:, at]), strict=True))
                for other, numbers in pairs
                if np.isfinite(numbers[0, at])
            ]
            rows += own or [about | {"against": "", "against_layer": ""}]
    return rows


def images_under(group: Group, cases: NDArray[np.bool_]) -> int:
    """Count the images that these cases (a mask over all of them) show."""
    return int(np.count_nonzero(np.bincount(group.images[cases])))


def pair_of(group: Group, block: Block, first: int, second: int) -> Array:
    """Differences of two entries in every column, shape (4, columns): mean, both ends, uncorrected p."""
    values, other = block.values[first], block.values[second]
    drawn = block.drawn[first] - block.drawn[second]
    difference = block.described[first][0] - block.described[second][0]
    present = np.isfinite(values)
    apart = (present != np.isfinite(other)).any(axis=0)
    if apart.any():
        gaps = (values - other)[:, apart]
        drawn[:, apart], difference[apart] = block.draw(gaps), means(gaps, block.strata)
        present = present & np.isfinite(other)
    small = np.abs(difference) <= EQUAL_WITHIN * np.maximum(*(np.abs(block.described[i][0]) for i in (first, second)))
    for column in np.flatnonzero(small):
        if alike(values[:, column], other[:, column]):
            drawn[:, column], difference[column] = 0.0 * drawn[:, column], 0.0
    ends = percentile_interval(drawn)
    images = np.array([images_under(group, kept) for kept in present.T])
    numbers = steady(np.stack([difference, *ends]), np.concatenate([values, other]))
    return np.vstack([numbers, paired_p(numbers[0], drawn, images)])


def alike(values: Array, other: Array) -> bool:
    """Whether two columns, or all of two tables, hold the same values on all cases, up to rounding."""
    for cases in (slice(FEW), slice(FEW, None)):  # the first ones already tell most apart
        one, two = values[cases], other[cases]
        size = np.fmax(np.abs(one), np.abs(two))
        same = (np.abs(one - two) <= EQUAL_WITHIN * size) | (one == two)
        if not (same | ~np.isfinite(one - two)).all():
            return False
    return True


def opponents_of(group: Group, entry: Entry, reference: str) -> list[Entry]:
    """Entries that one is compared with: the reference first, then, for a method, itself at scale 1 and the controls.

    Reference and controls at the method's layer and scale, or at no layer; a method that looks at no layer is compared
    at the group's last one.
    """
    first = reference_of(group, entry, reference)
    layers = (entry.layer if plain_layer(entry.layer) != NO_LAYER else group.last_layer, NO_LAYER)
    controls = [] if entry.control else [e for e in group.entries if e.control and e.layer in layers]
    plain = [] if entry.control else [e for e in [at_plain_scale(group, entry)] if e]
    return list(dict.fromkeys([*([first] if first else []), *plain, *controls]))


def at_plain_scale(group: Group, entry: Entry) -> Entry | None:
    """Find the same method at the same layer with the picture at the network's own size; None for that one itself."""
    layer = plain_layer(entry.layer)
    same = [e for e in group.entries if (e.method, e.layer) == (entry.method, layer)]
    return same[0] if same and layer != entry.layer else None


def reference_of(group: Group, entry: Entry, reference: str) -> Entry | None:
    """Choose the entry that another is compared with: the reference at its layer and scale, or None.

    The reference itself at another scale is compared with itself at 1.
    """
    layer = entry.layer if plain_layer(entry.layer) != NO_LAYER else group.last_layer
    candidates = [e for e in group.entries if e.layer in (layer, NO_LAYER) and reference in (e.method, e.name)]
    # A reference in several variants (grad_cam(relu=True), ...) is the exact name, else the first.
    candidates.sort(key=lambda e: (e.layer == NO_LAYER, e.method != reference, e.method))
    other = candidates[0] if candidates else None
    return at_plain_scale(group, entry) if other and other.method == entry.method else other


def statistic_rows(group: Group, reference: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the data set's statistics, a quarter of the resamples: each draws whole curves, for every entry.

    The threshold that is best in a resample counts there, so their differences have the same test as means.
    """
    names = sorted({name for columns in statistic_curves(group).values() for name in columns})
    if not names:
        return []
    read = each_entry(group, names, group.entries)
    known = {entry.label: statistics_of(group, curves, resamples, seed) for entry, curves in read}
    rows = []
    for entry in group.entries:
        opponents = opponents_of(group, entry, reference)
        for name, own in known[entry.label].items():
            numbers = np.round([own.value, *np.concatenate(percentile_interval(own.resampled[:, None]))], 12) + 0.0
            images = images_under(group, own.present)
            about: dict[str, Any] = {"layer": entry.layer, "method": entry.method, "metric": name, "cases": ALL}
            about |= dict(zip(RESULT, (*numbers, int(own.present.sum()), images), strict=True))
            pairs = []
            for other in opponents:
                pair = statistic_pair(
                    group, names, (entry, other), (own, known[other.label].get(name)), name, resamples
                )
                if pair is not None:
                    pairs.append(about | dict(zip(PAIR, (other.method, other.layer, *pair), strict=True)))
            rows += pairs or [about | {"against": "", "against_layer": ""}]
    return rows


def statistic_pair(
    group: Group,
    names: Sequence[str],
    entries: tuple[Entry, Entry],
    pair: tuple[Statistic, Statistic | None],
    name: str,
    resamples: int,
    seed: int = 0,
) -> Array | None:
    """Difference of a statistic with both ends and p, on the cases that both entries have; None where one has none."""
    first, second = pair
    if second is None:
        return None
    both = first.present & second.present
    if (first.present != second.present).any():
        curves = read_curves(group, names, entries)
        own, other = (statistics_of(group, curves[e.label], resamples, seed, both).get(name) for e in entries)
        if own is None or other is None:
            return None
        first, second = own, other
    gap = (first.resampled - second.resampled)[:, None]
    numbers = np.round(np.array([first.value - second.value, *np.concatenate(percentile_interval(gap))]), 12) + 0.0
    images = np.array([images_under(group, both)])
    return np.concatenate([numbers, paired_p(numbers[:1], np.round(gap, 12), images)])
