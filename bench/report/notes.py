"""Sentences beneath a table: by which protocol, on what, and which numbers to distrust."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import NO_LAYER, Group, shown_columns
from bench.analysis.parts import metric_of
from bench.figures.style import p_text
from bench.options import conf_node

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
    lines.append("intervals: 95 %, bootstrap over images")
    if any(entry.layer == NO_LAYER for entry in group.entries) and group.layers:
        lines.append(f"methods without a layer are compared with {reference} at {group.last_layer} (summary.csv)")
    return [*lines, *fewer_cases(group), *incomplete(group), *degenerate_lines(group)]


def run_sentence(group: Group) -> str:
    """Say in one sentence what was run."""
    counts = {
        "method": len({entry.method for entry in group.entries if not entry.control}),
        "control": len({entry.method for entry in group.entries if entry.control}),
        "layer": len(group.layers),
    }
    counted = {word: f"{n} {word}{'s' if n > 1 else ''}" for word, n in counts.items() if n}
    where = f" at {counted.pop('layer')}" if group.layers else ""
    *metrics, last = [group.title(metric).replace("_", " ") for metric in group.metrics] or ["nothing"]
    measured = f"{', '.join(metrics)} and {last}" if metrics else last
    size = f"{group.model} on {group.dataset} ({size_of(group)})"
    return f"{' and '.join(counted.values())}{where} of {size}, measured by {measured}."


def size_of(group: Group) -> str:
    """Count cases, images and of cases with several instances."""
    several = int((group.cases["n_instances"] > 1).sum())
    text = f"{len(group.cases)} cases on {group.image_count} images"
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
    counted = key.endswith("s") and isinstance(value, int) and not isinstance(value, bool)
    return f"{value} {key}" if counted else f"{key}={value}"


def probability_line(group: Group) -> str:
    """Mean probability of the target over all cases and per class: no map shows what the network does not see."""
    text = f"mean target probability {group.cases['probability'].mean():.2f}"
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
        lines.append(line + ("" if entry.ranked else "; it takes no part in rankings and marks"))
    return lines


def share(value: float) -> str:
    """Share in per cent; a few cases never read as none."""
    return "<1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def ranking_notes(ranks: pd.DataFrame, agreement: pd.DataFrame) -> list[str]:
    """Sentences on Friedman's test and on the metrics that agree most and least."""
    lines = []
    tests = ranks.drop_duplicates("metric")
    if len(tests):
        clear = [row.metric for row in tests.itertuples() if row.p < 0.001]
        words = [f"{row.metric} {p_text(row.p)}" for row in tests.itertuples() if row.p >= 0.001]
        if clear:
            words.append(f"{'all' if not words else ', '.join(clear)} p < .001")
        lines.append(f"do the methods differ at all (Friedman, on images): {', '.join(words)}; ranks in ranks.csv")
    pairs = agreement.dropna(subset=["tau"]).sort_values("tau", kind="stable")
    if len(pairs) > 1:
        least, most = pairs.iloc[0], pairs.iloc[-1]
        words = [f"{row['metric']} and {row['other_metric']} {row['tau']:.2f}" for row in (most, least)]
        lines.append(f"do the metrics agree (Kendall's tau): most {words[0]}, least {words[1]}; all in agreement.csv")
    return lines
