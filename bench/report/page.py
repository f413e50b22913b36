"""report.html: one file that opens offline, with table, figures, gallery and how the numbers were made."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.analysis.groups import NO_LAYER, Group
from bench.analysis.kept_maps import Shown
from bench.analysis.parts import metric_of
from bench.figures.draw import FIGURES, Chosen, caption_of, slug
from bench.figures.style import p_text, titles
from bench.report.answers import Answer, where
from bench.report.gallery import gallery_of, palette
from bench.report.grid import SIGNS, Cell, Grid, interval, number, sections, signed
from bench.report.notes import agreement_notes, banners, left_out_of, notes, run_sentence, share

BUDGET = 10_000_000  # bytes of pictures and maps in one page
STYLES = ("page.css", "gallery.css")
SCRIPTS = ("page.js", "gallery.js")
OPEN_LAYERS = 2  # up to so many layers all are open
RANK_ROWS = 60
ID = re.compile(r"""((?:\bid="|"#|url\(#))""")
TOPICS = {
    "one object": "Localizes", "several objects": "All instances", "faithfulness": "Faithful",
    "class sensitivity": "Sane",
}  # fmt: skip


def render(template: str, **context: Any) -> str:
    """Fill a template of this package with style and scripts inline; the page may run nothing else."""
    environment = Environment(
        loader=PackageLoader("bench.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    here = Path(__file__).parent
    style = "\n".join((here / name).read_text(encoding="utf-8") for name in STYLES)
    script = "\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment.get_template(template)
    return page.render(style=Markup(style), script=Markup(script), script_hash=digest, **context)


def page_of(groups: list[dict[str, Any]], matrices: list[dict[str, Any]]) -> str:
    """Fill the whole page, from `section_of` of every group, and for several from `bench.report.matrix`."""
    return render("page.html", groups=groups, matrices=matrices, palette=palette())


def section_of(
    group: Group,
    grid: Grid,
    chosen: Chosen,
    answers: list[Answer],
    tables: dict[str, Any],
    shown: Shown,
    figures: Path,
    count: int,
) -> dict[str, Any]:
    """Everything on the page about one group, as plain values; `count` groups share the page's budget.

    `figures` is the folder of the group's figures: those that exist as SVG are shown.
    """
    lines, short = notes(group, chosen.reference), [column in chosen.columns for column in grid.columns]
    return {
        "id": slug(group),
        "title": f"{group.dataset} / {group.model}",
        "protocol": group.protocol,
        "sentence": run_sentence(group),
        "banners": banners(group),
        "answers": answers,
        "columns": [column_of(group, grid, i, s) for i, s in enumerate(short)],
        "more_columns": not all(short),
        "layers": layers_of(group, grid, chosen),
        "has_reported": any(cell and math.isfinite(cell.reported) for line in grid.cells for cell in line),
        "has_differences": any(cell and math.isfinite(cell.difference) for line in grid.cells for cell in line),
        "reference": chosen.reference,
        "notes": [line for line in lines if not line.startswith("warning: ")],
        "warnings": [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")],
        "agreement": agreement_notes(tables["agreement"]),
        "ranks": rank_rows(group, tables["ranks"], chosen),
        "figures": figures_of(group, figures, chosen),
        "gallery": gallery_of(group, shown, grid.columns, BUDGET // count, chosen.layer),
        "means": means_of(grid, chosen),
        "made": made(group),
    }


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
    for i, column in enumerate(grid.columns):
        ends = [v for line in grid.cells if (c := line[i]) for v in (c.mean, c.low, c.high) if math.isfinite(v)]
        spans.append((min(ends, default=0.0), max(ends, default=1.0)))
        random = next((line[i] for e, line in zip(grid.entries, grid.cells, strict=True) if e.name == "random"), None)
        bands.append(random)
        del column
    numbers = {layer: i + 1 for i, layer in enumerate(group.layers)}
    parts = []
    for title, methods, controls in sections(grid.entries):
        layer = grid.entries[[*methods, *controls][0]].layer
        rows = [row_of(grid, i, spans, bands, chosen.reference) for i in [*methods, *controls]]
        degenerate = [grid.entries[i].degenerate_share for i in methods]
        dead = sum(degenerate) / len(degenerate) if degenerate else 0.0
        parts.append({
            "title": title if layer == NO_LAYER else f"depth {numbers[layer]} of {len(numbers)}",
            "name": "" if layer == NO_LAYER else layer,
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


def figures_of(group: Group, folder: Path, chosen: Chosen) -> list[dict[str, Any]]:
    """Figures that exist, as SVG with title, caption and alternative text."""
    result = []
    for name, (title, _) in FIGURES.items():
        path = folder / f"{name}.svg"
        if path.is_file():
            caption = caption_of(group, name, chosen).removeprefix(f"{title}. ")
            drawing = path.read_text(encoding="utf-8")
            # Ids are unique in a file, but not on a page of many.
            mark = hashlib.sha256(f"{slug(group)}{name}".encode()).hexdigest()[:6]
            drawing = ID.sub(rf"\g<1>{mark}-", drawing[drawing.index("<svg") :])
            alt = f"{title}. {caption} The numbers are in the tables."
            result.append({"name": name, "title": title, "caption": caption, "alt": alt, "svg": Markup(drawing)})
    return result


def made(group: Group) -> dict[str, Any]:
    """Where the numbers come from: commands, versions, machines, settings, records left out; each once."""
    facts = list({id(part.made): part.made for part in group.parts}.values())
    versions = [
        ", ".join(f"{name} {version}" for name, version in each["versions"].items())
        for each in facts if each.get("versions")
    ]  # fmt: skip
    seconds: Counter[str] = Counter()
    for entry in group.entries:
        seconds.update(entry.seconds)
    methods = {entry.label: entry.parameters for entry in group.entries}
    metrics = {label: node["parameters"] for label, node in group.metrics.items()}
    settings = {"methods": methods, "metrics": metrics, "protocol": group.parameters}
    return {
        "commands": list(dict.fromkeys(command(each["command"]) for each in facts if each.get("command"))),
        "machines": list(dict.fromkeys(machine(each) for each in facts if each.get("device"))),
        "versions": list(dict.fromkeys(versions)),
        "seconds": ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items()),
        "config": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        "left_out": [f"{name}: {reason}" for name, reason in left_out_of(group)],
    }


def machine(facts: dict[str, Any]) -> str:
    """Device, precision, batch sizes and commit."""
    known = {key: facts.get(key, "?") for key in ("device", "precision", "threads", "batch", "score_batch")}
    text = "{device}, {precision}, {threads} CPU threads, batches of {batch} cases and {score_batch} perturbed images"
    return f"{text.format(**known)}, commit {facts.get('git_commit') or 'not known'}"


def command(words: list[Any]) -> str:
    """Command line that a run was started with, as it is typed."""
    program, *rest = [str(word) for word in words]
    start = "python -m bench" if program.endswith("__main__.py") else Path(program).name
    return " ".join([start, *map(shlex.quote, rest)])
