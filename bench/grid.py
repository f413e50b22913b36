"""What the printed tables have in common: which columns, which rows, how a number is written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from bench.groups import NO_LAYER, Entry, Group

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
    """One value with its interval, and whether it is the best of its column."""

    mean: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True, eq=False)
class Grid:
    """Table of one group: entries by columns; a cell is None where there is no value."""

    columns: list[Column]
    entries: list[Entry]
    cells: list[list[Cell | None]]


def shown(group: Group) -> list[Column]:
    """Columns of the printed table: the outputs that each metric's ``about.show`` names, in this order."""
    columns: list[Column] = []
    for metric, node in group.metrics.items():
        about = node.get("about", {})
        outputs = [f"{metric}.{name}" for name in about.get("show") or about.get("higher_is_better") or []]
        known = [
            name for name in outputs if name.removesuffix("_class_mean") in group.outputs or name in group.statistics
        ]
        for output in known:
            name = output.partition(".")[2]
            words = name.split("_") if len(known) > 1 else metric.split("_")
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
        Rows of this group, from `bench.tables.summarize_group`.
    """
    columns = shown(group)
    rows = {(row.layer, row.method, row.metric): row for row in summary.itertuples()}
    cells: list[list[Cell | None]] = [[] for _ in group.entries]
    for column in columns:
        found = [rows.get((entry.layer, entry.method, column.metric)) for entry in group.entries]
        written = [number(row.mean) if row is not None else "" for row in found]
        best = ""
        if column.better is not None and any(written):
            values = [(row.mean, text) for row, text in zip(found, written, strict=True) if row is not None]
            best = max(values)[1] if column.better else min(values)[1]
        for row, text, line in zip(found, written, cells, strict=True):
            # What looks equal is equally good: no reader should trust the fourth digit.
            line.append(row and Cell(row.mean, row.ci_low, row.ci_high, text == best))
    return Grid(columns, group.entries, cells)


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
