"""Deletion, insertion and other curves, and similarity while layers are made random, with bootstrap bands."""

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
from bench.figures.style import STYLE, method_legend, method_styles

Band = tuple[Array, Array, Array]
END = "_curve"


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
    bands = all_bands(group, names, resamples)
    with rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 2.9 * len(names) + 1.9, 0.5 + 2.35 * len(layers)), layout="constrained")
        grid = figure.subplots(len(layers), len(names), squeeze=False, sharex=True, sharey="col")
        for line, layer in zip(grid, layers, strict=True):
            for ax, name in zip(line, names, strict=True):
                curves = {label: own[name] for label, own in bands.items() if name in own}
                draw_entries(ax, group, layer, curves)
                note_equal(ax, {e.method: curves.get(e.label) for e in group.entries if e.layer == layer})
            line[0].set_ylabel(f"{layer}\ntarget probability".removeprefix(f"{NO_LAYER}\n"))
        for top, bottom, name in zip(grid[0], grid[-1], names, strict=True):
            top.set_ylim(bottom=0)  # only now: it fixes the top as well, which depends on all rows
            metric = metric_of(name)[0]
            top.set_title(group.title(metric).replace("_", " "))
            words = {"deletion": "removed", "insertion": "restored"}
            bottom.set_xlabel(f"share of pixels {words.get(group.metrics[metric]['name'], 'changed')}")
        method_legend(figure, group, lw=1.6, marker="")
    return figure


def randomization_figure(group: Group, *, resamples: int = 500) -> Figure | None:
    """Curves of the metrics whose points have names (``about.curve_points``); None where there are none.

    A row for every metric and layer, a column for every similarity. The x axis begins with the trained network, where
    every map equals itself, and continues with the stages, named by their lowest layer. Methods that look at no layer
    are drawn in every row.
    """
    points: dict[str, Any] = {name: group.about(name).get("curve_points") for name in group.metrics}
    curves: dict[str, list[str]] = {}
    for column in sorted(group.curves, reverse=True):
        metric, output = metric_of(column)
        if isinstance(points.get(metric), list) and output.endswith(END):
            curves.setdefault(metric, []).append(column)
    rows = [(metric, layer) for metric in sorted(curves) for layer in group.layers or [NO_LAYER]]
    if not rows:
        return None
    wide = max(map(len, curves.values()))
    bands = all_bands(group, [name for names in curves.values() for name in names], resamples)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.5 + 2.9 * wide, 2.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), wide, squeeze=False, sharey=True)
        for line, (metric, layer) in zip(grid, rows, strict=True):
            stages = ["trained", *points[metric]]
            for ax, name in zip(line, curves[metric], strict=False):
                from_trained = {
                    label: [np.concatenate([[1.0], values]) for values in own[name]]
                    for label, own in bands.items() if name in own and np.isfinite(own[name][0]).any()
                }  # fmt: skip
                draw_entries(ax, group, layer, from_trained)
                ax.set_xticks(np.linspace(0, 1, len(stages)), stages, rotation=90, fontsize=6)
                ax.set_title(metric_of(name)[1].removesuffix(END))
            title = group.title(metric).replace("_", " ")
            line[0].set_ylabel(title if layer == NO_LAYER else f"{title}\n{layer}")
        method_legend(figure, group, lw=1.6, marker="")
    return figure


def draw_entries(ax: Axes, group: Group, layer: str, curves: dict[str, Any]) -> None:
    """Mean curves with bands of a layer's entries; a control's line is thinner, its interval only in the table."""
    styles = method_styles(group)
    for entry in reversed([e for e in group.entries if e.layer in (layer, NO_LAYER) and e.label in curves]):
        mean, low, high = curves[entry.label]
        x, colour = np.linspace(0, 1, len(mean)), styles[entry.method]["color"]
        if not entry.control:
            ax.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
        ax.plot(x, mean, color=colour, linestyle=styles[entry.method]["linestyle"], lw=1.1 if entry.control else 1.6)
    ax.set_xlim(0, 1)


def note_equal(ax: Axes, curves: dict[str, Any]) -> None:
    """Name methods whose curves coincide: a reader sees only one of them."""
    lines = []
    # An opened curve is NaN where no case can be opened: nothing of it is drawn, and NaN equals nothing, not itself.
    left = [name for name, curve in curves.items() if curve is not None and np.isfinite(curve[0]).all()]
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
