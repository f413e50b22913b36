"""The table of the page as plain values: layers with rows with cells, columns, the appendix of ranks and times.

Several networks or data sets stand beside each other in matrices: one a question, methods by results.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.parts import metric_of
from bench.figures.draw import Chosen
from bench.figures.style import p_text, titles
from bench.report.answers import where
from bench.report.grid import SIGNS, Cell, Grid, interval, number, sections, signed
from bench.report.notes import share
from bench.types import NO_LAYER, plain_layer

OPEN_LAYERS = 2  # up to so many layers all are open
RANK_ROWS = 60
TOPICS = {
    "one object": "Localizes", "several objects": "All instances", "faithfulness": "Faithful",
    "class sensitivity": "Sane",
}  # fmt: skip


def means_of(grid: Grid, chosen: Chosen) -> dict[str, dict[str, Cell]]:
    """Cells of the questions' columns at the layer that is open, by the column's title and the method's name."""
    result: dict[str, dict[str, Cell]] = {}
    for i, column in enumerate(grid.columns):
        if column in chosen.columns:
            for members, cells in zip(grid.sets, grid.cells, strict=True):
                if members[0].layer in (chosen.layer, NO_LAYER) and (cell := cells[i]):
                    result.setdefault(column.title, {}).update({entry.title: cell for entry in members})
    return result


def column_of(group: Group, grid: Grid, at: int, short: bool) -> dict[str, Any]:
    """Heading of a column, about its metric, its number of cases, and whether the table in short has it."""
    column, numbers = grid.columns[at], {cell.n for line in grid.cells if (cell := line[at])}
    metric = metric_of(column.metric)[0]
    about, version = group.about(metric), group.metrics[metric].get("version", 0)
    direction = {True: "higher is better", False: "lower is better", None: "no direction"}[column.better]
    unit = f", {about['unit']}" if about.get("unit") else ""
    question = group.question(column.metric)
    return {
        "heading": " ".join(column.heading), "arrow": column.arrow, "better": column.better, "short": short,
        "n": numbers.pop() if len(numbers) == 1 else "",
        "question": TOPICS.get(question, ""),
        "title": f"{column.metric}: {direction}{unit}, version {version}",
    }  # fmt: skip


def layers_of(group: Group, grid: Grid, chosen: Chosen) -> list[dict[str, Any]]:
    """Rows of the main table, layer by layer; the best layer is open, and methods without a layer always are."""
    spans, bands = [], []
    for i in range(len(grid.columns)):
        ends = [v for line in grid.cells if (c := line[i]) for v in (c.mean, c.low, c.high) if math.isfinite(v)]
        spans.append((min(ends, default=0.0), max(ends, default=1.0)))
        random = next((line[i] for e, line in zip(grid.entries, grid.cells, strict=True) if e.name == "random"), None)
        bands.append(random)
    numbers, parts = group.numbers, []
    for title, methods, controls in sections(grid.entries):
        layer = grid.entries[[*methods, *controls][0]].layer
        rows = [row_of(grid, i, spans, bands, chosen.reference) for i in [*methods, *controls]]
        degenerate = [grid.entries[i].degenerate_share for i in methods]
        dead = sum(degenerate) / len(degenerate) if degenerate else 0.0
        parts.append({
            "title": f"depth {numbers[at]} of {len(numbers)}" if (at := plain_layer(layer)) in numbers else title,
            "name": layer if at in numbers else "",
            "open": layer in (NO_LAYER, chosen.layer) or len(group.layers) <= OPEN_LAYERS,
            "degenerate": share(dead) if dead else "",
            "rows": rows,
        })  # fmt: skip
    return sorted(parts, key=lambda part: not part["open"])


def row_of(
    grid: Grid, i: int, spans: list[tuple[float, float]], bands: list[Cell | None], reference: str
) -> dict[str, Any]:
    """One row of the main table."""
    members, entry = grid.sets[i], grid.entries[i]
    cells = zip(grid.cells[i], spans, bands, strict=True)
    return {
        "title": titles(members, 4),
        "names": ", ".join(e.label for e in members),
        "control": entry.control,
        "n": entry.rows,
        "degenerate": share(entry.degenerate_share) if entry.degenerate else "",
        "reasons": ", ".join(f"{count} {reason}" for reason, count in entry.degenerate.items()),
        "cells": [cell and shown_cell(cell, span, band) for cell, span, band in cells],
        "is_reference": any(reference in (e.method, e.name) for e in members),
    }


def rank_rows(group: Group, ranks: pd.DataFrame, chosen: Chosen) -> dict[str, Any]:
    """Average ranks by the questions' columns and milliseconds a map, for the appendix."""
    times = milliseconds(group)
    heads = [column for column in chosen.columns if (ranks["metric"] == column.metric).any()]
    cells = {(r.method, r.layer, r.metric): r.average_rank for r in ranks.itertuples()}
    rows = []
    for entry in group.entries:
        own = [cells.get((entry.method, entry.layer, column.metric)) for column in heads]
        time = f"{times[entry.label]:.2g}" if entry.label in times else ""
        if time or any(value is not None for value in own):
            texts = ["" if value is None else f"{value:.1f}" for value in own]
            rows.append([where(entry.title, entry.layer), *texts, time])
    return {"heads": ["method", *(f"rank: {c.title}" for c in heads), "ms a map"], "rows": rows[:RANK_ROWS]}


def milliseconds(group: Group) -> dict[str, float]:
    """Milliseconds that a method takes for a map beside the shared pass: the median over parts, so warm ones count.

    By the entry's label, without entries whose maps were read rather than made.
    """
    labels = {(e.key, e.layer): e.label for e in group.entries}
    times: dict[str, list[float]] = {}
    for part in group.parts:
        for about, seconds in zip(part.entries, part.seconds, strict=True):
            label = labels.get((about["key"], about["layer"]))
            if label and seconds.get("method"):
                times.setdefault(label, []).append(1000 * seconds["method"] / len(part.cases))
    return {label: float(median(values)) for label, values in times.items()}


def shown_cell(cell: Cell, span: tuple[float, float], band: Cell | None) -> dict[str, Any]:
    """Texts of one value, and where it, its interval and random's lie between the ends of its column, in per cent."""
    low, high = span

    def place(value: float, instead: float) -> float:
        return round(100 * ((value if math.isfinite(value) else instead) - low) / ((high - low) or 1.0), 1)

    ends = " to ".join(signed(end) for end in (cell.difference_low, cell.difference_high) if math.isfinite(end))
    left, edges = place(cell.low, cell.mean), (0.0, 0.0)
    if band is not None and math.isfinite(band.low):
        edges = (place(band.low, band.mean), place(band.high, band.mean) - place(band.low, band.mean))
    return {
        "value": cell.mean, "text": number(cell.mean, 2), "interval": interval(cell.low, cell.high),
        "best": cell.best, "sign": SIGNS[cell.verdict], "verdict": cell.verdict, "beaten": cell.no_better_than,
        "n": cell.n,
        "left": left, "width": round(place(cell.high, cell.mean) - left, 1), "dot": place(cell.mean, cell.mean),
        "band": edges[0], "band_width": round(edges[1], 1),
        "difference": signed(cell.difference, 3), "ends": ends,
        "p": p_text(cell.p) if math.isfinite(cell.p) else "",
        "reported": number(cell.reported), "source": cell.source,
    }  # fmt: skip


def matrices_of(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One matrix for each column that at least two groups have; empty for one group.

    A cell is a method's mean at the layer that its group opens with, which is the best for the group's first verdict.
    """
    if len(sections) < 2:
        return []
    titles = list(dict.fromkeys(title for section in sections for title in section["means"]))
    matrices = []
    for title in titles:
        own = [section["means"].get(title, {}) for section in sections]
        if sum(bool(means) for means in own) < 2:
            continue
        methods = list(dict.fromkeys(name for means in own for name in means))
        rows = []
        for method in methods:
            cells = [means.get(method) for means in own]
            rows.append({"method": method, "cells": [cell and texts_of(cell) for cell in cells]})
        matrices.append({"title": title, "rows": rows})
    return matrices


def texts_of(cell: Cell) -> dict[str, Any]:
    """Mean, interval and marks of a cell."""
    span = interval(cell.low, cell.high)
    return {"text": number(cell.mean, 2), "interval": span, "best": cell.best, "sign": SIGNS[cell.verdict]}
