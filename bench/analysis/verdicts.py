"""What the numbers of a group allow to be said: one verdict for each question and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.comparisons import ALL, ONE, alike, reference_of
from bench.analysis.groups import Entry, Group
from bench.analysis.parts import metric_of
from bench.analysis.significance import ENOUGH, LEAST_IMAGES
from bench.analysis.statistics import Array
from bench.analysis.tables import Column, shown_columns
from bench.types import NO_LAYER

QUESTIONS = (ONE, "several objects", "faithfulness", "class sensitivity")
METRICS = 2  # that answer one question, at most
# Metrics that answer before all others, in this order; the rest follow by name.
FIRST = (
    "box_coverage", "pointing_game", "deletion", "insertion", "road", "class_sensitivity", "random_logit",
    "cascading_randomization",
)  # fmt: skip

Lines = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Verdict:
    """Answer of one metric to one question.

    Attributes
    ----------
    question, metric : str
        One of `QUESTIONS`; ``<metric>.<output>``.
    n, images : int
        Cases and images under it.
    leader : dict or None
        Row of the comparisons: the method with the best mean; None where no method may be judged.
    control : dict or None
        The same of the best control.
    controls : int
        Number of controls, also of those with too few cases to be the best.
    winners : list of Entry
        Methods that are better than every control; of equal ones the first.
    judged : int
        Number of distinct methods at layers that were judged.
    against : dict or None
        Row of the leader's comparison with the reference.
    """

    question: str
    metric: str
    n: int
    images: int
    leader: dict[str, Any] | None
    control: dict[str, Any] | None
    controls: int
    winners: list[Entry]
    judged: int
    against: dict[str, Any] | None


def equal_entries(group: Group) -> list[list[Entry]]:
    """Entries with the same values in every metric on every case, together; each list in the group's order.

    Two maps may share a coarse value by chance, such as a hit, so a group of equal entries needs a metric that tells
    most of its cases apart.
    """
    sets: list[list[Entry]] = []
    by_size: dict[Any, list[list[Entry]]] = {}
    for entry in group.entries:
        key = (entry.layer, entry.control, entry.rows, tuple(np.isfinite(entry.values).sum(axis=0)))
        for members in by_size.setdefault(key, []):
            if alike(members[0].values, entry.values) and distinct(entry.values):
                members.append(entry)
                break
        else:
            sets.append([entry])
            by_size[key].append(sets[-1])
    return sets


def distinct(values: Array) -> bool:
    """Whether some column (cases, C) has another value on at least every second of its cases."""
    columns = [column[np.isfinite(column)] for column in values.T]
    return any(len(column) and len(np.unique(np.round(column, 9))) > len(column) / 2 for column in columns)


def verdicts_of(group: Group, comparisons: pd.DataFrame, reference: str) -> list[Verdict]:
    """Answer every question that a metric of the group answers, in the order of `QUESTIONS`.

    `comparisons` is of `bench.analysis.tables.summarize_group`.
    """
    columns = shown_columns(group, set(comparisons["metric"]))
    columns = [column for column in columns if not column.metric.endswith("_class_mean")]
    heads = [members[0] for members in equal_entries(group)]
    result = []
    for question in QUESTIONS:
        cases = ONE if question == ONE else ALL
        for output in [column.metric for column in answering(group, columns, question)][:METRICS]:
            rows = comparisons[(comparisons["metric"] == output) & (comparisons["cases"] == cases)]
            if rows.empty and cases == ONE:  # a statistic of the whole data set has no such part
                continue
            result.append(judge(group, heads, question, output, rows, reference))
    return result


def answering(group: Group, columns: Sequence[Column], question: str) -> list[Column]:
    """Columns that answer a question, those of `FIRST` before others, and one of each metric before a second one."""
    own = [column for column in columns if group.question(column.metric) == question]
    names = [str(group.metrics[metric_of(column.metric)[0]]["name"]) for column in own]

    def place(at: int) -> tuple[int, int, str]:
        name = names[at]
        return names[:at].count(name), FIRST.index(name) if name in FIRST else len(FIRST), name

    return [own[at] for at in sorted(range(len(own)), key=place)]


def judge(group: Group, heads: list[Entry], question: str, output: str, rows: pd.DataFrame, reference: str) -> Verdict:
    """Judge the methods by one metric."""
    lines: dict[tuple[str, str], Lines] = {}
    for line in rows.to_dict("records"):
        lines.setdefault((line["method"], line["layer"]), []).append({str(key): value for key, value in line.items()})
    known = [entry for entry in heads if (entry.method, entry.layer) in lines]
    firsts = {entry.label: lines[entry.method, entry.layer][0] for entry in known}
    most = max((line["n"] for line in firsts.values()), default=0)
    methods = [e for e in known if may_lead(e, firsts[e.label]["n"], firsts[e.label]["n_images"], most)]
    sign = 1 if group.higher_is_better(output) else -1
    leader = max(methods, key=lambda e: sign * firsts[e.label]["mean"], default=None)
    controls = [e for e in known if e.control and firsts[e.label]["n"] >= ENOUGH * most]
    control = max(controls, key=lambda e: sign * firsts[e.label]["mean"], default=None)
    against = None
    if leader and (other := reference_of(group, leader, reference)):
        pairs = lines[leader.method, leader.layer]
        against = next((x for x in pairs if (x["against"], x["against_layer"]) == (other.method, other.layer)), None)
    return Verdict(
        question=question,
        metric=output,
        n=most,
        images=max((line["n_images"] for line in firsts.values()), default=0),
        leader=firsts[leader.label] if leader else None,
        control=firsts[control.label] if control else None,
        controls=sum(entry.control for entry in known),
        winners=[e for e in methods if beats_controls(group, lines[e.method, e.layer])],
        judged=len(methods),
        against=against,
    )


def may_lead(entry: Entry, n: float, images: float, most: float) -> bool:
    """Whether a row with a mean of `n` cases on so many `images` may be the best of a column.

    Not a control, not one of mostly degenerate maps, and not on fewer cases than others, of which one has the `most`:
    means of different cases do not compare.
    """
    return entry.ranked and not entry.control and n >= ENOUGH * most and images >= LEAST_IMAGES


def beats_controls(group: Group, lines: Lines) -> bool:
    """Whether a method is better than every control that it was compared with; not where there is none."""
    controls = {(entry.method, entry.layer) for entry in group.entries if entry.control}
    own = [line["verdict"] for line in lines if (line["against"], line["against_layer"]) in controls]
    return bool(own) and all(word == "better" for word in own)


def question_columns(group: Group, metrics: set[str]) -> list[Column]:
    """Columns of the table in short: one for each question, the first that answers it; the first four without any."""
    columns = shown_columns(group, metrics)
    chosen = {}
    for question in QUESTIONS:
        own = answering(group, columns, question)
        if own:
            chosen[question] = own[0]
    return list(chosen.values()) or columns[:4]


def best_layer(group: Group, verdicts: list[Verdict]) -> str:
    """Layer of the first leader that has one, which the page opens first; else the last layer."""
    layers = [verdict.leader["layer"] for verdict in verdicts if verdict.leader]
    return next((str(layer) for layer in layers if layer != NO_LAYER), group.last_layer)
