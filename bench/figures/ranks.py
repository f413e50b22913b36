"""Figures of the rankings: critical-difference diagrams, and how far the metrics agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.columns import Column, shown_columns
from bench.analysis.groups import Group
from bench.analysis.rankings import cliques, ranked_entries
from bench.figures.style import STYLE, layer_legend, layer_styles, p_text, title_of

LANE = 0.035  # distance of the bars, as a share of the ranks


def ranks_figure(group: Group, table: pd.DataFrame) -> Figure | None:
    """Average ranks of all methods at layers, one panel a metric.

    Points are average ranks, best on top; bars at the right connect methods whose ranks differ by less than
    Nemenyi's critical difference. Methods whose maps are mostly degenerate are not ranked.

    Parameters
    ----------
    group : Group
    table : DataFrame
        From `bench.analysis.rankings.ranks_table`.

    Returns
    -------
    Figure or None
        None where there is nothing to rank.
    """
    columns = [column for column in shown_columns(group) if (table["metric"] == column.metric).any()]
    if not columns:
        return None
    across = min(len(columns), 3)
    down = -(-len(columns) // across)
    longest = max(len(entry.method) for entry in group.entries)
    k = int(table["k"].max())
    size = (across * (1.8 + 0.058 * longest), down * (0.6 + 0.155 * k) + 0.55)
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
        lanes = max(draw_ranks(ax, group, table, column) for ax, column in zip(axes, columns, strict=False))
        axes[0].set_xlim(0.6, k + 0.8 + LANE * k * (lanes + 1))  # all panels share it
        axes[0].set_xticks([1, *range(5, k + 1, 5)] if k <= 20 else [1, *range(10, k + 1, 10)])
        for ax in axes[len(columns) :]:
            ax.set_axis_off()
        figure.supxlabel(
            "average rank (1 is best); p: Friedman's test; bars connect ranks closer than the critical difference (CD)",
            fontsize=8,
        )
        layer_legend(figure, group, "outside upper center")
    return figure


def draw_ranks(ax: Axes, group: Group, table: pd.DataFrame, column: Column) -> int:
    """One metric's panel; returns the number of lanes that its bars take."""
    part = table[table["metric"] == column.metric].iloc[0]
    entries, average, critical = ranked_entries(group, table, column.metric)
    styles = layer_styles(group)
    for y, (entry, rank) in enumerate(zip(entries, average, strict=True)):
        style = styles[entry.layer, entry.control]
        ax.plot([1, rank], [y, y], color=style["color"], lw=0.8, alpha=0.5)
        ax.plot(rank, y, ms=4.2, **style)
    ax.set_yticks(range(len(entries)), [entry.method for entry in entries], fontsize=7)
    ax.set_ylim(len(entries) - 0.4, -0.6)
    test = f"{p_text(part['p'])}, n = {int(part['n'])}, CD = {critical:.1f}"
    ax.set_title(f"{title_of(column)}\n{test}", fontsize=8, y=1)
    # With fixed places matplotlib need not measure all names to keep title and label clear of them.
    ax.yaxis.set_label_coords(0, 0)
    ax.grid(axis="y", visible=False)
    return draw_cliques(ax, average, critical, int(table["k"].max()))


def draw_cliques(ax: Axes, average: np.ndarray, critical: float, k: int) -> int:
    """Bars right of the points, one for each clique, in as few lanes as possible; returns how many lanes."""
    ends: list[int] = []  # of the lowest bar in each lane
    for first, last in cliques(average, critical):
        lane = next((i for i, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        x = k + 0.4 + LANE * k * (lane + 1)
        ax.plot([x, x], [first - 0.25, last + 0.25], color="#222222", lw=1.8, solid_capstyle="butt")
    return len(ends)


def agreement_figure(group: Group, table: pd.DataFrame) -> Figure | None:
    """Kendall's tau between the metrics as a matrix: below the diagonal of the means, above it within images.

    Parameters
    ----------
    group : Group
    table : DataFrame
        From `bench.analysis.rankings.agreement_table`.

    Returns
    -------
    Figure or None
        None for fewer than two metrics.
    """
    used = set(table["metric"]) | set(table["other_metric"])
    columns = [column for column in shown_columns(group) if column.metric in used]
    if len(columns) < 2:
        return None
    place = {column.metric: i for i, column in enumerate(columns)}
    matrix = np.full((len(columns), len(columns)), np.nan)
    for row in table.itertuples():
        first, second = sorted((place[row.metric], place[row.other_metric]))
        matrix[second, first], matrix[first, second] = row.tau, row.tau_within
    names = [title_of(column) for column in columns]
    side = 0.5 * len(columns)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side + 2.7, side + 2.1), layout="constrained")
        ax = figure.subplots()
        colours = colormaps["PuOr_r"].with_extremes(bad="#f2f2f2")
        image = ax.imshow(np.ma.masked_invalid(matrix), cmap=colours, vmin=-1, vmax=1)
        for (y, x), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.65 else "#222222"
                text = f"{value:.2f}".replace("0.", ".").replace("-.00", ".00")
                text = f"{value:.0f}" if abs(value) > 0.995 else text
                ax.text(x, y, text, ha="center", va="center", fontsize=7.5, color=colour)
        style: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(names)), names, **style)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_title("do the metrics agree? Kendall's τ\nbelow the diagonal: of the means; above: within images")
        figure.colorbar(image, ax=ax, shrink=0.6, label="τ (1: same order of methods)", ticks=[-1, -0.5, 0, 0.5, 1])
    return figure
