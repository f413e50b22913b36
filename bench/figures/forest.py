"""Paired differences of every method to random and to the reference: a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.comparisons import ALL, reference_of
from bench.analysis.groups import Entry, Group
from bench.analysis.tables import Column
from bench.figures.style import NARROW, STYLE, WIDE, at_layer, drawn, titles, wrapped

ROW, TALLEST = 0.19, 8.5  # inches: of a line, of the figure
FEWEST = 3  # lines that there is room for, so that headings of several lines fit
LOOK: dict[str, dict[str, Any]] = {
    "random": {"color": "#767676", "marker": "s", "mfc": "white"},
    "reference": {"color": "#0072B2", "marker": "o"},
}


def forest_figure(
    group: Group,
    comparisons: pd.DataFrame,
    sets: Sequence[Sequence[Entry]],
    columns: Sequence[Column],
    layer: str,
    reference: str,
    width: float = WIDE,
) -> Figure | None:
    """One panel a column, one line a method at `layer`: its differences with their 95 % intervals, better to the right.

    `sets` are equal entries together. None where no method was compared with random or the reference.
    """
    rows = drawn(at_layer(sets, layer))
    table = comparisons[(comparisons["cases"] == ALL) & comparisons["metric"].isin([c.metric for c in columns])]
    opponents = {entry.label: opponents_of(group, entry, reference) for entry, *_ in rows}
    lines = {(r.metric, r.method, r.layer, r.against, r.against_layer): r for r in table.itertuples()}
    compared = [
        row for row in lines.values() if row.against in ("random", *(o for own in opponents.values() for o in own))
    ]
    if not rows or not columns or not compared:
        return None
    across = 2 if width <= NARROW else min(4, len(columns))
    down = -(-len(columns) // across)
    rows = rows[: int((TALLEST / down - 0.7) / ROW)]
    with rc_context(STYLE):
        figure = Figure(figsize=(width, down * (max(len(rows), FEWEST) * ROW + 0.55) + 0.35), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for ax in grid.ravel()[len(columns) :]:
            ax.set_axis_off()
        for ax, column in zip(grid.ravel(), columns, strict=False):
            for y, members in enumerate(rows):
                draw_line(ax, y, column, members[0], opponents[members[0].label], lines)
            ax.axvline(0, color="#444444", lw=0.8)
            ax.set_title(wrapped(" ".join(column.heading), 16))
            ax.set_yticks(
                range(len(rows)), [wrapped(titles(members), 60 if width > NARROW else 22) for members in rows]
            )
            ax.set_ylim(len(rows) - 0.4, -0.6)
            ax.locator_params(axis="x", nbins=3)
            ax.grid(axis="y", visible=False)
        figure.supxlabel("difference, better to the right", fontsize=7)
        handles = [Line2D([], [], ls="", ms=4, label=f"to {name}", **look) for name, look in LOOK.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def opponents_of(group: Group, entry: Entry, reference: str) -> dict[str, tuple[str, str]]:
    """Place (method, layer) of each opponent by its label in the legend; without those that were not run."""
    other = reference_of(group, entry, reference)
    random = next((e for e in group.entries if e.name == "random"), None)
    named = {"random": random, "reference": other}
    return {name: (e.method, e.layer) for name, e in named.items() if e is not None}


def draw_line(
    ax: Axes, y: int, column: Column, entry: Entry, opponents: dict[str, tuple[str, str]], lines: dict[Any, Any]
) -> None:
    """Both differences of one method."""
    sign = -1 if column.better is False else 1
    for shift, (name, place) in zip((-0.14, 0.14), opponents.items(), strict=False):
        row = lines.get((column.metric, entry.method, entry.layer, *place))
        if row is not None and np.isfinite(row.difference):
            look = LOOK[name]
            ax.hlines(y + shift, sign * row.difference_low, sign * row.difference_high, color=look["color"], lw=1.1)
            ax.plot([sign * row.difference], [y + shift], ls="", ms=3.2, mew=0.9, **look)
