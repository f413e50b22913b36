"""Similarity of the maps while the network's layers are made random, with bootstrap bands."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from bench.analysis.groups import NO_LAYER, Group
from bench.analysis.parts import metric_of
from bench.figures.curves import all_bands, draw_curve
from bench.figures.style import STYLE, method_handles, method_styles

END = "_curve"


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
            curves.setdefault(metric, []).append(output)
    rows = [(metric, layer) for metric in sorted(curves) for layer in group.layers or [NO_LAYER]]
    if not rows:
        return None
    wide = max(len(outputs) for outputs in curves.values())
    styles = method_styles(group)
    names = [f"{metric}.{output}" for metric, outputs in curves.items() for output in outputs]
    bands = all_bands(group, names, resamples)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.5 + 2.9 * wide, 2.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), wide, squeeze=False, sharey=True)
        for line, (metric, layer) in zip(grid, rows, strict=True):
            for ax, output in zip(line, curves[metric], strict=False):
                for entry in reversed([e for e in group.entries if e.layer in (layer, NO_LAYER)]):
                    curve = bands[entry.label].get(f"{metric}.{output}")
                    if curve is not None and np.isfinite(curve[0]).any():
                        from_trained = tuple(np.concatenate([[1.0], values]) for values in curve)
                        draw_curve(ax, from_trained, styles[entry.method], entry.control)
                stages = ["trained", *points[metric]]
                ax.set_xticks(np.linspace(0, 1, len(stages)), stages, rotation=90, fontsize=6)
                ax.set_xlim(0, 1)
                ax.set_title(output.removesuffix(END))
            line[0].set_ylabel("\n".join([metric.replace("_", " "), *([layer] if layer != NO_LAYER else [])]))
        handles = method_handles(group, lw=1.6, marker="")
        figure.legend(handles=handles, loc="outside right center", handlelength=2.6)
    return figure
