"""The figures of a group as files: PNG for Markdown, SVG for the page, PDF for print."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.analysis.crash_test import crash_table
from bench.analysis.groups import NO_LAYER, Group
from bench.analysis.kept_maps import Shown, fewer, read_shown
from bench.analysis.metric_trial import trial_table
from bench.figures.crash_test import crash_figure, failures_figure, trial_figure
from bench.figures.curves import curves_figure, randomization_figure
from bench.figures.gallery import figure1, gallery_figure
from bench.figures.means import instances_figure, means_figure
from bench.figures.ranks import agreement_figure, ranks_figure
from bench.figures.style import save
from bench.figures.tradeoffs import layers_figure, runtime_figure
from bench.runs.store import hash_key, safe_name, write_text

log = logging.getLogger(__name__)
DRAWN = "_drawn"
GALLERY = 8
TILES_DPI = 200  # tiles have 134 pixels an inch: more would only make larger files of them


# Title and caption of each figure, in the order of reading.
FIGURES = {
    "metric_trial": (
        "Metric trial",
        "Does a metric put maps of known quality in order? Kendall's τ by kind of fault; 0 is chance.",
    ),
    "crash_test": (
        "Crash test",
        "Does a method show what the network uses? A tile names the value furthest beyond its limit.",
    ),
    "means": ("Means", "Mean of every method with its 95 % interval, one colour a layer; grey: controls."),
    "curves": (
        "Curves",
        "Mean curves with 95 % bands; rows are layers. Methods whose curves coincide are named together.",
    ),
    "randomization": (
        "Random weights",
        "Similarity to the trained network's map as more and more layers, named below, get random weights.",
    ),
    "coverage_by_instances": (
        "Coverage by number of instances",
        "How much of each instance a map covers as their number grows.",
    ),
    "layers": ("Layers against metrics", "Every metric along the network's depth, with 95 % intervals."),
    "agreement": (
        "Do the metrics agree?",
        "Kendall's τ between the orders of methods: of means below, within images above.",
    ),
    "ranks": ("Critical differences", "Average ranks; bars connect methods that do not differ significantly."),
    "runtime": (
        "Runtime against quality",
        "Milliseconds for one map; the line connects methods that no faster one beats.",
    ),
}


def slug(group: Group) -> str:
    """Name of a group in file names."""
    return safe_name(f"{group.dataset}-{group.model}-{group.protocol}")


def state_of(group: Group) -> str:
    """Version of this program, and hash of the names and sizes of the parts that the figures show."""
    parts = [(part.path.name, part.path.stat().st_size) for part in group.parts]
    return f"{version('cam-bench')} {hash_key(parts)}"


def stale(folder: Path, group: Group) -> bool:
    """Whether figures were not finished, or show other parts, or were drawn by another version of this program."""
    stamp = folder / DRAWN
    return not stamp.is_file() or stamp.read_text() != state_of(group) or not any(folder.glob("*.svg"))


def draw(
    group: Group, tables: dict[str, Future[pd.DataFrame]], shown: Shown, folder: Path, *, pdf: bool = False
) -> None:
    """Write the figures of one group into `folder`, with `pdf` also as PDF; figures that no longer apply are removed.

    `tables` are ``summary``, ``breakdown``, ``ranks`` and ``agreement``: figures that need none are drawn first.
    `shown` has pictures and maps of the gallery.
    """
    began = time.perf_counter()
    pictures = fewer(shown, group, GALLERY)
    layers = {f"gallery-{safe_name(layer)}": layer for layer in group.layers}
    if any(entry.layer == NO_LAYER and not entry.control for entry in group.entries):
        layers["gallery-input"] = NO_LAYER
    for name, layer in layers.items():
        save(gallery_figure(group, pictures, layer), folder / name, ["png", "pdf"][: 1 + pdf], TILES_DPI)
    crash = crash_table(group)
    for mechanism in dict.fromkeys(crash["mechanism"]):
        figure = failures_figure(group, crash, shown, mechanism)
        save(figure, folder / f"failures-{safe_name(mechanism)}", ["png"], TILES_DPI)
    makers: dict[str, Callable[[], Figure | None]] = {
        "crash_test": lambda: crash_figure(crash),
        "metric_trial": lambda: trial_figure(trial_table(group)),
        "randomization": lambda: randomization_figure(group),
        "curves": lambda: curves_figure(group),
        "ranks": lambda: ranks_figure(group, tables["ranks"].result()),
        "agreement": lambda: agreement_figure(group, tables["agreement"].result()),
        "coverage_by_instances": lambda: instances_figure(group, tables["breakdown"].result()),
        "means": lambda: means_figure(group, tables["summary"].result()),
        "layers": lambda: layers_figure(group, tables["summary"].result()),
        "runtime": lambda: runtime_figure(group, tables["summary"].result()),
    }
    for name, make in makers.items():
        save(make(), folder / name, ["svg", "png", "pdf"][: 2 + pdf], 300)
    write_text(folder / DRAWN, state_of(group))
    log.debug("figures of %s took %.1f s", folder.name, time.perf_counter() - began)


def draw_figure1(group: Group, images: Sequence[str], folder: Path) -> list[Path]:
    """Write figure1.pdf and figure1.png of these cases or images; returns the PDF, or nothing without pictures."""
    figure = figure1(group, read_shown(group, len(group.cases), [str(name) for name in images]))
    if figure is None:
        return []
    save(figure, folder / "figure1", ("pdf", "png"), 300)
    return [folder / "figure1.pdf"]


def figure_links(folder: Path, root: Path) -> dict[str, str]:
    """Title and path relative to `root` of the figures that are there, in the order of reading."""
    paths = {path.stem: path for path in sorted(folder.glob("*.png"))}
    names = [name for name in FIGURES if name in paths] + [name for name in paths if name not in FIGURES]
    return {name.replace("_", " "): paths[name].relative_to(root).as_posix() for name in names}
