"""Whether the order of two methods depends on what stands in an image where its evidence was taken away."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from bench.analysis.groups import Entry, Group
from bench.analysis.parts import metric_of
from bench.analysis.rankings import ranked
from bench.analysis.significance import LEAST_IMAGES
from bench.analysis.statistics import Array, means, percentile_interval, resampled_means
from bench.analysis.tables import table_of

BASELINE_COLUMNS = [
    "dataset", "model", "metric", "method", "layer", "other_method", "other_layer", "baselines", "ahead", "sure",
    "against", "order", "reversed_by", "n", "protocol",
]  # fmt: skip
TAU_COLUMNS = ["dataset", "model", "metric", "baseline", "other_baseline", "tau", "k", "n", "protocol"]
DISTANCE = "baseline_distance.distance"
DISTANCE_COLUMNS = ["dataset", "model", "layer", "baseline", "distance", "ci_low", "ci_high", "n", "protocol"]
VARIANT = re.compile(r"(.+)_baseline_(\w+)")
FEWEST = 3  # baselines under which a metric was measured
RESAMPLES = 2000
ERROR = 0.05  # of a pair's statements under all baselines together
SAME = 1e-9  # means that differ by less are equal: equal maps


def families(group: Group) -> dict[str, dict[str, str]]:
    """Find outputs that differ in nothing but the baseline: by ``<metric>.<output>`` the output's name by baseline.

    Of outputs with a direction, of metrics that were run under `FEWEST` baselines or more.
    """
    named = {name: outputs for name, outputs in by_baseline(group).items() if len(outputs) >= FEWEST}
    return {name: own for name, own in named.items() if group.higher_is_better(next(iter(own.values()))) is not None}


def by_baseline(group: Group) -> dict[str, dict[str, str]]:
    """List all outputs of metrics that have a baseline, as `families` does.

    A metric's variants are NAME_baseline_X; the baseline of NAME itself is its parameter.
    """
    labels = {str(node["name"]): label for label, node in group.metrics.items()}
    named: dict[str, dict[str, str]] = {}
    for name, label in labels.items():
        variant = VARIANT.fullmatch(name)
        base = variant[1] if variant else name
        baseline = variant[2] if variant else group.metrics[label]["parameters"].get("baseline")
        for output in group.outputs if baseline else ():
            metric, value = metric_of(output)
            if metric == label:
                named.setdefault(f"{base}.{value}", {})[str(baseline)] = output
    return named


def baseline_values(group: Group, outputs: dict[str, str]) -> tuple[list[Entry], Array]:
    """Methods that are ranked under every baseline, and their values (cases, methods, baselines), higher is better.

    Cases without a value of some entry under some baseline are NaN throughout, so that all orders are of the same
    cases.
    """
    kept = np.logical_and.reduce([ranked(group, output) for output in outputs.values()])
    entries = [entry for entry, keep in zip(group.entries, kept, strict=True) if keep and not entry.control]
    if not entries:
        return [], np.zeros((len(group.cases), 0, len(outputs)))
    signs = {output: 1 if group.higher_is_better(output) else -1 for output in outputs.values()}
    columns = [[sign * group.values(entry, output) for output, sign in signs.items()] for entry in entries]
    values = np.stack([np.stack(own, axis=1) for own in columns], axis=1)
    values[~np.isfinite(values).all(axis=(1, 2))] = np.nan
    return entries, values


def baselines_table(group: Group) -> pd.DataFrame:
    """Count, for each pair of methods, under how many baselines which of them is better.

    Returns
    -------
    DataFrame
        Columns `BASELINE_COLUMNS`, one row a pair and output. `method` is the one that is better under more of the
        `baselines` (ties: in the order of the table), `ahead` under how many its mean is better. `sure`, `against`:
        under how many the interval of the paired difference (bootstrap over images, 95 % for all baselines together by
        Bonferroni's correction) is above 0, or below. `order`: ``few images`` under 20; ``depends`` where one
        baseline is sure of the opposite of what another is sure of; ``holds`` where the means agree under every
        baseline; ``equal`` where they never differ; else ``open``. `reversed_by`: baselines under which the other is
        better. Empty for groups without such metrics.
    """
    rows: list[dict[str, Any]] = []
    for name, outputs in families(group).items():
        entries, values = baseline_values(group, outputs)
        for i, j in combinations(range(len(entries)), 2):
            rows.append(
                {"metric": name, **compared(group, entries[i], entries[j], values[:, i] - values[:, j], outputs)}
            )
    return table_of(group, rows, BASELINE_COLUMNS)


def compared(group: Group, one: Entry, other: Entry, gaps: Array, outputs: dict[str, str]) -> dict[str, Any]:
    """Row of one pair; `gaps` (cases, baselines) are above 0 where `one` is better."""
    average = means(gaps)
    drawn = resampled_means(gaps, group.images, group.image_count, None, RESAMPLES, 0)
    low, high = percentile_interval(drawn, 1 - ERROR / len(outputs))
    if (average > SAME).sum() < (average < -SAME).sum():
        one, other, average, low, high = other, one, -average, -high, -low
    wins, losses = average > SAME, average < -SAME
    sure, against = int((wins & (low > 0)).sum()), int((losses & (high < 0)).sum())
    present = np.isfinite(gaps).all(axis=1)
    if len(np.unique(group.images[present])) < LEAST_IMAGES:
        sure, against, order = 0, 0, "few images"
    else:
        differ = wins.any() or losses.any()
        order = "depends" if sure and against else "equal" if not differ else "holds" if wins.all() else "open"
    return {
        "method": one.method, "layer": one.layer, "other_method": other.method, "other_layer": other.layer,
        "baselines": len(outputs), "ahead": int(wins.sum()), "sure": sure, "against": against, "order": order,
        "reversed_by": ", ".join(name for name, lost in zip(outputs, losses, strict=True) if lost),
        "n": int(present.sum()),
    }  # fmt: skip


def baseline_tau_table(group: Group) -> pd.DataFrame:
    """Kendall's tau (b) between the methods' order by mean under two baselines, for every pair of baselines.

    Returns
    -------
    DataFrame
        Columns `TAU_COLUMNS`: `k` methods at layers, on `n` cases; 1 is the same order, NaN where one baseline has no
        order. Empty for groups without such metrics.
    """
    rows: list[dict[str, Any]] = []
    for name, outputs in families(group).items():
        entries, values = baseline_values(group, outputs)
        if len(entries) < 2:
            continue
        average = np.stack([means(values[:, i]) for i in range(len(entries))]).round(9)  # equal maps tie
        n = int(np.isfinite(values).all(axis=(1, 2)).sum())
        for (i, first), (j, second) in combinations(enumerate(outputs), 2):
            tau = float(kendalltau(average[:, i], average[:, j]).statistic)
            row = {"metric": name, "baseline": first, "other_baseline": second, "tau": round(tau, 6)}
            rows.append({**row, "k": len(entries), "n": n})
    return table_of(group, rows, TAU_COLUMNS)


def baseline_distance_table(group: Group) -> pd.DataFrame:
    """How far the network sees pictures move when part of them becomes each baseline, by layer.

    Returns
    -------
    DataFrame
        Columns `DISTANCE_COLUMNS`: mean of the metric `baseline_distance` with its 95 % interval (bootstrap over
        images) on `n` cases. It is the same for all methods at a layer. Empty for groups without that metric.
    """
    rows: list[dict[str, Any]] = []
    firsts = {entry.layer: entry for entry in reversed(group.entries)}
    for layer in group.layers:
        for baseline, output in by_baseline(group).get(DISTANCE, {}).items():
            values = group.values(firsts[layer], output)
            if not np.isfinite(values).any():
                continue
            drawn = resampled_means(values[:, None], group.images, group.image_count, None, RESAMPLES, 0)
            low, high = (float(bound[0]) for bound in percentile_interval(drawn))
            row = {"layer": layer, "baseline": baseline, "distance": float(means(values[:, None])[0])}
            rows.append({**row, "ci_low": low, "ci_high": high, "n": int(np.isfinite(values).sum())})
    return table_of(group, rows, DISTANCE_COLUMNS)
