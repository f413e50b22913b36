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

from bench.analysis.columns import Column, shown_columns
from bench.analysis.groups import NO_LAYER, Entry, Group
from bench.figures.style import STYLE, method_handles, method_styles, title_of

LAYER_LABEL = 24  # characters of a layer's name under an axis


def panels(columns: list[Column], height: float, width: float = 2.35) -> tuple[Figure, list[Axes]]:
    """Figure with one panel a column, at most four beside each other, and room for a legend at the right."""
    across = next((n for n in (len(columns), 4, 3) if n <= 4 and len(columns) % n in (0, n - 1)), 4)
    down = -(-len(columns) // across)
    figure = Figure(figsize=(0.5 + width * across + 1.5, 0.35 + height * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharex=True).ravel()
    for ax, column in zip(axes, columns, strict=False):
        ax.set_title(title_of(column))
    for i, ax in enumerate(axes):
        if i >= len(columns):
            ax.set_axis_off()
        if i + across >= len(columns):
            ax.tick_params(labelbottom=True)  # the panel below it is empty
    return figure, list(axes[: len(columns)])


def layers_figure(group: Group, summary: pd.DataFrame) -> Figure | None:
    """Every metric along the network's depth: one line a method, with 95 % intervals.

    Methods that look at no layer are horizontal lines.

    Parameters
    ----------
    group : Group
    summary : DataFrame
        Rows of this group, from `bench.analysis.tables.summarize_group`.

    Returns
    -------
    Figure or None
        None for fewer than two layers.
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
        figure, axes = panels(columns, 2.0)
        for ax, column in zip(axes, columns, strict=True):
            for i, method in enumerate(methods):
                rows = summary[(summary["metric"] == column.metric) & (summary["method"] == method)]
                shift = (i - (len(methods) - 1) / 2) * 0.3 / len(methods)
                draw_depth(ax, group, rows.set_index("layer"), method, shift)
            ax.grid(axis="x", visible=False)
            ax.set_xticks(range(len(layers)), names, fontsize=6.5, **turned)
            ax.set_xlim(-0.4, len(layers) - 0.6)
        handles = method_handles(group, lw=1.2, ms=3.6, mew=0)
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6)
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

    Parameters
    ----------
    group : Group
    summary : DataFrame
        Rows of this group, from `bench.analysis.tables.summarize_group`.

    Returns
    -------
    Figure or None
        None where no seconds were recorded.
    """
    columns = [c for c in shown_columns(group) if c.better is not None and (summary["metric"] == c.metric).any()]
    timed = {(entry.layer, entry.method): milliseconds(entry) for entry in group.entries}
    if not columns or not any(value > 0 for value in timed.values()):
        return None
    with rc_context(STYLE):
        figure, axes = panels(columns, 1.9)
        for ax, column in zip(axes, columns, strict=True):
            rows = summary[summary["metric"] == column.metric]
            draw_times(ax, group, rows, timed)
            ranked = {(entry.layer, entry.method) for entry in group.entries if entry.ranked}
            places = [(row.layer, row.method) for row in rows.itertuples()]
            points = [
                (timed[place], mean) for place, mean in zip(places, rows["mean"], strict=True)
                if timed[place] > 0 and place in ranked
            ]  # fmt: skip
            draw_front(ax, points, bool(column.better))
            if max(timed.values()) > 8 * min(value for value in timed.values() if value > 0):
                ax.set_xscale("log")
                ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
            ax.grid(axis="x", visible=False)
        figure.supxlabel("milliseconds a map (its share of the shared pass, and the method)", fontsize=8)
        handles = method_handles(group, ms=4.4, linestyle="")
        if len(group.layers) > 1:
            dot: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4.4, "color": "#444444"}
            handles.append(Line2D([], [], label="last layer", **dot))
            handles.append(Line2D([], [], label="another layer", mfc="white", **dot))
        figure.legend(handles=handles, loc="outside right center")
    return figure


def draw_times(ax: Axes, group: Group, rows: pd.DataFrame, timed: dict[tuple[str, str], float]) -> None:
    """One point and interval for each method and layer; hollow where the layer is not the last."""
    styles = method_styles(group)
    for row in rows.itertuples():
        x = timed[row.layer, row.method]
        if x > 0:
            style = {key: styles[row.method][key] for key in ("color", "marker")}
            fill = style["color"] if row.layer in (group.last_layer, NO_LAYER) else "white"
            ax.vlines(x, row.ci_low, row.ci_high, color=style["color"], lw=0.7, alpha=0.4)
            ax.plot(x, row.mean, ms=4.4, mew=0.9, ls="", mfc=fill, **style)


def draw_front(ax: Axes, points: list[tuple[float, float]], higher: bool) -> None:
    """Draw a stepped line through the points that no faster one matches."""
    front: list[tuple[float, float]] = []
    for seconds, value in sorted(points, key=lambda point: (point[0], -point[1] if higher else point[1])):
        if not front or (value > front[-1][1] if higher else value < front[-1][1]):
            front.append((seconds, value))
    if front:
        x, y = zip(*front, strict=True)
        ax.step(
            [*x, max(seconds for seconds, _ in points)], [*y, y[-1]], where="post", color="#999999", lw=0.8, zorder=0
        )
