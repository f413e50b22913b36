"""report.html: one file that opens offline, with table, figures, gallery and how the numbers were made."""

from __future__ import annotations

import base64
import hashlib
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.analysis.groups import NO_LAYER, Column, Group
from bench.analysis.kept_maps import Shown
from bench.analysis.parts import metric_of
from bench.figures.draw import FIGURES, slug
from bench.figures.style import p_text
from bench.report.gallery import colour_tables, gallery_of
from bench.report.grid import Cell, Grid, interval, number
from bench.report.notes import notes, ranking_notes, run_sentence, share
from bench.runs.store import PROVENANCE, read_json

BUDGET = 10_000_000  # bytes of pictures and maps in one page
STYLES = ("page.css", "gallery.css")
SCRIPTS = ("page.js", "gallery.js")


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


def page_of(groups: list[dict[str, Any]]) -> str:
    """Fill the whole page, from `section_of` of every group."""
    return render("page.html", groups=groups, colours=colour_tables())


def section_of(
    group: Group, grid: Grid, tables: dict[str, Any], shown: Shown, figures: Path, reference: str, count: int
) -> dict[str, Any]:
    """Everything on the page about one group, as plain values; `count` groups share the page's budget.

    `figures` is the folder of the group's figures: those that exist as SVG are shown.
    """
    lines = notes(group, reference)
    return {
        "id": slug(group),
        "title": f"{group.dataset} / {group.model}",
        "protocol": group.protocol,
        "sentence": run_sentence(group),
        "headline": headline(grid),
        "columns": [column_of(group, column) for column in grid.columns],
        "rows": rows_of(grid, reference),
        "has_reported": any(cell and math.isfinite(cell.reported) for line in grid.cells for cell in line),
        "has_differences": any(cell and math.isfinite(cell.difference) for line in grid.cells for cell in line),
        "reference": reference,
        "notes": [line for line in lines if not line.startswith("warning: ")],
        "warnings": [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")],
        "rankings": ranking_notes(tables["ranks"], tables["agreement"]),
        "figures": figures_of(group, figures),
        "gallery": gallery_of(group, shown, grid.columns, BUDGET // count),
        "made": made(group),
    }


def headline(grid: Grid) -> str:
    """Which methods are best, or not significantly worse, in how many columns."""
    judged = [i for i, column in enumerate(grid.columns) if column.better is not None]
    lines = list(zip(grid.entries, grid.cells, strict=True))
    counts = {e.label: sum(bool((c := line[i]) and (c.best or c.tied)) for i in judged) for e, line in lines}
    top = max(counts.values(), default=0)
    if not top:
        return ""
    names = [label for label, count in counts.items() if count == top]
    listed = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    verb = "is" if len(names) == 1 else "are"
    text = f"{listed} {verb} best, or not significantly worse than the best, in {top} of {len(judged)} columns."
    won = [i for i in judged if any((c := line[i]) and c.best and entry.control for entry, line in lines)]
    heads = ", ".join(" ".join(grid.columns[i].heading) for i in won)
    return f"{text} A control has the best value in {len(won)}: {heads}." if won else text


def column_of(group: Group, column: Column) -> dict[str, Any]:
    """Heading of a column, and about its metric: direction, unit, version."""
    metric = metric_of(column.metric)[0]
    about, version = group.about(metric), group.metrics[metric].get("version", 0)
    direction = {True: "higher is better", False: "lower is better", None: "no direction"}[column.better]
    unit = f", {about['unit']}" if about.get("unit") else ""
    return {
        "heading": " ".join(column.heading), "arrow": column.arrow, "better": column.better,
        "title": f"{column.metric}: {direction}{unit}, version {version}",
    }  # fmt: skip


def rows_of(grid: Grid, reference: str) -> list[dict[str, Any]]:
    """Rows of the main table."""
    spans = []
    for i in range(len(grid.columns)):
        ends = [v for line in grid.cells if (c := line[i]) for v in (c.mean, c.low, c.high) if math.isfinite(v)]
        spans.append((min(ends, default=0.0), max(ends, default=1.0)))
    return [
        {
            "method": entry.method,
            "layer": "" if entry.layer == NO_LAYER else entry.layer,
            "control": entry.control,
            "n": entry.rows,
            "degenerate": share(entry.degenerate_share) if entry.degenerate else "",
            "degenerate_value": entry.degenerate_share,
            "reasons": ", ".join(f"{count} {reason}" for reason, count in entry.degenerate.items()),
            "cells": [cell and shown_cell(cell, *span) for cell, span in zip(line, spans, strict=True)],
            "is_reference": reference in (entry.method, entry.name),
        }
        for entry, line in zip(grid.entries, grid.cells, strict=True)
    ]


def shown_cell(cell: Cell, low: float, high: float) -> dict[str, Any]:
    """Texts of one value, and where its interval lies between the ends of its column, in per cent."""

    def place(value: float) -> float:
        return round(100 * ((value if math.isfinite(value) else cell.mean) - low) / ((high - low) or 1.0), 1)

    ends = " to ".join(signed(end, 2) for end in (cell.difference_low, cell.difference_high) if math.isfinite(end))
    return {
        "value": cell.mean, "text": number(cell.mean), "interval": interval(cell.low, cell.high),
        "best": cell.best, "tied": cell.tied,
        "left": place(cell.low), "width": round(place(cell.high) - place(cell.low), 1), "dot": place(cell.mean),
        "difference": signed(cell.difference, 3), "ends": ends,
        "p": p_text(cell.p) if math.isfinite(cell.p) else "",
        "reported": number(cell.reported), "source": cell.source,
    }  # fmt: skip


def signed(value: float, places: int) -> str:
    """Difference with its sign; without one where it rounds to zero."""
    if not math.isfinite(value):
        return ""
    text = f"{value:+.{places}f}" if abs(value) < 1000 else f"{value:+.2e}"
    return text if float(text) else text[1:]


def figures_of(group: Group, folder: Path) -> list[dict[str, str]]:
    """Figures that exist, as data URIs with title, caption and alternative text."""
    result = []
    for name, (title, caption) in FIGURES.items():
        path = folder / f"{name}.svg"
        if path.is_file():
            uri = "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
            alt = f"{title}, {group.dataset}, {group.model}. {caption} The numbers are in the tables."
            result.append({"name": name, "title": title, "caption": caption, "alt": alt, "uri": uri})
    return result


def made(group: Group) -> dict[str, Any]:
    """Where the numbers come from: commands, versions, machines, settings, records left out; each once."""
    facts = list({id(part.made): part.made for part in group.parts}.values())
    versions = [
        ", ".join(f"{name} {version}" for name, version in each["versions"].items())
        for each in facts if each.get("versions")
    ]  # fmt: skip
    records = [read_json(folder.path / PROVENANCE).get("bad_records") or [] for folder in group.folders]
    left_out = {(str(s["case_id"]), str(s["reason"])) for part in group.parts for s in part.skipped}
    left_out |= {(str(bad.get("record")), str(bad.get("reason"))) for each in records for bad in each}
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
        "left_out": [f"{name}: {reason}" for name, reason in sorted(left_out)],
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
