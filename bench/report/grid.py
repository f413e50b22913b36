"""The printed table: one row a distinct map, what may be said of each value, how a number is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import Entry, Group
from bench.analysis.tables import Column, shown_columns
from bench.analysis.verdicts import may_lead
from bench.types import NO_LAYER, plain_layer

SIGNS = {"better": "▲", "worse": "▼", "equal": "=", "undecided": "", "few images": "", "": ""}


@dataclass(frozen=True)
class Cell:
    """One value of the table with its 95 % interval over `n` cases on `images` images.

    It is `best` if no method of its column is better as far as the printed digits tell; controls, rows of mostly
    degenerate maps and values of under 20 images never are. Difference, p and `verdict` are to the reference, NaN and
    "" where there is none; `no_better_than` names the controls that the method does not beat. `reported` is what the
    publication `source` says, NaN where none does.
    """

    mean: float
    low: float
    high: float
    n: int
    images: int
    best: bool
    verdict: str
    no_better_than: str
    difference: float
    difference_low: float
    difference_high: float
    p: float
    reported: float
    source: str


@dataclass(frozen=True, eq=False)
class Grid:
    """Table of one group: sets of equal entries by columns; a cell is None where there is no value."""

    columns: list[Column]
    sets: list[list[Entry]]
    cells: list[list[Cell | None]]

    @property
    def entries(self) -> list[Entry]:
        """First entry of each row."""
        return [members[0] for members in self.sets]


def make_grid(group: Group, summary: pd.DataFrame, sets: list[list[Entry]]) -> Grid:
    """Cells of the printed table, from the `summary` of `bench.analysis.tables.summarize_group`.

    `sets` are of `bench.analysis.verdicts.equal_entries`.
    """
    columns = shown_columns(group, set(summary["metric"]))
    rows = {(row.layer, row.method, row.metric): row for row in summary.itertuples()}
    cells: list[list[Cell | None]] = [[] for _ in sets]
    for column in columns:
        own = [rows.get((members[0].layer, members[0].method, column.metric)) for members in sets]
        most = max((row.n for row in own if row), default=0)
        means = [
            row.mean if row and may_lead(entry, row.n, row.n_images, most) else math.nan
            for row, (entry, *_) in zip(own, sets, strict=True)
        ]
        best = ""
        if column.better is not None and np.isfinite(means).any():
            best = number(float(np.nanmax(means) if column.better else np.nanmin(means)))
        for row, mean, line in zip(own, means, cells, strict=True):
            # What looks equal is equally good: no reader should trust the fourth digit.
            line.append(row and cell_of(row, bool(best) and number(mean) == best))
    return Grid(columns, sets, cells)


def cell_of(row: Any, best: bool) -> Cell:
    """Cell of one row of the summary."""
    return Cell(
        mean=row.mean,
        low=row.ci_low,
        high=row.ci_high,
        n=row.n,
        images=row.n_images,
        best=best,
        verdict=row.verdict,
        no_better_than=row.no_better_than,
        difference=row.difference,
        difference_low=row.difference_low,
        difference_high=row.difference_high,
        p=row.p,
        reported=row.reported,
        source=row.reported_source,
    )


def sections(entries: Sequence[Entry]) -> list[tuple[str, list[int], list[int]]]:
    """Layer by layer: (title, indices of the methods' rows, indices of the controls')."""
    parts = []
    for layer in dict.fromkeys(entry.layer for entry in entries):
        at = [i for i, entry in enumerate(entries) if entry.layer == layer]
        methods, controls = ([i for i in at if entries[i].control == control] for control in (False, True))
        plain = plain_layer(layer)
        parts.append((layer if plain != NO_LAYER else f"no layer{layer.removeprefix(plain)}", methods, controls))
    return parts


def number(value: float, places: int = 3) -> str:
    """Mean with three decimals, or three significant digits for large and tiny values; under a millionth it is 0."""
    if not math.isfinite(value):
        return ""
    if 1e-6 < abs(value) < 0.5 * 10.0**-places or abs(value) >= 1000:
        return f"{value:.{places - 1}e}"
    return f"{value:.{places}f}" if abs(value) < 10 else f"{value:.1f}"


def signed(value: float, places: int = 2) -> str:
    """Difference with its sign; without one where it rounds to zero."""
    if not math.isfinite(value):
        return ""
    text = f"{value:+.{places}f}" if abs(value) < 1000 else f"{value:+.2e}"
    return text if float(text) else text[1:]


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
