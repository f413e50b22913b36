"""Figures of what a choice costs: layers against metrics, runtime against quality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from bench.analysis.groups import NO_LAYER, Entry, Group, shown_columns
from bench.figures.style import STYLE, draw_points, method_legend, method_styles, panels

LAYER_LABEL = 24  # characters of a layer's name under an axis


def layers_figure(group: Group, summary: pd.DataFrame) -> Figure | None:
    """Every metric along the network's depth: one line a method, with 95 % intervals.

    Methods that look at no layer are horizontal lines. None for fewer than two layers.
    """
    columns = [column for column in shown_columns(group) if (summary["metric"] == column.metric).any()]
    layers = group.layers
    if not columns or len(layers) < 2:
        return None
    methods = list(dict.fromkeys(entry.method for entry in group.entries))
    names = [name if len(name) <= LAYER_LABEL else f"…{name[1 - LAYER_LABEL :]}" for name in layers]
    few = len(layers) <= 3 and max(map(len, names)) <= 12
    turned: dict[str, Any] = {} if few else {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    with rc_context(STYLE):
        figure, axes = panels(columns, 4, (2.35, 2.0), (2.0, 0.35), sharex=True)
        for ax, column in zip(axes, columns, strict=True):
            for i, method in enumerate(methods):
                rows = summary[(summary["metric"] == column.metric) & (summary["method"] == method)]
                shift = (i - (len(methods) - 1) / 2) * 0.3 / len(methods)
                draw_depth(ax, group, rows.set_index("layer"), method, shift)
            ax.grid(axis="x", visible=False)
            ax.set_xticks(range(len(layers)), names, fontsize=6.5, **turned)
            ax.set_xlim(-0.4, len(layers) - 0.6)
        method_legend(figure, group, lw=1.2, ms=3.6, mew=0)
    return figure


def draw_depth(ax: Axes, group: Group, rows: pd.DataFrame, method: str, shift: float) -> None:
    """One method's line over the layers, shifted so that the intervals of one layer do not hide each other."""
    control = any(entry.control for entry in group.entries if entry.method == method)
    style = {**method_styles(group)[method], "lw": 0.9 if control else 1.4, "ms": 3.2, "mew": 0}
    for value in rows.loc[rows.index == NO_LAYER, "mean"]:
        ax.axhline(value, color=style["color"], linestyle=style["linestyle"], lw=0.8)
    rows = rows.reindex(group.layers)
    if rows["mean"].notna().any():
        x = np.arange(len(rows)) + shift
        ax.vlines(x, rows["ci_low"], rows["ci_high"], color=style["color"], lw=0.8, alpha=0.45)
        ax.plot(x, rows["mean"], **style)


def milliseconds(entry: Entry) -> float:
    """Milliseconds that one map of this entry took, its share of the shared pass included; NaN where not recorded."""
    if not {"capture", "method"} <= set(entry.seconds):
        return float("nan")
    return 1000 * (entry.seconds["capture"] + entry.seconds["method"]) / entry.rows


def runtime_figure(group: Group, summary: pd.DataFrame) -> Figure | None:
    """Every metric against the milliseconds that a map takes; the line connects methods that no faster one beats.

    None where no seconds were recorded.
    """
    columns = [c for c in shown_columns(group) if c.better is not None and (summary["metric"] == c.metric).any()]
    timed = {(e.layer, e.method): (milliseconds(e), e) for e in group.entries if milliseconds(e) > 0}
    if not columns or not timed:
        return None
    times = [x for x, _ in timed.values()]
    with rc_context(STYLE):
        figure, axes = panels(columns, 4, (2.35, 1.9), (2.0, 0.35), sharex=True)
        for ax, column in zip(axes, columns, strict=True):
            rows = summary[summary["metric"] == column.metric].itertuples()
            cells = [(row, *timed[row.layer, row.method]) for row in rows if (row.layer, row.method) in timed]
            draw_times(ax, group, cells)
            draw_front(ax, [(x, row.mean) for row, x, entry in cells if entry.ranked], bool(column.better))
            if max(times) > 8 * min(times):
                ax.set_xscale("log")
                ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
            ax.grid(axis="x", visible=False)
        figure.supxlabel("milliseconds a map (its share of the shared pass, and the method)", fontsize=8)
        dot: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4.4, "color": "#444444"}
        more = [Line2D([], [], label="last layer", **dot), Line2D([], [], label="another layer", mfc="white", **dot)]
        method_legend(figure, group, more if len(group.layers) > 1 else [], ms=4.4, linestyle="")
    return figure


def draw_times(ax: Axes, group: Group, cells: list[tuple[Any, float, Entry]]) -> None:
    """One point and interval for each (row of the summary, milliseconds, entry); hollow where not the last layer."""
    if not cells:
        return
    own, styles = method_styles(group), {}
    points: dict[Any, list[tuple[float, float]]] = {}
    for row, x, entry in cells:
        style = {key: own[entry.method][key] for key in ("color", "marker")}
        filled = entry.layer in (group.last_layer, NO_LAYER)
        styles[entry.method, filled] = style | {"ms": 4.4, "mew": 0.9, "mfc": style["color"] if filled else "white"}
        points.setdefault((entry.method, filled), []).append((x, row.mean))
    low, high = [row.ci_low for row, _, _ in cells], [row.ci_high for row, _, _ in cells]
    colours = [own[entry.method]["color"] for _, _, entry in cells]
    ax.vlines([x for _, x, _ in cells], low, high, colors=colours, lw=0.7, alpha=0.4)
    draw_points(ax, points, styles)


def draw_front(ax: Axes, points: list[tuple[float, float]], higher: bool) -> None:
    """Draw a stepped line through the points (milliseconds, value) that no faster one matches."""
    front: list[tuple[float, float]] = []
    for x, value in sorted(points, key=lambda point: (point[0], -point[1] if higher else point[1])):
        if not front or (value > front[-1][1] if higher else value < front[-1][1]):
            front.append((x, value))
    if front:
        front.append((max(x for x, _ in points), front[-1][1]))
        ax.step(*zip(*front, strict=True), where="post", color="#999999", lw=0.8, zorder=0)
