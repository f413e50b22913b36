"""What a metric makes of maps of known quality: in which of their orders it puts them, and what else moves it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.parts import metric_of
from bench.analysis.statistics import Array, means, percentile_interval, resampled_means
from bench.analysis.tables import table_of

KINDS = ("blur", "shift", "missing", "noise")
VARIANTS = ("baseline", "steps", "seed")
TRIAL_COLUMNS = [
    "dataset", "model", "metric", "best", "best_map",
    *(f"tau_{kind}{end}" for kind in KINDS for end in ("", "_low", "_high")),
    "sees_one", "sees_one_low", "sees_one_high", "false_alarm", *VARIANTS, "passes", "trusted_for", "n", "protocol",
]  # fmt: skip
# A metric is trusted for a kind of fault if its tau's whole interval is at least this: of ten pairs of a truth and four
# degrees at least nine are in order and one is not (9 - 1) / 10. Chance is 0.
TRUSTED = 0.8
# And for missing instances if it puts the truth above the map that lacks ONE in at least this share of the pictures,
# which a coin does in half; again the whole interval.
SEES = 0.75
RESAMPLES = 1000
SAME = 1e-6  # differences below this share of a metric's span over all maps are none
MAP = re.compile(rf"({'|'.join(KINDS)})_(\d+)")
# What a variant is compared with: the first of these that was run.
AGAINST = {"baseline": ("{}_steps_14", "{}"), "steps": ("{}",), "seed": ("{}_baseline_noise", "{}")}
VARIANT = re.compile(rf"(.+)_({'|'.join(VARIANTS)})_\w+")


def trial_table(group: Group) -> pd.DataFrame:
    """Put every metric's values to the test on the maps of ``experiment=metric_trial``.

    Returns
    -------
    DataFrame
        Columns `TRIAL_COLUMNS`, one row an output of a metric that has a direction and is defined for these pictures.
        `best`: whether the truth has the best mean, else the map that has, in `best_map`. ``tau_<kind>``: Kendall's tau
        (a, so ties are 0) of a picture's values with the degree to which the truth is spoilt, mean over pictures with
        95 % interval: 1 is the right order. `sees_one`: share of the pictures where the truth is above the map that
        lacks one instance, ties half. `false_alarm`: mean change under a monotone transform of the map, as a share of
        the metric's span (best minus worst mean of all maps). ``baseline``, ``steps``, ``seed``: largest change of a
        map's mean between variants of the metric, as a share of the span; NaN where it has none. `passes`: forward
        passes a map, from the yaml. `trusted_for`: kinds of faults whose order it finds. Empty for groups without such
        maps.
    """
    places = {entry.name: i for i, entry in enumerate(group.entries)}
    degrees = sorted((m[1], int(m[2])) for m in map(MAP.fullmatch, places) if m)
    chains = {kind: [f"{kind}_{degree}" for own, degree in degrees if own == kind] for kind in KINDS}
    if "truth" not in places or not all(chains.values()):
        return table_of(group, [], TRIAL_COLUMNS)
    values = np.stack([entry.values for entry in group.entries])  # (maps, cases, outputs)
    rows = []
    for column, output in enumerate(group.outputs):
        label, name = metric_of(output)
        better = group.higher_is_better(output)
        defined = np.isfinite(values[places["truth"], :, column]).any()
        if defined and better is not None and not VARIANT.fullmatch(str(group.metrics[label]["name"])):
            signed = values[:, :, column] * (1 if better else -1)
            row = {"metric": f"{group.title(label)}.{name}", **judge(group, signed, places, chains)}
            row |= variants(group, str(group.metrics[label]["name"]), name, span_of(signed))
            row["passes"] = str(group.about(label).get("passes", 0))
            rows.append(row)
    return table_of(group, rows, TRIAL_COLUMNS)


def judge(group: Group, values: Array, places: dict[str, int], chains: dict[str, list[str]]) -> dict[str, Any]:
    """Judge one output; `values` (maps, cases), higher is better."""
    span, truth = span_of(values), values[places["truth"]]
    average = means(values.T)
    top = int(np.nanargmax(np.where(np.isnan(average), -np.inf, average)))
    best = bool(average[top] - average[places["truth"]] <= SAME * span)
    row: dict[str, Any] = {"best": best, "best_map": "truth" if best else group.entries[top].name}
    row["n"] = int(np.isfinite(truth).sum())
    taus = {kind: order(np.stack([truth, *(values[places[name]] for name in chain)]), SAME * span)
            for kind, chain in chains.items()}  # fmt: skip
    gap = truth - values[places["missing_1"]]
    seen = np.where(np.isfinite(gap), (gap > SAME * span) + 0.5 * (np.abs(gap) <= SAME * span), np.nan)
    columns = {**{f"tau_{kind}": tau for kind, tau in taus.items()}, "sees_one": seen}
    matrix = np.stack(list(columns.values()), axis=1)
    numbers = [
        means(matrix),
        *percentile_interval(resampled_means(matrix, group.images, group.image_count, None, RESAMPLES, 0)),
    ]
    for i, key in enumerate(columns):
        row |= {
            f"{key}{end}": float(number[i].round(6)) for end, number in zip(("", "_low", "_high"), numbers, strict=True)
        }
    trusted = [kind for kind in KINDS if row[f"tau_{kind}_low"] >= TRUSTED]
    row["trusted_for"] = ", ".join(k for k in trusted if k != "missing" or row["sees_one_low"] >= SEES)
    changed = [
        np.nanmean(np.abs(values[places[name]] - values[places["blur_2"]]))
        for name in ("squared", "root")
        if name in places
    ]
    row["false_alarm"] = float(np.mean(changed) / span) if changed and span > 0 else np.nan
    return row


def span_of(values: Array) -> float:
    """Best minus worst mean of all maps; `values` (maps, cases)."""
    average = means(values.T)
    return float(np.nanmax(average) - np.nanmin(average))


def order(values: Array, same: float) -> Array:
    """Kendall's tau a of each case's values (degrees, cases) with falling quality, 1 for the right order; (cases,).

    Differences of at most `same` are ties, which count 0; NaN where a value is missing.
    """
    count = len(values)
    total = np.zeros(values.shape[1])
    for i in range(count):
        for j in range(i + 1, count):
            gap = values[i] - values[j]
            total += np.where(np.abs(gap) <= same, 0, np.sign(gap))
    return total / (count * (count - 1) / 2)


def variants(group: Group, metric: str, name: str, span: float) -> dict[str, float]:
    """Largest change of a map's mean with another baseline, number of steps or seed, as a share of the span.

    `AGAINST` says which variant, or the metric itself, differs in nothing else.
    """
    labels = {str(node["name"]): label for label, node in group.metrics.items()}
    result = {}
    for kind in VARIANTS:
        base = next((labels[one.format(metric)] for one in AGAINST[kind] if one.format(metric) in labels), "")
        others = [labels[one] for one in labels if (m := VARIANT.fullmatch(one)) and m.groups() == (metric, kind)]
        pairs = [(f"{base}.{name}", f"{other}.{name}") for other in others if other != base]
        changes = [largest_change(group, *pair) for pair in pairs if {*pair} <= {*group.outputs}]
        result[kind] = max(changes) / span if changes and span > 0 else np.nan
    return result


def largest_change(group: Group, one: str, other: str) -> float:
    """Largest absolute difference of a map's mean between two outputs."""
    first, second = (np.stack([group.values(entry, output) for entry in group.entries]) for output in (one, other))
    return float(np.nanmax(np.abs(means(first.T) - means(second.T))))
