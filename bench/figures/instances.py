"""Coverage of all objects, and of the worst-shown one, by the number of objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.analysis.groups import Entry, Group
from bench.figures.style import FAINT, STYLE, WIDE, at_layer, drawn, legend, shown_lines, style_of

LEAST = 10  # cases in a bin that is drawn
BINS = ("1", "2", "3-4", "5+")
PANELS = {"box_coverage.coverage": "coverage, mean over objects", "box_coverage.min_coverage": "worst-shown object"}


def instances_figure(
    group: Group, table: pd.DataFrame, sets: Sequence[Sequence[Entry]], layer: str, reference: str, width: float = WIDE
) -> Figure | None:
    """Two panels, one line a method at `layer`, with the interval of random as a band.

    `table` is of `bench.analysis.tables.breakdown_group`. Bins of fewer than `LEAST` cases are hidden; None where no
    bin is left or box_coverage was not measured.
    """
    table = table[(table["by"] == "n_instances") & table["metric"].isin(PANELS) & (table["n"] >= LEAST)]
    if table.empty:
        return None
    metrics = [name for name in PANELS if (table["metric"] == name).any()]
    own = at_layer(sets, layer)
    chosen = shown_lines(own, reference)
    across = len(metrics) if width >= WIDE else 1
    with rc_context(STYLE):
        figure = Figure(figsize=(width, 2.3 * (len(metrics) // across) + 0.6), layout="constrained")
        axes = figure.subplots(len(metrics) // across, across, squeeze=False, sharey=True).ravel()
        for ax, metric in zip(axes, metrics, strict=True):
            rows = table[table["metric"] == metric]
            bins = [name for name in BINS if (rows["bin"] == name).any()]
            numbers = rows.groupby("bin")["n"].max()
            draw_bins(ax, rows, own, chosen, bins)
            ax.set_xticks(range(len(bins)), [f"{name.replace('-', '–')}\nn = {numbers[name]}" for name in bins])
            ax.set_xlim(-0.4, len(bins) - 0.6)
            ax.set_ylim(bottom=0)
            ax.set_title(PANELS[metric])
            ax.set_xlabel("objects of the class")
            ax.grid(axis="x", visible=False)
        axes[0].set_ylabel("share of the box covered")
        legend(figure, chosen, 2 if width >= WIDE else 1, [Patch(color="#dddddd", label="random, 95 % interval")])
    return figure


def draw_bins(
    ax: Axes, rows: pd.DataFrame, sets: Sequence[Sequence[Entry]], chosen: Sequence[Sequence[Entry]], bins: list[str]
) -> None:
    """Lines of the chosen methods in colour, of the others grey; random as a band."""
    spots = np.arange(len(bins), dtype=float)
    for members in [m for m in drawn(sets) if m not in chosen]:
        ax.plot(spots, means_of(rows, members[0], bins)["mean"], color=FAINT, lw=0.6, zorder=1)
    random = next((members[0] for members in sets if members[0].name == "random"), None)
    if random:
        band = means_of(rows, random, bins)
        x = spots if len(bins) > 1 else np.array([-0.3, 0.3])
        low, high = (band[end].to_numpy().repeat(1 if len(bins) > 1 else 2) for end in ("ci_low", "ci_high"))
        ax.fill_between(x, low, high, color="#dddddd", lw=0, zorder=0)
    for i, members in enumerate(chosen):
        line, style = means_of(rows, members[0], bins), style_of(members[0])
        x = spots + (i - (len(chosen) - 1) / 2) * 0.07  # side by side, so that no interval hides another
        ax.vlines(x, line["ci_low"], line["ci_high"], color=style["color"], lw=0.9, alpha=0.7)
        ax.plot(x, line["mean"], ms=3.6, lw=1.2, mew=0, **style)


def means_of(rows: pd.DataFrame, entry: Entry, bins: list[str]) -> pd.DataFrame:
    """Mean and interval of one entry in each bin."""
    own = rows[(rows["method"] == entry.method) & (rows["layer"] == entry.layer)]
    return own.set_index("bin").reindex(bins)
