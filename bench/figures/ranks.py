"""Figures of the rankings: critical-difference diagrams, and how far the metrics agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.groups import Column, Group, shown_columns
from bench.analysis.rankings import cliques
from bench.figures.style import STYLE, draw_points, layer_legend, layer_styles, p_text, panels

LANE = 0.035  # distance of the bars, as a share of the ranks


def ranks_figure(group: Group, table: pd.DataFrame) -> Figure | None:
    """Average ranks of all methods at layers, one panel a metric.

    Points are average ranks, best on top; bars at the right connect methods whose ranks differ by less than
    Nemenyi's critical difference. Methods whose maps are mostly degenerate are not ranked. `table` is of
    `bench.analysis.rankings.ranks_table`; None where there is nothing to rank.
    """
    columns = [column for column in shown_columns(group) if (table["metric"] == column.metric).any()]
    if not columns:
        return None
    k, longest = int(table["k"].max()), max(len(entry.method) for entry in group.entries)
    with rc_context(STYLE):
        figure, axes = panels(columns, 3, (1.8 + 0.058 * longest, 0.6 + 0.155 * k), (0, 0.55), sharex=True)
        lanes = max(draw_ranks(ax, group, table, column) for ax, column in zip(axes, columns, strict=True))
        axes[0].set_xlim(0.6, k + 0.8 + LANE * k * (lanes + 1))  # all panels share it
        axes[0].set_xticks([1, *range(5, k + 1, 5)] if k <= 20 else [1, *range(10, k + 1, 10)])
        figure.supxlabel(
            "average rank (1 is best); p: Friedman's test; bars connect ranks closer than the critical difference (CD)",
            fontsize=8,
        )
        layer_legend(figure, group, "outside upper center")
    return figure


def draw_ranks(ax: Axes, group: Group, table: pd.DataFrame, column: Column) -> int:
    """One metric's panel; returns the number of lanes that its bars take."""
    rows = table[table["metric"] == column.metric].sort_values("average_rank", kind="stable")
    first, average = rows.iloc[0], rows["average_rank"].to_numpy()
    controls = {entry.method for entry in group.entries if entry.control}
    styles = {key: {"ms": 4.2, **style} for key, style in layer_styles(group).items()}
    keys = [(row.layer, row.method in controls) for row in rows.itertuples()]
    ax.hlines(range(len(rows)), 1, average, colors=[styles[key]["color"] for key in keys], lw=0.8, alpha=0.5)
    points: dict[Any, list[tuple[float, float]]] = {}
    for y, (key, rank) in enumerate(zip(keys, average, strict=True)):
        points.setdefault(key, []).append((rank, y))
    draw_points(ax, points, styles)
    ax.set_yticks(range(len(rows)), rows["method"], fontsize=7)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    critical = float(first["critical_difference"])
    test = f"{p_text(first['p'])}, n = {int(first['n'])}, CD = {critical:.1f}"
    ax.set_title(f"{column.title}\n{test}", fontsize=8, y=1)
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

    `table` is of `bench.analysis.rankings.agreement_table`; None for fewer than two metrics.
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
    names = [column.title for column in columns]
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
