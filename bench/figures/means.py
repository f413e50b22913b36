"""Means with their intervals, and coverage by number of instances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.groups import NO_LAYER, Entry, Group, shown_columns
from bench.figures.style import STYLE, draw_points, layer_legend, layer_styles, method_legend, method_styles, panels


def means_figure(group: Group, summary: pd.DataFrame) -> Figure | None:
    """One panel a metric: every method's mean with its 95 % interval, one colour a layer.

    `summary` is of `bench.analysis.tables.summarize_group`. None where no metric is to be shown.
    """
    columns = [column for column in shown_columns(group) if (summary["metric"] == column.metric).any()]
    if not columns:
        return None
    methods = list(dict.fromkeys(entry.method for entry in sorted(group.entries, key=lambda e: e.control)))
    controls = {entry.method for entry in group.entries if entry.control}
    height = max(0.24, 0.1 * len(group.layers)) * len(methods) + 0.75
    left = 0.45 + 0.062 * max(len(name) for name in methods)
    with rc_context(STYLE):
        figure, axes = panels(columns, 5, (1.75, height), (left, 0.45), sharey=True)
        for ax, column in zip(axes, columns, strict=True):
            draw_means(ax, group, summary[summary["metric"] == column.metric], methods)
            ax.set_yticks(range(len(methods)), methods)
            ax.set_ylim(len(methods) - 0.45, -0.55)
            ax.locator_params(axis="x", nbins=5)
            if 0 < len(controls) < len(methods):
                ax.axhline(len(methods) - len(controls) - 0.5, color="#aaaaaa", lw=0.8)
            ax.grid(axis="y", visible=False)
        layer_legend(figure, group, "outside lower center")
    return figure


def draw_means(ax: Axes, group: Group, rows: pd.DataFrame, methods: list[str]) -> None:
    """One point and interval for each method and layer; those of one method lie side by side around its line."""
    styles = {key: {"ms": 4.2, **style} for key, style in layer_styles(group).items()}
    controls = {entry.method for entry in group.entries if entry.control}
    step = min(0.22, 0.7 / max(len(group.layers), 1))
    cells = {(row.layer, row.method): row for row in rows.itertuples()}
    spans: list[tuple[Any, ...]] = []
    points: dict[Any, list[tuple[float, float]]] = {}
    for line, method in enumerate(methods):
        layers = [layer for layer in [*group.layers, NO_LAYER] if (layer, method) in cells]
        for i, layer in enumerate(layers):
            cell, key = cells[layer, method], (layer, method in controls)
            y = line + (i - (len(layers) - 1) / 2) * step
            spans.append((y, cell.ci_low, cell.ci_high, styles[key]["color"]))
            points.setdefault(key, []).append((cell.mean, y))
    rows_y, low, high, colours = zip(*spans, strict=True)
    ax.hlines(rows_y, low, high, colors=colours, lw=1.3)
    draw_points(ax, points, styles)


def instances_figure(group: Group, table: pd.DataFrame) -> Figure | None:
    """Coverage by number of instances: one panel a layer and coverage, one line a method.

    `table` is of `bench.analysis.tables.breakdown_group`. None without box_coverage or without a case with boxes.
    """
    metrics = [name for name in ("box_coverage.coverage", "box_coverage.min_coverage") if name in group.outputs]
    table = table[(table["by"] == "n_instances") & table["metric"].isin(metrics)]
    if table.empty:
        return None
    bins = [name for name in ("1", "2", "3-4", "5+") if (table["bin"] == name).any()]
    numbers = table.groupby("bin")["n"].max()
    layers = group.layers or [NO_LAYER]
    with rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.1 * len(metrics) + 1.9, 0.6 + 2.45 * len(layers)), layout="constrained")
        grid = figure.subplots(len(layers), len(metrics), squeeze=False, sharex=True, sharey=True)
        for line, layer in zip(grid, layers, strict=True):
            entries = [entry for entry in group.entries if entry.layer in (layer, NO_LAYER)]
            for ax, metric in zip(line, metrics, strict=True):
                draw_bins(ax, table[table["metric"] == metric], entries, bins, method_styles(group))
                ax.set_xticks(range(len(bins)), [f"{name.replace('-', '–')}\nn = {numbers[name]}" for name in bins])
            line[0].set_ylabel(f"{layer}\ncoverage" if layer != NO_LAYER else "coverage")
        for ax, metric in zip(grid[0], metrics, strict=True):
            ax.set_title("mean over instances ↑" if metric.endswith(".coverage") else "worst instance ↑")
        for ax in grid[-1]:
            ax.set_xlabel("instances of the class in the image")
        method_legend(figure, group, ms=4, lw=1.2, mew=0)
    return figure


def draw_bins(
    ax: Axes, table: pd.DataFrame, entries: list[Entry], bins: list[str], styles: dict[str, dict[str, Any]]
) -> None:
    """One line a method over the bins."""
    for i, entry in enumerate(entries):
        own = table[(table["method"] == entry.method) & (table["layer"] == entry.layer)].set_index("bin").reindex(bins)
        # Side by side, so that the intervals of one bin do not hide each other.
        x = np.arange(len(bins)) + (i - (len(entries) - 1) / 2) * 0.6 / len(entries)
        ax.vlines(x, own["ci_low"], own["ci_high"], color=styles[entry.method]["color"], lw=0.9, alpha=0.7)
        ax.plot(x, own["mean"], ms=3.6, lw=1.1, mew=0, **styles[entry.method])
    ax.set_xlim(-0.5, len(bins) - 0.5)
    ax.grid(axis="x", visible=False)
