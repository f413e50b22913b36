"""The printed table: which cells, which are best or not worse, how a number is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import NO_LAYER, Column, Entry, Group, shown_columns
from bench.analysis.rankings import columns_of
from bench.analysis.significance import holm, wilcoxon
from bench.analysis.statistics import cluster_means


@dataclass(frozen=True)
class Cell:
    """One value of the table with its 95 % interval; differences and p are to the reference, NaN where there is none.

    It is `best` if none of its column is better as far as the printed digits tell, `tied` if it is not, but not
    significantly worse either, see `not_worse`. `reported` is what the publication `source` says, NaN where none does.
    """

    mean: float
    low: float
    high: float
    best: bool
    tied: bool
    difference: float
    difference_low: float
    difference_high: float
    p: float
    reported: float
    source: str


@dataclass(frozen=True, eq=False)
class Grid:
    """Table of one group: entries by columns; a cell is None where there is no value."""

    columns: list[Column]
    entries: list[Entry]
    cells: list[list[Cell | None]]


def make_grid(group: Group, summary: pd.DataFrame) -> Grid:
    """Cells of the printed table, from the `summary` of `bench.analysis.tables.summarize_group`."""
    columns = shown_columns(group, set(summary["metric"]))
    rows = {(row.layer, row.method, row.metric): row for row in summary.itertuples()}
    cells: list[list[Cell | None]] = [[] for _ in group.entries]
    for column in columns:
        own = [rows.get((entry.layer, entry.method, column.metric)) for entry in group.entries]
        means = [row.mean if row and e.ranked else math.nan for row, e in zip(own, group.entries, strict=True)]
        best, close = "", [False] * len(own)
        if column.better is not None and np.isfinite(means).any():
            at = int(np.nanargmax(means) if column.better else np.nanargmin(means))
            best, close = number(means[at]), not_worse(group, column, at)
        for row, mean, tied, line in zip(own, means, close, cells, strict=True):
            # What looks equal is equally good: no reader should trust the fourth digit.
            equal = bool(best) and number(mean) == best
            line.append(row and cell_of(row, equal, tied and not equal))
    return Grid(columns, group.entries, cells)


def cell_of(row: Any, best: bool, tied: bool) -> Cell:
    """Cell of one row of the summary."""
    return Cell(
        mean=row.mean,
        low=row.ci_low,
        high=row.ci_high,
        best=best,
        tied=tied,
        difference=row.difference,
        difference_low=row.difference_low,
        difference_high=row.difference_high,
        p=row.p,
        reported=row.reported,
        source=row.reported_source,
    )


def not_worse(group: Group, column: Column, best: int) -> list[bool]:
    """Which entries are not significantly worse than the one at index `best`: p of 0.05 or more.

    p is that of Wilcoxon's signed-rank test on one value per image, paired with the best entry's, Holm-corrected
    over the entries. A column that is no value of cases (a class mean, a statistic of the whole data set) has no
    such test: there only the best is marked. Entries whose maps are mostly degenerate take no part.
    """
    result = [False] * len(group.entries)
    if column.metric not in group.outputs:
        return result
    values = columns_of(group, column.metric)
    scale = float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0))
    differences = cluster_means(values - values[:, [best]], group.images)
    p = [
        wilcoxon(differences[:, i], scale) if entry.ranked and i != best else math.nan
        for i, entry in enumerate(group.entries)
    ]
    return [bool(value >= 0.05) for value in holm(np.array(p))]


def sections(group: Group) -> list[tuple[str, list[int], list[int]]]:
    """Layer by layer: (title, indices of the methods' entries, indices of the controls')."""
    parts = []
    for layer in dict.fromkeys(entry.layer for entry in group.entries):
        at = [i for i, entry in enumerate(group.entries) if entry.layer == layer]
        methods, controls = ([i for i in at if group.entries[i].control == control] for control in (False, True))
        parts.append((layer if layer != NO_LAYER else "no layer", methods, controls))
    return parts


def number(value: float) -> str:
    """Mean with three decimals, or three significant digits for large and tiny values; under a millionth it is 0."""
    if not math.isfinite(value):
        return ""
    if 1e-6 < abs(value) < 5e-4 or abs(value) >= 1000:
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def interval(low: float, high: float, decimals: int = 2) -> str:
    """Interval as ``.48–.55``; empty where it is not known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    largest = max(abs(low), abs(high))
    if 1e-6 < largest < 5 * 10.0 ** -(decimals + 1) or largest >= 1000:
        return f"{low:.0e}–{high:.0e}"
    places = decimals if largest < 10 else 0 if largest >= 100 else 1
    ends = [f"{end:.{places}f}" for end in (low, high)]
    ends = [end.lstrip("-") if float(end) == 0 else end for end in ends]
    ends = [end.replace("0.", ".", 1) if end.lstrip("-").startswith("0.") else end for end in ends]
    return "–".join("1.0" if end.strip("0") == "1." else end for end in ends)
