"""What the printed tables have in common: which columns, which rows, how a number is written."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import NO_LAYER, Entry, Group
from bench.analysis.significance import holm, wilcoxon
from bench.analysis.statistics import cluster_means

ARROWS = {True: "↑", False: "↓", None: ""}


@dataclass(frozen=True)
class Column:
    """One metric output: its name in the summary, its heading as lines, its direction."""

    metric: str
    heading: tuple[str, ...]
    better: bool | None

    @property
    def arrow(self) -> str:
        """Which way is better: up, down or nothing."""
        return ARROWS[self.better]


@dataclass(frozen=True)
class Cell:
    """One value of the table.

    Attributes
    ----------
    mean, low, high : float
        With the 95 % interval.
    best : bool
        No value of its column is better, as far as the digits shown go.
    tied : bool
        Not the best, but not significantly worse either, see `not_worse`.
    difference, difference_low, difference_high, p : float
        To the reference; NaN where there is none.
    reported : float
        What a publication says, NaN where none does; `source` names it.
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


def shown(group: Group, extra: Collection[str] = ()) -> list[Column]:
    """Columns of the printed table: what each metric's ``about.show`` names, then its data-set statistics in `extra`.

    Parameters
    ----------
    group : Group
    extra : collection of str
        Names of the summary that are no values of cases, e.g. a score at the best threshold of the whole data set.
    """
    columns: list[Column] = []
    for metric, node in group.metrics.items():
        about = node.get("about", {})
        outputs = [f"{metric}.{name}" for name in about.get("show") or about.get("higher_is_better") or []]
        there = {*group.outputs, *group.statistics}
        known = [name for name in outputs if name.removesuffix("_class_mean") in there]
        statistics = [f"{metric}.{name}" for name in about.get("dataset_statistics") or {}]
        whole = [name for name in statistics if name in extra and name not in known]
        for output in [*known, *whole]:
            name = output.partition(".")[2]
            words = name.split("_") if len(known) + len(whole) > 1 else metric.split("_")
            if name == "auc":
                words = [*metric.split("_"), "AUC"]
            taken = {column.heading for column in columns}
            heading = tuple(words) if tuple(words) not in taken else (*metric.split("_"), *name.split("_"))
            columns.append(Column(output, heading, group.higher_is_better(output)))
    return columns


def make_grid(group: Group, summary: pd.DataFrame) -> Grid:
    """Cells of the printed table.

    Parameters
    ----------
    group : Group
    summary : DataFrame
        Rows of this group, from `bench.analysis.tables.summarize_group`.
    """
    columns = shown(group, set(summary["metric"]))
    rows = {(row.layer, row.method, row.metric): row for row in summary.itertuples()}
    cells: list[list[Cell | None]] = [[] for _ in group.entries]
    for column in columns:
        found = [rows.get((entry.layer, entry.method, column.metric)) for entry in group.entries]
        written = [number(row.mean) if row is not None else "" for row in found]
        best, close = "", [False] * len(found)
        if column.better is not None and any(written):
            means = [math.nan if row is None else float(row.mean) for row in found]
            at = int(np.nanargmax(means) if column.better else np.nanargmin(means))
            best, close = written[at], not_worse(group, column, at)
        for row, text, tied, line in zip(found, written, close, cells, strict=True):
            # What looks equal is equally good: no reader should trust the fourth digit.
            line.append(row and cell_of(row, text == best, tied and text != best))
    return Grid(columns, group.entries, cells)


def cell_of(row: Any, best: bool, tied: bool) -> Cell:
    """Cell of one row of the summary; a summary without published values has none."""
    source = getattr(row, "reported_source", "")
    return Cell(
        row.mean, row.ci_low, row.ci_high, best, tied,
        row.difference, row.difference_low, row.difference_high, row.p,
        float(getattr(row, "reported", math.nan)), source if isinstance(source, str) else "",
    )  # fmt: skip


def not_worse(group: Group, column: Column, best: int) -> list[bool]:
    """Which entries are not significantly worse than the one at index `best`: p of 0.05 or more.

    p is that of Wilcoxon's signed-rank test on one value per image, paired with the best entry's, Holm-corrected
    over the entries. A column that is no value of cases (a class mean, a statistic of the whole data set) has no
    such test: there only the best is marked.
    """
    result = [False] * len(group.entries)
    if column.metric not in group.outputs:
        return result
    values = np.stack([group.values(entry, column.metric) for entry in group.entries], axis=1)
    finite = np.isfinite(values)
    scale = float(np.max(np.abs(values), where=finite, initial=0.0))
    differences = cluster_means(values - values[:, [best]], group.images)
    p = [math.nan if i == best else wilcoxon(differences[:, i], scale) for i in range(len(result))]
    return [bool(value >= 0.05) for value in holm(np.array(p))]


def sections(group: Group) -> list[tuple[str, list[int], list[int]]]:
    """Layer by layer: (title, indices of the methods' entries, indices of the controls')."""
    parts = []
    for layer in [*group.layers, NO_LAYER]:
        at = [i for i, entry in enumerate(group.entries) if entry.layer == layer]
        controls = [i for i in at if group.entries[i].category == "control"]
        methods = [i for i in at if i not in controls]
        if at:
            title = layer if layer != NO_LAYER else "no layer"
            parts.append((title, methods, controls))
    return parts


def number(value: float) -> str:
    """Mean with three decimals, or three significant digits for large and tiny values."""
    if not math.isfinite(value):
        return ""
    if value != 0 and (abs(value) < 5e-4 or abs(value) >= 1000):
        return f"{value:.2e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def interval(low: float, high: float, decimals: int = 2) -> str:
    """Interval as ``.48–.55``; empty where it is not known."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    largest = max(abs(low), abs(high))
    if largest != 0 and (largest < 5 * 10.0 ** -(decimals + 1) or largest >= 1000):
        return f"{low:.0e}–{high:.0e}"
    places = decimals if largest < 10 else 0 if largest >= 100 else 1
    ends = [f"{end:.{places}f}" for end in (low, high)]
    ends = [end.lstrip("-") if float(end) == 0 else end for end in ends]
    ends = [end.replace("0.", ".", 1) if end.lstrip("-").startswith("0.") else end for end in ends]
    return "–".join("1.0" if end.strip("0") == "1." else end for end in ends)


def wrapped(name: str, width: int = 17) -> str:
    """Name on as many lines as it needs, cut after underscores and commas and before brackets."""
    lines = [""]
    for part in name.replace("(", "\0(").replace("_", "_\0").replace(", ", ",\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def p_text(p: float) -> str:
    """Write p short: ``p < .001`` or ``p = .012``."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
