"""Each method under every baseline, and how far the baselines agree on their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bench.analysis.groups import Entry, Group
from bench.analysis.statistics import means, percentile_interval, resampled_means
from bench.analysis.tables import ARROWS
from bench.analysis.trials.baselines import (
    baseline_distance_table,
    baseline_tau_table,
    baseline_values,
    families,
)
from bench.figures.crash_test import COLOURS
from bench.figures.style import NARROW, STYLE, WIDE, at_layer, legend, style_of

SPREAD = 0.5  # of a line's height: room for the methods of one baseline
RESAMPLES = 1000
PANELS = 3
INK = "#444444"  # of what belongs to no method
METHODS = 8  # lines of dots that can be told apart under one baseline


def baselines_figure(group: Group, sets: Sequence[Sequence[Entry]], layer: str, width: float = WIDE) -> Figure | None:
    """One panel an output, one line a baseline: mean and 95 % interval of each method; below, Kendall's tau.

    Where the group has them, one panel more shows the baselines' distances from the picture. None for groups without a
    metric under several baselines.
    """
    named = dict(list(families(group).items())[:PANELS])
    # Controls are not ordered.
    shown = [members for members in at_layer(sets, layer) if members[0].ranked and not members[0].control][:METHODS]
    if not named or not shown:
        return None
    distances = baseline_distance_table(group)
    distances = distances[distances["layer"] == layer]
    panels, first = len(named) + (not distances.empty), next(iter(named))
    across, count = 1 if width <= NARROW else panels, len(named[first])
    with rc_context(STYLE):
        down = -(-panels // across)
        size = (width, 0.26 * count * (down + 1) + 0.55 * (down + 1) + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.add_gridspec(down + 1, across)
        for number, (name, outputs) in enumerate(named.items()):
            ax = figure.add_subplot(grid[number // across, number % across])
            draw_means(ax, group, outputs, [members[0] for members in shown])
            output = next(iter(outputs.values()))
            ax.set_title(f"{name.rpartition('.')[2]} {ARROWS[group.higher_is_better(output)]}")
            if number % across:
                ax.set_yticklabels([])
        if not distances.empty:
            ax = figure.add_subplot(grid[(panels - 1) // across, (panels - 1) % across])
            draw_distances(ax, distances, list(named[first]), bool((panels - 1) % across))
        draw_taus(figure.add_subplot(grid[down, :]), group, first, list(named[first]))
        legend(figure, shown, 2 if width <= NARROW else 4)
    return figure


def draw_means(ax: Axes, group: Group, outputs: dict[str, str], entries: Sequence[Entry]) -> None:
    """Dots with intervals, one line a baseline."""
    ranked, values = baseline_values(group, outputs)
    for place, entry in enumerate(entries):
        if entry not in ranked:
            continue
        own = values[:, ranked.index(entry)] * (1 if group.higher_is_better(next(iter(outputs.values()))) else -1)
        low, high = percentile_interval(resampled_means(own, group.images, group.image_count, None, RESAMPLES, 0))
        look = style_of(entry)
        y = np.arange(len(outputs)) + SPREAD * ((place + 0.5) / len(entries) - 0.5)
        ax.hlines(y, low, high, color=look["color"], lw=0.9)
        ax.plot(means(own), y, ls="", ms=3.2, marker=look["marker"], color=look["color"])
    label_lines(ax, list(outputs))


def label_lines(ax: Axes, baselines: list[str]) -> None:
    """Name the baselines at the left, one line each, from the top."""
    ax.set_yticks(range(len(baselines)), baselines)
    ax.set_ylim(len(baselines) - 0.4, -0.6)
    ax.locator_params(axis="x", nbins=3)


def draw_distances(ax: Axes, table: pd.DataFrame, baselines: list[str], bare: bool) -> None:
    """Dots with intervals of the baselines' distances from the picture; they are the same for all methods."""
    own = table[table["baseline"].isin(baselines)]
    y = [baselines.index(name) for name in own["baseline"]]
    ax.hlines(y, own["ci_low"], own["ci_high"], color=INK, lw=0.9)
    ax.plot(own["distance"], y, ls="", ms=3.2, marker="s", color=INK)
    label_lines(ax, baselines)
    ax.set_xlim(left=0)
    ax.set_title("distance in features")
    if bare:
        ax.set_yticklabels([])


def draw_taus(ax: Axes, group: Group, name: str, baselines: list[str]) -> None:
    """Tiles of Kendall's tau between the orders under two baselines: blue where they agree, orange where reversed."""
    table = baseline_tau_table(group)
    table = table[table["metric"] == name]
    matrix = np.full((len(baselines), len(baselines)), np.nan)
    for row in table.itertuples():
        i, j = baselines.index(row.baseline), baselines.index(row.other_baseline)
        matrix[i, j] = matrix[j, i] = row.tau
    colours = LinearSegmentedColormap.from_list("tau", [COLOURS["fail"], "#f7f7f7", COLOURS["pass"]])
    ax.imshow(matrix, cmap=colours, vmin=-1, vmax=1, aspect="auto")
    for i, j in np.ndindex(matrix.shape):
        if np.isfinite(matrix[i, j]):
            ax.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=6.5)
    ax.set_yticks(range(len(baselines)), baselines)
    ax.set_xticks(range(len(baselines)), baselines, rotation=40, ha="right", rotation_mode="anchor")
    ax.set_title(f"Kendall's τ of the order by {name.rpartition('.')[2]}")
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
