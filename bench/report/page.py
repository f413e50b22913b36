"""report.html: one file that opens offline, with table, figures, gallery and how the numbers were made."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.analysis.groups import Group
from bench.analysis.kept_maps import Shown
from bench.figures.draw import FIGURES, Chosen, caption_of, slug
from bench.report.answers import Answer
from bench.report.gallery import gallery_of, palette
from bench.report.grid import Grid
from bench.report.notes import agreement_notes, banners, left_out_of, notes, run_sentence
from bench.report.sheet import column_of, layers_of, means_of, rank_rows

BUDGET = 10_000_000  # bytes of pictures and maps in one page
STYLES = ("page.css", "gallery.css")
SCRIPTS = ("page.js", "gallery.js", "leaderboard.js")
ID = re.compile(r"""((?:\bid="|"#|url\(#))""")


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
    """Fill the whole page, from `section_of` of every group, and for several from `bench.report.sheet.matrices_of`."""
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
