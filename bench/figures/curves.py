"""Deletion, insertion and other curves, with bootstrap bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.curves import each_entry, mean_curves
from bench.analysis.groups import NO_LAYER, Curves, Group
from bench.analysis.parts import metric_of
from bench.analysis.statistics import Array, percentile_interval
from bench.figures.style import STYLE, method_handles, method_styles

Band = tuple[Array, Array, Array]


def curve_columns(group: Group) -> list[str]:
    """Curves to draw: those of deletion and insertion first, any other metric's ``curve`` after them."""
    names = [name for name in group.curves if name.endswith(".curve")]
    return sorted(names, key=lambda name: (not name.startswith(("deletion", "insertion")), name))


def all_bands(group: Group, names: list[str], resamples: int) -> dict[str, dict[str, Band]]:
    """Mean curves of every entry with their bands, by the entry's label and the curve's name."""
    return {entry.label: mean_bands(group, curves, resamples) for entry, curves in each_entry(group, names)}


def mean_bands(group: Group, curves: Curves, resamples: int) -> dict[str, Band]:
    """Mean over the cases of each curve of an entry, and both ends of its pointwise interval, each of shape (L,)."""
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
    Methods that look at no layer are drawn in every row.
    """
    names = curve_columns(group)
    if not names:
        return None
    layers = group.layers or [NO_LAYER]
    styles = method_styles(group)
    bands = all_bands(group, names, resamples)
    with rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 2.9 * len(names) + 1.9, 0.5 + 2.35 * len(layers)), layout="constrained")
        grid = figure.subplots(len(layers), len(names), squeeze=False, sharex=True, sharey="col")
        for line, layer in zip(grid, layers, strict=True):
            for ax, name in zip(line, names, strict=True):
                for entry in reversed([e for e in group.entries if e.layer in (layer, NO_LAYER)]):
                    draw_curve(ax, bands[entry.label].get(name), styles[entry.method], entry.control)
                note_equal(ax, {e.method: bands[e.label].get(name) for e in group.entries if e.layer == layer})
                ax.set_xlim(0, 1)
            line[0].set_ylabel(f"{layer}\ntarget probability".removeprefix(f"{NO_LAYER}\n"))
        for ax, name in zip(grid[0], names, strict=True):
            ax.set_ylim(bottom=0)  # only now: it fixes the top as well, which depends on all rows
            ax.set_title(name.removesuffix(".curve").replace("_", " "))
        for ax, name in zip(grid[-1], names, strict=True):
            word = {"deletion": "removed", "insertion": "restored"}.get(
                group.metrics[metric_of(name)[0]]["name"], "changed"
            )
            ax.set_xlabel(f"share of pixels {word}")
        handles = method_handles(group, lw=1.6, marker="")
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6)
    return figure


def draw_curve(ax: Axes, curve: Any, style: dict[str, Any], control: bool) -> None:
    """One mean curve with its band; a control's line is thinner and has no band, as its interval is in the table."""
    if curve is None:
        return
    mean, low, high = curve
    x = np.linspace(0, 1, len(mean))
    if not control:
        ax.fill_between(x, low, high, color=style["color"], alpha=0.1, lw=0)
    ax.plot(x, mean, color=style["color"], linestyle=style["linestyle"], lw=1.1 if control else 1.6)


def note_equal(ax: Axes, curves: dict[str, Any]) -> None:
    """Name methods whose curves coincide: a reader sees only one of them."""
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
        style: dict[str, Any] = {"transform": ax.transAxes, "linespacing": 1.1, "fontsize": 6.5, "color": "#555555"}
        ax.text(0.98, y, "\n".join(lines), ha="right", va=align, **style)
