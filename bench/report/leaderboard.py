"""leaderboard.html: methods by questions, of any set of results, from the numbers and verdicts of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.comparisons import ALL, ONE, reference_of
from bench.analysis.groups import Entry, Group, about_method, group_folders
from bench.analysis.kept_maps import read_shown
from bench.analysis.loading import load_group
from bench.analysis.tables import Column, shown_columns, summarize_group
from bench.analysis.trials.crash_test import crash_table
from bench.analysis.verdicts import QUESTIONS, answering, best_layer, equal_entries, may_lead, verdicts_of
from bench.figures.draw import slug
from bench.figures.style import titles
from bench.report.answers import HEADINGS, answers_of
from bench.report.gallery import gallery_of, palette
from bench.report.grid import Cell
from bench.report.notes import banners, run_sentence, share
from bench.report.page import BUDGET, render
from bench.report.sheet import milliseconds, shown_cell
from bench.store.files import write_text
from bench.store.folders import find_folders
from bench.types import NO_LAYER, UserError

CASES = 24  # pictures of the gallery, at most
SHORT = {"several objects": "Several objects", "class sensitivity": "Sanity"}
SHARED = {"shared": "the shared pass", "none": "no pass"}


def write_leaderboard(roots: Sequence[Path], reference: str = "grad_cam") -> Path:
    """Write leaderboard.html below the first folder: one section a protocol, the crash test as a column of each.

    Raises
    ------
    UserError
        There are no readable results.
    """
    folders = {folder.path.resolve(): folder for root in roots for folder in find_folders(Path(root))}
    groups = [group for members in group_folders(folders.values()) if (group := load_group(*members))]
    if not groups:
        raise UserError(f"no results under {', '.join(map(str, roots))}; run python -m bench out={roots[0]} first")
    crashes = {group.protocol: table for group in groups if not (table := crash_table(group)).empty}
    crash = crash_counts(pd.concat(crashes.values())) if crashes else {}
    shown = [group for group in groups if group.protocol not in crashes] or groups
    sections = [board_of(group, crash, reference, BUDGET // len(shown)) for group in shown]
    # What answers most questions stands first; of equals what has pictures.
    sections.sort(key=lambda one: (-len(one["heads"]), not one["gallery"]["cases"]))
    path = Path(roots[0]) / "leaderboard.html"
    write_text(path, render("leaderboard.html", groups=sections, palette=palette()))
    return path


def crash_counts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Mechanisms that each method passes, by its label; at its best layer, where there are several."""
    counts: dict[str, dict[str, Any]] = {}
    for (method, _), rows in table.groupby(["method", "layer"], sort=False):
        overall = rows.drop_duplicates("mechanism")
        failed = overall.loc[overall["overall"] != "pass", "mechanism"].tolist()
        own = {"passed": len(overall) - len(failed), "total": len(overall), "failed": ", ".join(failed)}
        if own["passed"] >= counts.get(str(method), own)["passed"]:
            counts[str(method)] = own
    return counts


def board_of(group: Group, crash: dict[str, dict[str, Any]], reference: str, budget: int) -> dict[str, Any]:
    """Section of one protocol as plain values."""
    comparisons = summarize_group(group, reference=reference)[1]
    sets, verdicts = equal_entries(group), verdicts_of(group, comparisons, reference)
    columns = asked_columns(group, comparisons)
    layer, times = best_layer(group, verdicts), milliseconds(group)
    cells = [column_cells(group, sets, comparisons, column, cases, reference) for _, column, cases in columns]
    rows = []
    for i, members in enumerate(sets):
        entry = members[0]
        rows.append({
            "title": titles(members, 4), "names": ", ".join(one.label for one in members), "method": entry.method,
            "layer": entry.layer, "family": entry.category, "control": entry.control,
            "degenerate": share(entry.degenerate_share) if entry.degenerate else "",
            "is_reference": any(reference in (one.method, one.name) for one in members),
            "cells": [column[i] for column in cells], "crash": crash_of(members, crash),
            "cost": cost_of(entry), "shared": cost_of(entry) in SHARED.values(),
            "ms": next((two_digits(times[one.label]) for one in members if one.label in times), ""),
        })  # fmt: skip
    heads = [head_of(group, *column) for column in columns]
    named = [column for _, column, _ in columns]
    return {
        "id": slug(group), "title": f"{group.dataset} / {group.model}", "protocol": group.protocol,
        "sentence": run_sentence(group), "banners": banners(group), "reference": reference,
        "answers": answers_of(group, verdicts, sets, reference), "heads": heads, "rows": rows,
        "crash": any(row["crash"] for row in rows), "layer": layer, "layers": group.layers,
        "families": list(dict.fromkeys(row["family"] for row in rows if not row["control"])),
        "gallery": gallery_of(group, read_shown(group, CASES), named, budget, layer),
    }  # fmt: skip


def two_digits(value: float) -> str:
    """Write a number out with two significant digits: ``7,700``."""
    return f"{float(f'{value:.2g}'):,g}"


def asked_columns(group: Group, comparisons: pd.DataFrame) -> list[tuple[str, Column, str]]:
    """Question, the column that answers it first, and which cases count, for every question that has an answer."""
    chosen = []
    columns = shown_columns(group, set(comparisons["metric"]))
    known = set(zip(comparisons["metric"], comparisons["cases"], strict=True))
    for question in QUESTIONS:
        cases = ONE if question == ONE else ALL
        own = [c for c in answering(group, columns, question) if (c.metric, cases) in known]
        chosen += [(question, own[0], cases)] if own else []
    return chosen


def head_of(group: Group, question: str, column: Column, cases: str) -> dict[str, Any]:
    """Heading of a question's column."""
    direction = "higher is better" if column.better else "lower is better"
    on = "pictures with one object" if cases == ONE else "all pictures that it is defined for"
    return {
        "question": SHORT.get(question, HEADINGS[question]), "heading": " ".join(column.heading), "arrow": column.arrow,
        "better": column.better, "title": f"{column.metric}, {direction}, {on}",
    }  # fmt: skip


def column_cells(
    group: Group, sets: list[list[Entry]], comparisons: pd.DataFrame, column: Column, cases: str, reference: str
) -> list[dict[str, Any] | None]:
    """One cell a row, with the controls as lines; None where there is no value."""
    part = comparisons[(comparisons["metric"] == column.metric) & (comparisons["cases"] == cases)]
    lines: dict[tuple[str, str], list[Any]] = {}
    for line in part.itertuples():
        lines.setdefault((line.method, line.layer), []).append(line)
    known = [(members[0], lines.get((members[0].method, members[0].layer))) for members in sets]
    most = max((own[0].n for _, own in known if own), default=0)
    means = [
        own[0].mean if own and may_lead(entry, own[0].n, own[0].n_images, most) else math.nan for entry, own in known
    ]
    best = math.nan
    if np.isfinite(means).any():
        best = float(np.nanmax(means) if column.better else np.nanmin(means))
    cells = [
        cell_of(group, entry, own, bool(math.isclose(mean, best, abs_tol=5e-4)), reference) if own else None
        for (entry, own), mean in zip(known, means, strict=True)
    ]
    ends = [v for cell in cells if cell for v in (cell.mean, cell.low, cell.high) if math.isfinite(v)]
    span = min(ends, default=0.0), max(ends, default=1.0)
    controls = [(e, cell) for (e, _), cell in zip(known, cells, strict=True) if cell and e.control]
    shown: list[dict[str, Any] | None] = []
    for (entry, _), cell in zip(known, cells, strict=True):
        marks = [
            {"name": e.title, "at": round(100 * (c.mean - span[0]) / ((span[1] - span[0]) or 1.0), 1)}
            for e, c in controls if e.layer in (entry.layer, NO_LAYER)
        ]  # fmt: skip
        shown.append(shown_cell(cell, span, None) | {"controls": marks} if cell else None)
    return shown


def cell_of(group: Group, entry: Entry, lines: list[Any], best: bool, reference: str) -> Cell:
    """Cell of one row: against the reference, and the controls that it does not beat."""
    first, other = lines[0], reference_of(group, entry, reference)
    own = [line for line in lines if other and (line.against, line.against_layer) == (other.method, other.layer)]
    controls = {(one.method, one.layer) for one in group.entries if one.control}
    tied = [
        line.against for line in lines
        if (line.against, line.against_layer) in controls and line.verdict not in ("better", "", "few images")
    ]  # fmt: skip
    pair = own[0] if own else None
    return Cell(
        mean=first.mean, low=first.ci_low, high=first.ci_high, n=first.n, images=first.n_images, best=best,
        verdict=pair.verdict if pair else "", no_better_than="" if entry.control else " ".join(dict.fromkeys(tied)),
        difference=pair.difference if pair else math.nan, difference_low=pair.difference_low if pair else math.nan,
        difference_high=pair.difference_high if pair else math.nan, p=pair.p if pair else math.nan,
        reported=math.nan, source="",
    )  # fmt: skip


def crash_of(members: Sequence[Entry], crash: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the crash test of a row's first method that took part."""
    return next((crash[entry.method] for entry in members if entry.method in crash), None)


def cost_of(entry: Entry) -> str:
    """Say how many passes an image takes, with the values of the method's parameters; ``channels`` are the layer's."""
    passes = about_method(entry.name).get("passes", "shared")
    if not isinstance(passes, dict):
        return SHARED[str(passes)]
    words = [(kind, str(entry.parameters.get(str(passes[kind]), passes[kind]))) for kind in ("forward", "backward")]
    return ", ".join(f"{number} {kind}" for kind, number in words if number != "0")
