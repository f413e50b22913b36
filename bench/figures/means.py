"""Tables -> figures: means with intervals, and coverage by number of instances; what all figures have in common.

One style for all, in plots.mplstyle. Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart;
markers and dashes say the same once more. Controls are always grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.columns import Column, shown
from bench.analysis.groups import NO_LAYER, Group
from bench.figures.saving import STYLE

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CONTROL = "#8c8c8c"
GREYS = ("#6e6e6e", "#8c8c8c", "#a0a0a0", "#b4b4b4", "#7d7d7d")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (8, 2)))


def title_of(column: Column) -> str:
    """Heading of a panel: the words of the table's heading and its arrow."""
    return f"{' '.join(column.heading)} {column.arrow}".strip()


def method_styles(group: Group) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker of each method, the same in all figures of the group."""
    names = list(dict.fromkeys(entry.method for entry in group.entries if entry.category != "control"))
    controls = list(dict.fromkeys(entry.method for entry in group.entries if entry.category == "control"))
    styles = {}
    for list_of, colours in ((names, PALETTE), (controls, GREYS)):
        for i, name in enumerate(list_of):
            turn = i // len(colours) if colours is PALETTE else i + 1
            dashes = DASHES[turn % len(DASHES)]
            styles[name] = {
                "color": colours[i % len(colours)],
                "linestyle": dashes,
                "marker": MARKERS[i % len(MARKERS)],
            }
    return styles


def layer_colours(layers: Sequence[str]) -> list[Any]:
    """One colour a layer: distinct ones for few layers, a sequence from shallow to deep for many."""
    if len(layers) <= 5:
        return list(PALETTE[: len(layers)])
    return [colormaps["viridis"](0.9 * i / (len(layers) - 1)) for i in range(len(layers))]


def layer_styles(group: Group) -> dict[tuple[str, bool], dict[str, Any]]:
    """Colour and marker by (layer, whether it is a control)."""
    styles = {}
    for i, (layer, colour) in enumerate(zip(group.layers, layer_colours(group.layers), strict=True)):
        for control in (False, True):
            marker = MARKERS[i % len(MARKERS)]
            styles[layer, control] = {"color": CONTROL if control else colour, "marker": marker, "mew": 0}
    for control in (False, True):
        styles[NO_LAYER, control] = {"color": CONTROL if control else PALETTE[-1], "marker": "|", "mew": 1.5}
    return styles


def layer_handles(group: Group) -> list[Line2D]:
    """Legend entries for `layer_styles`."""
    styles = layer_styles(group)
    handles = [Line2D([], [], ms=4.2, lw=1.3, label=layer, **styles[layer, False]) for layer in group.layers]
    if any(entry.layer == NO_LAYER and entry.category != "control" for entry in group.entries):
        handles.append(Line2D([], [], ms=4.2, lw=1.3, label="no layer", **styles[NO_LAYER, False]))
    if any(entry.category == "control" for entry in group.entries):
        handles.append(Line2D([], [], ms=4.2, lw=1.3, label="control", **styles[NO_LAYER, True]))
    return handles


def means_figure(group: Group, summary: pd.DataFrame) -> Figure | None:
    """One panel a metric: every method's mean with its 95 % interval, one colour a layer.

    Parameters
    ----------
    group : Group
    summary : DataFrame
        Rows of this group, from `bench.analysis.tables.summarize_group`.

    Returns
    -------
    Figure or None
        None where no metric is to be shown.
    """
    columns = [column for column in shown(group) if (summary["metric"] == column.metric).any()]
    if not columns:
        return None
    entries = sorted(group.entries, key=lambda e: e.category == "control")
    methods = list(dict.fromkeys(entry.method for entry in entries))
    controls = {entry.method for entry in entries if entry.category == "control"}
    layers = group.layers
    styles = layer_styles(group)
    step = min(0.22, 0.7 / max(len(layers), 1))
    across = next((n for n in (len(columns), 5, 4, 3) if n <= 5 and (len(columns) % n in (0, n - 1))), 4)
    down = -(-len(columns) // across)
    row = max(0.24, 0.1 * len(layers))
    left = 0.35 + 0.062 * max(len(name) for name in methods)
    size = (left + 1.75 * across + 0.1, down * (row * len(methods) + 0.75) + 0.45)
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        lookup = {(r.metric, r.layer, r.method): r for r in summary.itertuples()}
        for ax, column in zip(axes, columns, strict=False):
            for y, method in enumerate(methods):
                at = [layer for layer in [*layers, NO_LAYER] if (column.metric, layer, method) in lookup]
                for i, layer in enumerate(at):
                    found = lookup[column.metric, layer, method]
                    style = styles[layer, method in controls]
                    place = y + (i - (len(at) - 1) / 2) * step
                    ax.plot(
                        [found.ci_low, found.ci_high],
                        [place, place],
                        color=style["color"],
                        lw=1.3,
                        solid_capstyle="butt",
                    )
                    ax.plot(found.mean, place, ms=4.2, **style)
            ax.set_title(title_of(column))
            ax.set_yticks(range(len(methods)), methods)
            ax.set_ylim(len(methods) - 0.45, -0.55)
            ax.locator_params(axis="x", nbins=5)
            if 0 < len(controls) < len(methods):
                ax.axhline(len(methods) - len(controls) - 0.5, color="#aaaaaa", lw=0.8)
            ax.grid(axis="y", visible=False)
        for ax in axes[len(columns) :]:
            ax.set_axis_off()
        handles = layer_handles(group)
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), max(1, int(size[0] / 1.6))))
    return figure


def instances_figure(group: Group, table: pd.DataFrame) -> Figure | None:
    """Coverage by number of instances: one panel a layer and coverage, one line a method.

    Parameters
    ----------
    group : Group
    table : DataFrame
        Rows of this group, from `bench.analysis.tables.breakdown_group`.

    Returns
    -------
    Figure or None
        None without box_coverage or without a case with boxes.
    """
    metrics = [name for name in ("box_coverage.coverage", "box_coverage.min_coverage") if name in group.outputs]
    table = table[(table["by"] == "n_instances") & table["metric"].isin(metrics)]
    if table.empty:
        return None
    bins = [name for name in ("1", "2", "3-4", "5+") if (table["bin"] == name).any()]
    numbers = table.groupby("bin")["n"].max()
    layers = group.layers or [NO_LAYER]
    styles = method_styles(group)
    with rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.1 * len(metrics) + 1.9, 0.6 + 2.45 * len(layers)), layout="constrained")
        grid = figure.subplots(len(layers), len(metrics), squeeze=False, sharex=True, sharey=True)
        for line, layer in zip(grid, layers, strict=True):
            entries = [entry for entry in group.entries if entry.layer in (layer, NO_LAYER)]
            for ax, metric in zip(line, metrics, strict=True):
                for i, entry in enumerate(entries):
                    mine = (table["method"] == entry.method) & (table["layer"] == entry.layer)
                    part = table[mine & (table["metric"] == metric)].set_index("bin").reindex(bins)
                    # Side by side, so that the intervals of one bin do not hide each other.
                    x = np.arange(len(bins)) + (i - (len(entries) - 1) / 2) * 0.6 / len(entries)
                    style = styles[entry.method]
                    ax.vlines(x, part["ci_low"], part["ci_high"], color=style["color"], lw=0.9, alpha=0.7)
                    ax.plot(x, part["mean"], ms=3.6, lw=1.1, mew=0, **style)
                ax.set_xticks(range(len(bins)), [f"{name.replace('-', '–')}\nn = {numbers[name]}" for name in bins])
                ax.set_xlim(-0.5, len(bins) - 0.5)
                ax.grid(axis="x", visible=False)
            line[0].set_ylabel(f"{layer}\ncoverage" if layer != NO_LAYER else "coverage")
        for ax, metric in zip(grid[0], metrics, strict=True):
            ax.set_title("mean over instances ↑" if metric.endswith(".coverage") else "worst instance ↑")
        for ax in grid[-1]:
            ax.set_xlabel("instances of the class in the image")
        used = dict.fromkeys(entry.method for entry in group.entries)
        handles = [Line2D([], [], ms=4, lw=1.2, mew=0, label=name, **styles[name]) for name in used]
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6)
    return figure
