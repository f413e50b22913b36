"""The verdicts as sentences, which stand first in the terminal, in summary.md and on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.analysis.groups import Entry, Group, label_of
from bench.analysis.parts import metric_of
from bench.analysis.significance import LEAST_IMAGES
from bench.analysis.verdicts import Verdict
from bench.figures.style import titles
from bench.report.grid import interval, number, signed
from bench.types import NO_LAYER, counted, plain_layer

NAMED = 3  # methods in a sentence
HEADINGS = {
    "one object": "One object",
    "several objects": "Several objects, the worst-shown one",
    "faithfulness": "Faithfulness",
    "class sensitivity": "Does the map depend on the class and the weights?",
}
AGAINST = {
    "better": "better than {}",
    "worse": "worse than {}",
    "equal": "equal to {} within .02",
    "undecided": "not distinguishable from {}",
}


@dataclass(frozen=True)
class Answer:
    """A heading, the measure, the sentence, and its tone: ``yes``, ``no`` or ``open``."""

    question: str
    measure: str
    text: str
    tone: str


def answers_of(group: Group, verdicts: list[Verdict], sets: list[list[Entry]], reference: str) -> list[Answer]:
    """One answer for each verdict, then one on maps that say nothing."""
    named = {entry.label: titles(members) for members in sets for entry in members}
    answers = [answer_of(group, verdict, named, reference) for verdict in verdicts]
    unusable = [entry for entry in group.entries if not entry.ranked and entry.name != "uniform"]
    if unusable:
        more = f" and {len(unusable) - NAMED} more" if len(unusable) > NAMED else ""
        names = ", ".join(f"{where(entry.title, entry.layer)}" for entry in unusable[:NAMED])
        text = f"more than half of the maps of {names}{more} say nothing; they take no part in any verdict"
        answers.append(Answer("Unusable", "degenerate maps", text, "no"))
    return answers


def answer_of(group: Group, verdict: Verdict, named: dict[str, str], reference: str) -> Answer:
    """Sentence of one verdict."""
    measure = measure_of(group, verdict.metric)
    size = f"n = {counted(verdict.n, 'case')} on {counted(verdict.images, 'image')}"
    heading = HEADINGS[verdict.question]
    if verdict.leader is None:
        few = verdict.images < LEAST_IMAGES
        why = f"{LEAST_IMAGES} images are needed" if few else "no method has enough maps that say something"
        return Answer(heading, measure, f"no verdict: {why} ({size})", "open")
    leader = verdict.leader
    name = shown(named, leader)
    best = f"{name} has the best mean, {value_of(leader)}"
    if verdict.control is None:
        why = "every control has fewer cases" if verdict.controls else "no control was run"
        text, tone = f"{best}; {why}, so nothing says how good that is", "open"
    elif not verdict.winners:
        control = shown(named, verdict.control)
        text, tone = f"no method is better than every control: {best}; {control} has {value_of(verdict.control)}", "no"
    else:
        control = shown(named, verdict.control)
        count = f"{len(verdict.winners)} of {verdict.judged} methods at layers beat every control"
        text, tone = f"{best}; {count} (the best control is {control}, {value_of(verdict.control)})", "yes"
    return Answer(heading, measure, f"{text}{reference_text(verdict, reference)} ({size})", tone)


def measure_of(group: Group, value: str) -> str:
    """Name ``<metric>.<output>`` in words, and which way is better."""
    metric, output = metric_of(value)
    title = group.title(metric)
    words = title.replace("_", " ") + ("" if output in title or output == "auc" else f", {output.replace('_', ' ')}")
    return f"{words} ({'higher' if group.higher_is_better(value) else 'lower'} is better)"


def reference_text(verdict: Verdict, reference: str) -> str:
    """How the leader compares with the reference; nothing where it is the reference or was not compared."""
    row = verdict.against
    if row is None or row["verdict"] not in AGAINST:
        return ""
    ends = f"{signed(row['difference_low'])} to {signed(row['difference_high'])}"
    return f"; {AGAINST[row['verdict']].format(reference)} ({signed(row['difference'])}, {ends})"


def shown(named: dict[str, str], row: dict[str, Any]) -> str:
    """Title of a row's method, or of all that share its maps, with the layer."""
    return where(named[label_of(row["method"], row["layer"])], row["layer"])


def where(name: str, layer: str) -> str:
    """Name of a map with its layer."""
    plain = plain_layer(layer)
    return f"{name} at {layer}" if plain != NO_LAYER else name + layer.removeprefix(plain)


def value_of(row: dict[str, Any]) -> str:
    """Mean with its interval: ``.541 [.48–.60]``."""
    span = interval(row["ci_low"], row["ci_high"])
    return number(row["mean"]).replace("0.", ".", 1) + (f" [{span}]" if span else "")
