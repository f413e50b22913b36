"""Grids of tiles: which methods pass which mechanisms, what metrics make of maps of known quality; and failures."""

from __future__ import annotations

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.analysis.groups import Group
from bench.analysis.kept_maps import Shown
from bench.analysis.trials.crash_test import worst
from bench.analysis.trials.metric_trial import KINDS, SEES, TRUSTED
from bench.figures.gallery import blocks_of, draw_blocks
from bench.figures.style import STYLE

# Colour-blind readers tell blue from orange; the words in the tiles say the same.
COLOURS = {"pass": "#bcd9ec", "fail": "#f2b48a", "undecided": "#e8e8e8"}


def crash_figure(table: pd.DataFrame) -> Figure | None:
    """One row a method, one column a mechanism; a tile that does not pass names its worst value.

    `table` is of `bench.analysis.trials.crash_test.crash_table`. None where it is empty.
    """
    if table.empty:
        return None
    methods = list(dict.fromkeys(zip(table["method"], table["layer"], strict=True)))
    mechanisms = list(dict.fromkeys(table["mechanism"]))
    left, wide, high = 0.4 + 0.075 * max(len(method) for method, _ in methods), 0.78, 0.21
    size = (left + wide * len(mechanisms) + 0.1, 0.62 + high * len(methods))
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        ax = figure.add_axes((left / size[0], 0.02, 1 - (left + 0.1) / size[0], 1 - 0.62 / size[1]))
        for (mechanism, method, layer), rows in table.groupby(["mechanism", "method", "layer"], sort=False):
            x, y = mechanisms.index(mechanism), methods.index((method, layer))
            overall = rows["overall"].iloc[0]
            ax.add_patch(Rectangle((x, y), 0.96, 0.92, facecolor=COLOURS[overall]))
            row = worst(rows)
            text = "pass" if row is None else f"{row['value']} {row['mean']:.2f}".replace("0.", ".", 1)
            ax.text(x + 0.48, y + 0.48, text, ha="center", va="center", fontsize=6.5)
        ax.set(xlim=(0, len(mechanisms)), ylim=(len(methods), 0))
        ax.set_yticks([i + 0.46 for i in range(len(methods))], [method for method, _ in methods])
        ax.set_xticks([i + 0.48 for i in range(len(mechanisms))], mechanisms)
        bare(ax)
        words = {"pass": "passes", "fail": "fails", "undecided": "undecided"}
        handles = [Rectangle((0, 0), 1, 1, facecolor=COLOURS[key], label=word) for key, word in words.items()]
        figure.legend(handles=handles, loc="upper center", ncols=3, handlelength=1.2, handleheight=1.2)
    return figure


def failures_figure(group: Group, table: pd.DataFrame, shown: Shown, mechanism: str) -> Figure | None:
    """First kept picture of a mechanism, and the map of every method that fails on it."""
    cases = set(group.cases.loc[group.cases["class_name"] == mechanism, "case_id"])
    rows = table[(table["mechanism"] == mechanism) & (table["overall"] == "fail")]
    failing = set(zip(rows["method"], rows["layer"], strict=True))
    entries = [entry for entry in group.entries if (entry.method, entry.layer) in failing]
    return draw_blocks(
        group, shown, [case for case in shown.images if case in cases][:1], blocks_of(mechanism, entries)
    )


def trial_figure(table: pd.DataFrame) -> Figure | None:
    """One row a metric's value, one column a kind of fault: Kendall's tau, coloured where the metric may be trusted.

    `table` is of `bench.analysis.trials.metric_trial.trial_table`. None where it is empty.
    """
    if table.empty:
        return None
    left, wide, high = 0.4 + 0.075 * table["metric"].str.len().max(), 0.82, 0.21
    heads = [*KINDS, "sees one", "truth best"]
    size = (left + wide * len(heads) + 0.1, 0.4 + high * len(table))
    with rc_context(STYLE):
        figure = Figure(figsize=size)
        ax = figure.add_axes((left / size[0], 0.1 / size[1], 1 - (left + 0.1) / size[0], 1 - 0.4 / size[1]))
        for y, row in enumerate(table.to_dict("records")):
            trusted = str(row["trusted_for"]).split(", ")
            tiles = [
                (f"{row[f'tau_{kind}']:.2f}", kind in trusted, row[f"tau_{kind}_high"] < TRUSTED) for kind in KINDS
            ]
            tiles.append((f"{row['sees_one']:.2f}", row["sees_one_low"] >= SEES, row["sees_one_high"] < SEES))
            tiles.append(("yes" if row["best"] else str(row["best_map"]), row["best"], not row["best"]))
            for x, (text, good, bad) in enumerate(tiles):
                colour = COLOURS["pass" if good else "fail" if bad else "undecided"]
                ax.add_patch(Rectangle((x, y), 0.96, 0.92, facecolor=colour))
                ax.text(x + 0.48, y + 0.48, text, ha="center", va="center", fontsize=6.5)
        ax.set(xlim=(0, len(heads)), ylim=(len(table), 0))
        ax.set_yticks([i + 0.46 for i in range(len(table))], list(table["metric"]))
        ax.set_xticks([i + 0.48 for i in range(len(heads))], heads)
        bare(ax)
    return figure


def bare(ax: Axes) -> None:
    """Take everything away but the names of rows, and of columns above them."""
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
