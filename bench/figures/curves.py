"""Deletion, insertion and other curves, with bootstrap bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.curves import mean_curves, read_curves
from bench.analysis.groups import NO_LAYER, Entry, Group
from bench.analysis.reading import metric_columns
from bench.analysis.statistics import Array, percentile_interval
from bench.figures.means import method_styles
from bench.figures.saving import STYLE


def curve_columns(group: Group) -> list[str]:
    """Curves to draw: those of deletion and insertion first, any other metric's ``curve`` after them."""
    names = {name for entry in group.entries for name in metric_columns(entry.run)[1] if name.endswith(".curve")}
    return sorted(sorted(names), key=lambda name: (not name.startswith(("deletion", "insertion")), name))


def mean_bands(group: Group, entry: Entry, names: list[str], resamples: int) -> dict[str, tuple[Array, Array, Array]]:
    """Mean over the cases of each curve of an entry, and both ends of its pointwise interval, each of shape (L,)."""
    curves = read_curves(group, entry, names)
    if not curves:
        return {}
    # One matrix product for all of them; a case without a curve is a gap in its columns.
    average, resampled = mean_curves(np.concatenate(list(curves.values()), axis=1), group, slice(None), resamples, 0)
    low, high = percentile_interval(resampled)
    ends = np.cumsum([curve.shape[1] for curve in curves.values()])[:-1]
    parts = zip(*(np.split(values, ends) for values in (average, low, high)), strict=True)
    return dict(zip(curves, parts, strict=True))


def curves_figure(group: Group, *, resamples: int = 200) -> Figure | None:
    """Mean deletion, insertion (and other) curves with 95 % bootstrap bands; rows are layers.

    The x axis is the share of the input changed, the y axis the target's probability.
    Methods that look at no layer stand in every row.
    """
    names = curve_columns(group)
    if not names:
        return None
    layers = group.layers or [NO_LAYER]
    styles = method_styles(group)
    bands = {entry.label: mean_bands(group, entry, names, resamples) for entry in group.entries}
    read = {(label, name): found.get(name) for label, found in bands.items() for name in names}
    with rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 2.9 * len(names) + 1.9, 0.5 + 2.35 * len(layers)), layout="constrained")
        grid = figure.subplots(len(layers), len(names), squeeze=False, sharex=True, sharey="col")
        for line, layer in zip(grid, layers, strict=True):
            for ax, name in zip(line, names, strict=True):
                for entry in reversed([e for e in group.entries if e.layer in (layer, NO_LAYER)]):
                    draw_curve(ax, read[entry.label, name], styles[entry.method], entry.category == "control")
                note_equal(ax, {e.method: read[e.label, name] for e in group.entries if e.layer == layer})
                ax.set_xlim(0, 1)
            line[0].set_ylabel(f"{layer}\ntarget probability" if layer != NO_LAYER else "target probability")
        for ax, name in zip(grid[0], names, strict=True):
            ax.set_ylim(bottom=0)  # after all rows are drawn: it ends the automatic choice of the top
            ax.set_title(name.removesuffix(".curve").replace("_", " "))
        for ax, name in zip(grid[-1], names, strict=True):
            word = {"deletion": "removed", "insertion": "restored"}.get(name.partition(".")[0], "changed")
            ax.set_xlabel(f"share of pixels {word}")
        used = dict.fromkeys(entry.method for entry in group.entries)
        handles = [Line2D([], [], lw=1.6, label=name, **{**styles[name], "marker": ""}) for name in used]
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6)
    return figure


def draw_curve(ax: Axes, curve: Any, style: dict[str, Any], control: bool) -> None:
    """One mean curve with its band; a control is thinner and has none, its interval is in the table."""
    if curve is None:
        return
    mean, low, high = curve
    x = np.linspace(0, 1, len(mean))
    if not control:
        ax.fill_between(x, low, high, color=style["color"], alpha=0.1, lw=0)
    ax.plot(x, mean, color=style["color"], linestyle=style["linestyle"], lw=1.1 if control else 1.6)


def note_equal(ax: Axes, curves: dict[str, Any]) -> None:
    """Name methods whose curves lie on each other: of these a reader sees only one."""
    lines = []
    left = [name for name, curve in curves.items() if curve is not None]
    while left:
        same = [name for name in left if np.allclose(curves[name][0], curves[left[0]][0], atol=2e-4)]
        left = [name for name in left if name not in same]
        if len(same) > 1:
            lines.append(" =\n".join(same))
    falling = [curve[0][0] > curve[0][-1] for curve in curves.values() if curve is not None]
    if lines:
        y, align = (0.98, "top") if sum(falling) > len(falling) / 2 else (0.03, "bottom")
        ax.text(
            0.98,
            y,
            "\n".join(lines),
            transform=ax.transAxes,
            linespacing=1.1,
            ha="right",
            va=align,
            fontsize=6.5,
            color="#555555",
        )
