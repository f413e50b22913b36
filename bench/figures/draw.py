"""The figures of a group as files: PNG for Markdown, SVG for the page, PDF for print."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.analysis.groups import Entry, Group
from bench.analysis.kept_maps import Shown, fewer, read_shown
from bench.analysis.parts import metric_of
from bench.analysis.tables import Column
from bench.analysis.trials.crash_test import crash_table
from bench.analysis.trials.metric_trial import trial_table
from bench.figures.baselines import baselines_figure
from bench.figures.crash_test import crash_figure, failures_figure, trial_figure
from bench.figures.curves import curves_figure, randomization_figure
from bench.figures.depth import depth_figure
from bench.figures.forest import forest_figure
from bench.figures.gallery import figure1, gallery_figure
from bench.figures.instances import instances_figure
from bench.figures.style import NARROW, WIDE, save
from bench.store.files import hash_key, remove, safe_name, write_text
from bench.types import NO_LAYER, counted

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
    "baselines": (
        "Baselines",
        "Does the order of methods depend on what stands in the holes? Means with 95 % intervals by baseline, and"
        " Kendall's τ between the orders under two baselines. Distance: how far the network's features move when part"
        " of the picture is replaced, as a share of their norm.",
    ),
    "forest": (
        "Differences",
        "Paired differences with 95 % intervals: squares to random, dots to {reference}; better to the right.",
    ),
    "coverage_by_instances": (
        "One object and several",
        "Share of an object's box that the map covers, by the number of objects; bins under 10 cases are hidden.",
    ),
    "depth": (
        "Depth",
        "Each measure along the network's depth; the strip shows where maps say nothing (full contrast: all of them).",
    ),
    "curves": (
        "Curves",
        "Probability of the class while pixels are removed or restored, most important first: one method in colour with"
        " its 95 % band, the others grey, random dashed.",
    ),
    "randomization": (
        "Random weights",
        "Similarity to the trained network's map as more and more layers, named below, get random weights.",
    ),
}


@dataclass(frozen=True, eq=False)
class Chosen:
    """What all figures of a group show: sets of equal methods, the questions' columns, one layer, the reference."""

    sets: list[list[Entry]]
    columns: list[Column]
    layer: str
    reference: str


def slug(group: Group) -> str:
    """Name of a group in file names."""
    return safe_name(f"{group.dataset}-{group.model}-{group.protocol}")


def state_of(group: Group, reference: str) -> str:
    """Version of this program, and a hash of the reference, the cases, the metrics and the parts' names and sizes."""
    parts = [(part.path.name, part.path.stat().st_size) for part in group.parts]
    return f"{version('cam-bench')} {hash_key([reference, len(group.cases), sorted(group.metrics), parts])}"


def stale(folder: Path, group: Group, reference: str) -> bool:
    """Whether figures were not finished, or show other parts, or were drawn by another version of this program."""
    stamp = folder / DRAWN
    return not stamp.is_file() or stamp.read_text() != state_of(group, reference) or not any(folder.glob("*.svg"))


def draw(
    group: Group, tables: dict[str, pd.DataFrame], chosen: Chosen, shown: Shown, folder: Path, *, prints: bool = False
) -> None:
    """Write the figures of one group as SVG into `folder`; figures that no longer apply are removed.

    With `prints` also as PDF and PNG, and in the width of one column as ``<name>-column``. Each figure has a caption in
    ``<name>.txt``. `tables` are ``summary``, ``comparisons`` and ``breakdown``; `shown` has the gallery's pictures.
    """
    began = time.perf_counter()
    pictures = fewer(shown, group, GALLERY)
    layers = {f"gallery-{safe_name(layer)}": layer for layer in group.layers}
    if any(entry.layer == NO_LAYER and not entry.control for entry in group.entries):
        layers["gallery-input"] = NO_LAYER
    crash = crash_table(group)
    failures = [f"failures-{safe_name(mechanism)}" for mechanism in dict.fromkeys(crash["mechanism"])]
    names = {*layers, *failures, *FIGURES, *(f"{name}-column" for name in FIGURES)}
    for path in folder.glob("*"):
        if path.stem not in names and path.suffix in (".svg", ".png", ".pdf", ".txt"):
            remove(path)
    for name, layer in layers.items():
        save(gallery_figure(group, pictures, layer), folder / name, ["png", "pdf"][: 1 + prints], TILES_DPI)
    for mechanism in dict.fromkeys(crash["mechanism"]):
        figure = failures_figure(group, crash, shown, mechanism)
        save(figure, folder / f"failures-{safe_name(mechanism)}", ["png"], TILES_DPI)
    sets, columns, layer, reference = chosen.sets, chosen.columns, chosen.layer, chosen.reference
    makers: dict[str, Callable[[float], Figure | None]] = {
        "crash_test": lambda w: crash_figure(crash),
        "metric_trial": lambda w: trial_figure(trial_table(group)),
        "baselines": lambda w: baselines_figure(group, sets, layer, w),
        "forest": lambda w: forest_figure(group, tables["comparisons"], sets, columns, layer, reference, w),
        "coverage_by_instances": lambda w: instances_figure(group, tables["breakdown"], sets, layer, reference, w),
        "depth": lambda w: depth_figure(group, tables["summary"], sets, columns, reference, w),
        "curves": lambda w: curves_figure(group, sets, layer, w),
        "randomization": lambda w: randomization_figure(group),
    }
    for name, make in makers.items():
        figure = make(WIDE)
        save(figure, folder / name, ["svg", "pdf", "png"] if prints else ["svg"], 300)
        save(make(NARROW) if prints and figure else None, folder / f"{name}-column", ["pdf"], 300)
        caption = folder / f"{name}.txt"
        if figure is None:
            remove(caption)
        else:
            write_text(caption, caption_of(group, name, chosen) + "\n")
    write_text(folder / DRAWN, state_of(group, reference))
    log.debug("figures of %s took %.1f s", folder.name, time.perf_counter() - began)


def caption_of(group: Group, name: str, chosen: Chosen) -> str:
    """Title, what is to be seen, and on which data, network, cases and protocol."""
    title, text = FIGURES[name]
    where = "" if name in ("depth", "randomization") or chosen.layer == NO_LAYER else f" Layer {chosen.layer}."
    steps = [
        f"{m}: {node['parameters']['steps']} steps"
        for m, node in group.metrics.items()
        if "steps" in node["parameters"]
    ]
    used = [metric_of(column.metric)[0] for column in chosen.columns]
    settings = "; ".join(line for line in steps if line.partition(":")[0] in used)
    size = f"{counted(len(group.cases), 'case')} on {counted(group.image_count, 'image')}"
    return (
        f"{title}. {text.format(reference=chosen.reference)}{where} {group.dataset}, {group.model} ({group.weights}),"
        f" {size}; protocol {group.protocol}{f'; {settings}' if settings else ''}."
    )


def draw_figure1(group: Group, images: Sequence[str], folder: Path) -> list[Path]:
    """Write figure1.pdf and figure1.png of these cases or images; returns the PDF, or nothing without pictures."""
    figure = figure1(group, read_shown(group, len(group.cases), [str(name) for name in images]))
    if figure is None:
        return []
    save(figure, folder / "figure1", ("pdf", "png"), 300)
    return [folder / "figure1.pdf"]


def figure_links(folder: Path, root: Path) -> dict[str, str]:
    """Title and path relative to `root` of the figures to show in Markdown, in the order of reading."""
    paths = {name: folder / f"{name}.svg" for name in FIGURES}
    links = {FIGURES[name][0]: path for name, path in paths.items() if path.is_file()}
    links |= {path.stem.replace("-", " ", 1): path for path in sorted(folder.glob("gallery-*.png"))}
    return {title: path.relative_to(root).as_posix() for title, path in links.items()}
