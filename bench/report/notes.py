"""Sentences beneath a table: by which protocol, on what, and which numbers to distrust."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.parts import metric_of
from bench.analysis.significance import LEAST_IMAGES
from bench.analysis.tables import shown_columns
from bench.options import conf_node
from bench.store.files import read_json
from bench.store.folders import PROVENANCE
from bench.types import NO_LAYER, counted

FLAT_GRADIENT = (
    "at the last layer before global average pooling the gradient of a channel is spatially constant, so value and"
    " histogram entropy are 0 everywhere and Grad Entropy-CAM vanishes, while magnitude entropy gives log2(Z) for all"
    " channels, i.e. the plain sum of activations"
)
REASONS = {
    "zero": "nothing of the map is above zero; it is scored as a map without information",
    "constant": "all positions have the same value; it is scored as a map without information",
    "nonfinite": "the map has NaN or infinite values; it is scored as a map without information",
    "other": "for a reason that this version does not know",
}


def notes(group: Group, reference: str) -> list[str]:
    """All notes of a group, the protocol first, warnings last."""
    lines = [f"protocol {group.protocol}: {size_of(group)}", *protocol_lines(group), probability_line(group)]
    lines.append(
        "intervals: 95 %, bootstrap over images; p: paired differences, Holm-corrected for a column's comparisons"
    )
    if any(entry.layer == NO_LAYER for entry in group.entries) and group.layers:
        lines.append(f"methods without a layer are compared with {reference} at {group.last_layer} (summary.csv)")
    return [*lines, *not_fine_tuned(group), *fewer_cases(group), *incomplete(group), *degenerate_lines(group)]


def not_fine_tuned(group: Group) -> list[str]:
    """Metrics that ask for a network fine-tuned on something (``about.fine_tuned``), where it has its usual weights."""
    wanted = {metric: group.about(metric).get("fine_tuned") for metric in group.metrics}
    usual = not group.weights.endswith((".pth", ".pt", ".safetensors"))
    return [
        f"{metric}: the network was not fine-tuned on {what}, to which it may answer in any way; see docs/metrics.md"
        for metric, what in wanted.items()
        if what and usual
    ]


def banners(group: Group) -> list[str]:
    """Reasons to distrust every number of a group, which a reader must see first."""
    lines = []
    if group.weights == "random":
        lines.append("the network's weights are random: nothing here says how a method does on a trained network")
    probability = float(group.cases["probability"].mean())
    if probability < 0.2 and group.follows == "probability":
        lines.append(
            f"the mean target probability is {probability:.2f}: the network hardly sees what the maps should show"
        )
    if changed := changed_steps(group):
        lines.append(f"{', '.join(changed)}: the numbers do not compare with those of the default")
    left_out = len(left_out_of(group))
    if left_out > 0.05 * (left_out + len(group.cases)):
        total = left_out + len(group.cases)
        lines.append(f"left out: {left_out} of {total} pictures or records, {share(left_out / total)}")
    if group.image_count < LEAST_IMAGES:
        lines.append(f"too few images for a verdict: {group.image_count}, where {LEAST_IMAGES} are needed")
    return lines


def changed_steps(group: Group) -> list[str]:
    """Metrics with another number of steps than the default: ``deletion has 7 steps instead of 28``."""
    lines = []
    for node in group.metrics.values():
        default, steps = conf_node("metric", str(node["name"])).get("steps"), node["parameters"].get("steps")
        if default is not None and steps is not None and steps != default:
            lines.append(f"{node['name']} has {steps} steps instead of {default}")
    return lines


def left_out_of(group: Group) -> list[tuple[str, str]]:
    """List the records and pictures that were left out, with the reason."""
    records = [read_json(folder.path / PROVENANCE).get("bad_records") or [] for folder in group.folders]
    left_out = {(str(s["case_id"]), str(s["reason"])) for part in group.parts for s in part.skipped}
    return sorted(left_out | {(str(bad.get("record")), str(bad.get("reason"))) for each in records for bad in each})


def run_sentence(group: Group) -> str:
    """Say in one sentence what was run."""
    counts = {
        "method": len({entry.method for entry in group.entries if not entry.control}),
        "control": len({entry.method for entry in group.entries if entry.control}),
        "layer": len(group.layers),
    }
    parts = {word: counted(n, word) for word, n in counts.items() if n}
    where = f" at {parts.pop('layer')}" if group.layers else ""
    *metrics, last = [group.title(metric).replace("_", " ") for metric in group.metrics] or ["nothing"]
    measured = f"{', '.join(metrics)} and {last}" if metrics else last
    size = f"{group.model} on {group.dataset} ({size_of(group)})"
    return f"{' and '.join(parts.values())}{where} of {size}, measured by {measured}."


def size_of(group: Group) -> str:
    """Count cases, images and of cases with several instances."""
    several = int((group.cases["n_instances"] > 1).sum())
    text = f"{counted(len(group.cases), 'case')} on {counted(group.image_count, 'image')}"
    return f"{text}, {several} with several instances" if several else text


def protocol_lines(group: Group) -> list[str]:
    """Parameters of each metric, with the default where it was changed."""
    lines = []
    for metric, node in group.metrics.items():
        defaults, parts = conf_node("metric", str(node["name"])), []
        for key, value in node["parameters"].items():
            default = defaults.get(key, value)
            # A default that Hydra interpolates is not known here.
            known = default != value and not (isinstance(default, str) and default.startswith("${"))
            if key != "seed" or known:
                parts.append(parameter(key, value) + (f" (default {default})" if known else ""))
        if parts:
            lines.append(f"{metric}: {', '.join(parts)}")
    return lines


def parameter(key: str, value: Any) -> str:
    """``28 steps`` for a count, ``kernel=11`` for anything else."""
    number = key.endswith("s") and isinstance(value, int) and not isinstance(value, bool)
    return f"{value} {key}" if number else f"{key}={value}"


def probability_line(group: Group) -> str:
    """Mean probability of the target over all cases and per class: no map shows what the network does not see."""
    what = "target probability" if group.follows == "probability" else group.follows
    text = f"mean {what} {group.cases['probability'].mean():.2f}"
    by_class = group.cases.groupby("class_name")["probability"].mean()
    if len(by_class) < 2:
        return text
    low = by_class.sort_values(kind="stable")
    listed = low if len(low) <= 8 else pd.concat([low.iloc[:3], low.iloc[-3:]])
    words = ", ".join(f"{name or 'unnamed'} {value:.2f}" for name, value in listed.items())
    which = "" if len(low) <= 8 else f"lowest and highest of {len(low)} classes: "
    return f"{text} ({which}{words})"


def fewer_cases(group: Group) -> list[str]:
    """Metrics that are not defined for every case, with the number of cases for which they are."""
    lines = []
    for metric in group.metrics:
        columns = [column.metric for column in shown_columns(group) if metric_of(column.metric)[0] == metric]
        columns = [name.removesuffix("_class_mean") for name in columns if name not in group.statistics]
        # Of the most complete entry: cases that others still lack are another note.
        numbers = [max(int(np.isfinite(group.values(e, name)).sum()) for e in group.entries) for name in columns]
        for number in sorted(set(numbers) - {len(group.cases)}):
            fewer = [metric_of(name)[1] for name, own in zip(columns, numbers, strict=True) if own == number]
            what = metric if len(fewer) == len(columns) else f"{metric}'s {', '.join(fewer)}"
            lines.append(f"{what}: defined for {number} of {len(group.cases)} cases")
    return lines


def incomplete(group: Group) -> list[str]:
    """Entries that lack cases, or cases of a metric."""
    total = len(group.cases)
    lines = [f"{e.label}: {e.rows} of {total} cases are there" for e in group.entries if e.rows < total]
    for metric in group.metrics:
        counts: dict[int, list[str]] = {}
        for entry in group.entries:
            number = entry.measured.get(metric, 0)
            if number < entry.rows:
                counts.setdefault(number, []).append(entry.label)
        for number, labels in counts.items():
            more = f" and {len(labels) - 3} more" if len(labels) > 4 else ""
            names = ", ".join(labels[:3] if more else labels) + more
            lines.append(f"{metric} was measured on {number} of {total} cases for {names}")
    return lines


def degenerate_lines(group: Group) -> list[str]:
    """One warning per entry with degenerate maps, with the reason; `uniform` is constant by design."""
    lines: list[str] = []
    explanation = FLAT_GRADIENT
    for entry in group.entries:
        if not entry.degenerate or entry.name == "uniform":
            continue
        kinds = ", ".join(f"{number} {reason}" for reason, number in entry.degenerate.items())
        why = "; ".join(REASONS[reason] for reason in entry.degenerate)
        if entry.flat_gradient:
            why, explanation = explanation, "as above"
        line = f"warning: {entry.label} is degenerate in {share(entry.degenerate_share)} of the cases ({kinds}): {why}"
        lines.append(line + ("" if entry.ranked else "; it takes no part in verdicts"))
    return lines


def share(value: float) -> str:
    """Share in per cent; a few cases never read as none."""
    return "<1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def agreement_notes(agreement: pd.DataFrame) -> list[str]:
    """Say which metrics agree most and least."""
    pairs = agreement.dropna(subset=["tau"]).sort_values("tau", kind="stable")
    if len(pairs) < 2:
        return []
    least, most = pairs.iloc[0], pairs.iloc[-1]
    words = [f"{row['metric']} and {row['other_metric']} {row['tau']:.2f}" for row in (most, least)]
    return [f"do the metrics agree (Kendall's tau): most {words[0]}, least {words[1]}; all in agreement.csv"]
