"""Deletion and insertion curves, and similarity while layers are made random, with bootstrap bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.analysis.curves import each_entry, mean_curves
from bench.analysis.groups import Curves, Entry, Group
from bench.analysis.parts import metric_of
from bench.analysis.statistics import Array, percentile_interval
from bench.figures.style import STYLE, WIDE, at_layer, drawn, legend, style_of, titles, wrapped
from bench.types import NO_LAYER

Band = tuple[Array, Array, Array]
END = "_curve"
PANELS = 20  # methods that have a panel of their own


def curve_columns(group: Group) -> list[str]:
    """Curves to draw: those of deletion and insertion first, any other metric's ``curve`` after them."""
    names = [name for name in group.curves if name.endswith(".curve")]
    return sorted(names, key=lambda name: (not name.startswith(("deletion", "insertion")), name))


def all_bands(group: Group, names: list[str], resamples: int, entries: Sequence[Entry]) -> dict[str, dict[str, Band]]:
    """Mean curves of these entries with their bands, by the entry's label and the curve's name."""
    return {entry.label: mean_bands(group, curves, resamples) for entry, curves in each_entry(group, names, entries)}


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


def curves_figure(
    group: Group, sets: Sequence[Sequence[Entry]], layer: str, width: float = WIDE, *, resamples: int = 200
) -> Figure | None:
    """Small multiples of the mean deletion and insertion curves: one panel a method at `layer`, the others grey.

    The x axis is the share of the input changed, the y axis the target's probability; bands are 95 % bootstrap
    intervals, the dashed line is random. None where no metric has curves.
    """
    names = curve_columns(group)[:2]
    rows = drawn(at_layer(sets, layer))[:PANELS]
    if not names or not rows:
        return None
    random = next((entry for entry in group.entries if entry.name == "random"), None)
    lines = [members[0] for members in rows] + ([random] if random else [])
    bands = all_bands(group, names, resamples, lines)
    across = min(len(rows), 5 if width >= WIDE else 3)
    down = -(-len(rows) // across)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, len(names) * (1.12 * down + 0.42)), layout="constrained")
        for part, name in zip(figure.subfigures(len(names), 1, squeeze=False)[:, 0], names, strict=True):
            grid = part.subplots(down, across, squeeze=False, sharex=True, sharey=True)
            for ax in grid.ravel()[len(rows) :]:
                ax.set_axis_off()
            for ax, members in zip(grid.ravel(), rows, strict=False):
                draw_panel(
                    ax,
                    members[0],
                    [own[0] for own in rows],
                    random,
                    {k: v[name] for k, v in bands.items() if name in v},
                )
                ax.set_title(wrapped(titles(members, 2), 18), fontsize=7)
            if group.follows == "probability":
                grid[0, 0].set_ylim(bottom=0)
            metric = metric_of(name)[0]
            words = {"deletion": "removed", "insertion": "restored"}
            title = group.title(metric).replace("_", " ")
            part.supxlabel(
                f"{title}: share of pixels {words.get(group.metrics[metric]['name'], 'changed')}", fontsize=7
            )
            part.supylabel(group.follows, fontsize=7)
    return figure


def draw_panel(ax: Axes, entry: Entry, others: Sequence[Entry], random: Entry | None, bands: dict[str, Band]) -> None:
    """Curve of one method with its band, of the others in grey, of random dashed."""
    for other in others:
        if other is not entry and other.label in bands:
            mean = bands[other.label][0]
            ax.plot(np.linspace(0, 1, len(mean)), mean, color="#cccccc", lw=0.6)
    if random and random.label in bands:
        mean = bands[random.label][0]
        ax.plot(np.linspace(0, 1, len(mean)), mean, color="#555555", lw=0.9, ls=(0, (3, 1.5)))
    if entry.label in bands:
        mean, low, high = bands[entry.label]
        x, colour = np.linspace(0, 1, len(mean)), style_of(entry)["color"]
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(x, mean, color=colour, lw=1.4)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    ax.locator_params(axis="y", nbins=3)


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
    bands = all_bands(group, [name for names in curves.values() for name in names], resamples, group.entries)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDE, 2.3 * len(rows) + 0.6), layout="constrained")
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
        legend(figure, [[e] for e in {e.method: e for e in group.entries if e.label in bands}.values()], 3)
    return figure


def draw_entries(ax: Axes, group: Group, layer: str, curves: dict[str, Any]) -> None:
    """Mean curves with bands of a layer's entries; a control's line is thinner, its interval only in the table."""
    for entry in reversed([e for e in group.entries if e.layer in (layer, NO_LAYER) and e.label in curves]):
        mean, low, high = curves[entry.label]
        style = style_of(entry)
        x, colour = np.linspace(0, 1, len(mean)), style["color"]
        if not entry.control:
            ax.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
        ax.plot(x, mean, color=colour, linestyle=style["linestyle"], lw=0.9 if entry.control else 1.3)
    ax.set_xlim(0, 1)
