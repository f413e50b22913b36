"""Every question's metric along the network's depth, above a strip of degenerate maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.groups import Entry, Group
from bench.analysis.tables import Column
from bench.figures.style import NARROW, STYLE, WIDE, legend, shown_lines, style_of
from bench.types import NO_LAYER, plain_layer

LINES_UP_TO = 6  # layers; more become a heat map
TALLEST = 8.5


def depth_figure(
    group: Group,
    summary: pd.DataFrame,
    sets: Sequence[Sequence[Entry]],
    columns: Sequence[Column],
    reference: str,
    width: float = WIDE,
) -> Figure | None:
    """One panel a column. Up to six layers are points of lines, more are columns of a heat map.

    Layers are numbered from the input, other scales left out; a strip below shows the share of degenerate maps of all
    methods. None for fewer than two layers.
    """
    columns = [column for column in columns if (summary["metric"] == column.metric).any()]
    if len(group.depths) < 2 or not columns:
        return None
    if len(group.depths) > LINES_UP_TO:
        return heat_figure(group, summary, columns, width)
    across = 1 if width <= NARROW else min(2, len(columns))
    down = -(-len(columns) // across)
    # Equal at one layer is not equal at all: every method that was run has its line.
    own = sorted(
        (entry for entry in group.entries if plain_layer(entry.layer) != NO_LAYER), key=lambda entry: entry.ranked
    )
    order = {entry.method: i for i, entry in reversed(list(enumerate(group.entries)))}
    methods = {entry.method: entry for entry in sorted(own, key=lambda entry: order[entry.method])}
    chosen = shown_lines([[entry] for entry in methods.values()], reference)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, 1.9 * down + 0.7), layout="constrained")
        grid = figure.subplots(2 * down, across, squeeze=False, sharex=True, height_ratios=[1, 0.09] * down)
        for i, column in enumerate(columns):
            ax, strip = grid[2 * (i // across) : 2 * (i // across) + 2, i % across]
            draw_lines(ax, group, summary[summary["metric"] == column.metric], list(methods.values()), chosen)
            draw_strip(strip, group)
            ax.set_title(column.title)
            ax.set_xlim(-0.5, len(group.depths) - 0.5)
            strip.set_xlabel("depth of the layer")
            strip.tick_params(labelbottom=True)
        for ax in grid[:, -1][2 * (len(columns) // across) :] if len(columns) % across else ():
            ax.set_axis_off()
        legend(figure, chosen, 2 if width > NARROW else 1)
    return figure


def draw_lines(
    ax: Axes, group: Group, rows: pd.DataFrame, methods: list[Entry], chosen: Sequence[Sequence[Entry]]
) -> None:
    """One line a method: chosen ones in colour with intervals, others grey; not where most maps say nothing."""
    coloured = {entry.method for members in chosen for entry in members}
    for i, entry in enumerate(sorted(methods, key=lambda e: e.method in coloured)):
        own = (
            rows[(rows["method"] == entry.method) & (rows["degenerate"] <= 0.5)]
            .set_index("layer")
            .reindex(group.depths)
        )
        x = np.arange(len(group.depths)) + (i - (len(methods) - 1) / 2) * 0.25 / len(methods)
        if entry.method in coloured:
            style = style_of(entry)
            ax.vlines(x, own["ci_low"], own["ci_high"], color=style["color"], lw=0.8, alpha=0.5)
            ax.plot(x, own["mean"], ms=3.2, lw=1.2, mew=0, **style)
        else:
            ax.plot(x, own["mean"], color="#b5b5b5", lw=0.6)
    for value in rows.loc[(rows["layer"] == NO_LAYER) & (rows["method"] == "random"), "mean"]:
        ax.axhline(value, color="#8c8c8c", lw=0.8, ls=(0, (4, 1.5)))
    ax.grid(axis="x", visible=False)


def degenerate_shares(group: Group) -> np.ndarray:
    """Share of degenerate maps of all methods at each layer, without controls."""
    shares = []
    for layer in group.depths:
        own = [entry.degenerate_share for entry in group.entries if entry.layer == layer and not entry.control]
        shares.append(float(np.mean(own)) if own else 0.0)
    return np.array(shares)


def draw_strip(ax: Axes, group: Group) -> None:
    """Share of degenerate maps as a strip of greys, with the layers' numbers below."""
    count = len(group.depths)
    ax.imshow(
        degenerate_shares(group)[None], cmap="Greys", vmin=0, vmax=1, aspect="auto", extent=(-0.5, count - 0.5, 0, 1)
    )
    ax.set_yticks([])
    ax.grid(visible=False)
    step = max(1, count // 12)
    ax.set_xticks(range(0, count, step), [str(i + 1) for i in range(0, count, step)])
    ax.set_xlim(-0.5, count - 0.5)


def heat_figure(group: Group, summary: pd.DataFrame, columns: Sequence[Column], width: float) -> Figure:
    """Methods by layers as tiles, one panel a column; darker is better; degenerate rows are hatched out."""
    methods = list(dict.fromkeys(e.method for e in group.entries if plain_layer(e.layer) != NO_LAYER))
    names = {entry.method: entry.title for entry in group.entries}
    height = min(TALLEST, len(columns) * (0.17 * len(methods) + 0.45) + 0.4)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        ratios: list[float] = [len(methods), 0.8] * len(columns)
        axes = figure.subplots(2 * len(columns), 1, squeeze=False, sharex=True, height_ratios=ratios).ravel()
        for i, column in enumerate(columns):
            rows = summary[(summary["metric"] == column.metric) & (summary["layer"] != NO_LAYER)]
            values = rows.pivot_table(index="method", columns="layer", values="mean")
            values = values.reindex(index=methods, columns=group.depths)
            colours: Any = colormaps["cividis_r" if column.better is False else "cividis"].with_extremes(bad="#eeeeee")
            extent = (-0.5, len(group.depths) - 0.5, len(methods) - 0.5, -0.5)
            image = axes[2 * i].imshow(np.ma.masked_invalid(values), cmap=colours, aspect="auto", extent=extent)
            axes[2 * i].set_yticks(range(len(methods)), [names[name] for name in methods])
            axes[2 * i].set_title(column.title)
            figure.colorbar(image, ax=axes[2 * i : 2 * i + 2], fraction=0.05, pad=0.01)
            draw_strip(axes[2 * i + 1], group)
        figure.supxlabel("depth of the layer; strip: degenerate maps", fontsize=7)
    return figure
