"""Do the methods differ at all, and do the metrics agree? Friedman's test with ranks, and Kendall's tau.

Both look at methods at layers side by side, on the images for which all of them have a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from bench.grid import shown
from bench.groups import Entry, Group
from bench.statistics import Array, cluster_means

RANK_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "average_rank", "critical_difference", "n", "k",
    "chi_square", "p", "protocol",
]  # fmt: skip
AGREEMENT_COLUMNS = [
    "dataset", "model", "metric", "other_metric", "tau", "p", "k", "tau_within", "n", "protocol",
]  # fmt: skip
# Images whose pairs of methods are compared at a time; bounds the memory.
_BLOCK = 2000


@dataclass(frozen=True, eq=False)
class Ranking:
    """Friedman's test of one metric.

    Attributes
    ----------
    average : ndarray, shape (k,)
        Average rank of each method over the images, 1 is best; ties share the mean of their ranks.
    chi_square, p : float
        Friedman's statistic, corrected for ties, and its p with k - 1 degrees of freedom; NaN and 1 where all
        images rank all methods equal.
    critical_difference : float
        Nemenyi's at level 0.05: methods whose average ranks are closer are not told apart.
    n : int
        Images.
    """

    average: Array
    chi_square: float
    p: float
    critical_difference: float
    n: int


def rank_methods(values: Array, higher_is_better: bool, level: float = 0.05) -> Ranking:
    """Friedman test with average ranks and Nemenyi's critical difference (Demsar 2006, section 3.2.2).

    Parameters
    ----------
    values : ndarray, shape (n, k)
        n independent images (blocks), k >= 2 methods, finite.
    higher_is_better : bool
    level : float
        Significance level of the critical difference.

    Returns
    -------
    Ranking
    """
    n, k = values.shape
    # Values equal up to rounding get one rank; else noise would decide between equal maps.
    scale = np.abs(values).max() or 1.0
    ranks = stats.rankdata(np.round((-values if higher_is_better else values) / scale, 6), axis=1)
    average = ranks.mean(axis=0)
    spread = ((ranks - (k + 1) / 2) ** 2).sum() / (n * (k - 1))
    # With ties this is Friedman's statistic with its usual correction (Conover 1999, section 5.8).
    chi_square = float(n * ((average - (k + 1) / 2) ** 2).sum() / spread) if spread > 0 else float("nan")
    p = float(stats.chi2.sf(chi_square, k - 1)) if spread > 0 else 1.0
    critical = float(stats.studentized_range.ppf(1 - level, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n)))
    return Ranking(average, chi_square, p, critical, n)


def complete_images(group: Group, output: str) -> Array:
    """Values per image (mean over its cases) and entry, of the images that all entries have: (n, k)."""
    values = np.stack([group.values(entry, output) for entry in group.entries], axis=1)
    values[~np.isfinite(values).all(axis=1)] = np.nan
    averages = cluster_means(values, group.images)
    return averages[np.isfinite(averages).all(axis=1)]


def ranked_outputs(group: Group) -> list[str]:
    """Choose the outputs of the printed table that have a direction and are values of cases (class means are not)."""
    columns = [column for column in shown(group) if column.better is not None]
    return [column.metric for column in columns if column.metric in group.outputs]


def ranks_table(group: Group) -> pd.DataFrame:
    """Average ranks and Friedman's test of every metric of the printed table.

    Parameters
    ----------
    group : Group

    Returns
    -------
    DataFrame
        Columns `RANK_COLUMNS`; `n` images, `k` methods at layers. A metric for which fewer than two
        images or two methods have values is left out.
    """
    rows = []
    for output in ranked_outputs(group):
        values = complete_images(group, output)
        if min(values.shape) < 2:
            continue
        found = rank_methods(values, bool(group.higher_is_better(output)))
        for entry, average in zip(group.entries, found.average, strict=True):
            row = {"layer": entry.layer, "method": entry.method, "metric": output, "average_rank": average}
            row |= {"critical_difference": found.critical_difference, "n": found.n, "k": len(group.entries)}
            rows.append(row | {"chi_square": found.chi_square, "p": found.p})
    table = pd.DataFrame(rows, columns=RANK_COLUMNS)
    table["dataset"], table["model"], table["protocol"] = group.dataset, group.model, group.protocol
    return table


def agreement_table(group: Group) -> pd.DataFrame:
    """Kendall's tau-b between every two metrics of the printed table.

    Parameters
    ----------
    group : Group

    Returns
    -------
    DataFrame
        Columns `AGREEMENT_COLUMNS`. `tau` compares the order of the k methods at layers by their means
        over the images that all have (`p` tests it against 0), `tau_within` is the mean over images of
        tau between the orders within one image. Directions are aligned first: 1 means that both
        metrics put the methods in the same order of quality, -1 that one reverses the other.
    """
    outputs = ranked_outputs(group)
    signed = {}
    for output in outputs:
        values = np.stack([group.values(entry, output) for entry in group.entries], axis=1)
        signed[output] = cluster_means(values if group.higher_is_better(output) else -values, group.images)
    rows = []
    for i, first in enumerate(outputs):
        for second in outputs[i + 1 :]:
            both = np.isfinite(signed[first]).all(axis=1) & np.isfinite(signed[second]).all(axis=1)
            one, two = signed[first][both], signed[second][both]
            if not len(one) or len(group.entries) < 2:
                continue
            found = stats.kendalltau(steady(one.mean(axis=0)), steady(two.mean(axis=0)))
            row = {"metric": first, "other_metric": second, "tau": found.statistic, "p": found.pvalue}
            row |= {"k": len(group.entries), "tau_within": mean_tau(one, two), "n": len(one)}
            rows.append(row)
    table = pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)
    table["dataset"], table["model"], table["protocol"] = group.dataset, group.model, group.protocol
    return table


def steady(values: Array) -> Array:
    """Values rounded to a millionth of the largest, so that noise breaks no tie."""
    scale = np.abs(values).max() or 1.0
    return np.asarray(np.round(values / scale, 6), dtype=np.float64)


def mean_tau(first: Array, second: Array) -> float:
    """Mean over rows of Kendall's tau-b between the rows of two arrays (n, k); rows that are all ties are left out."""
    k = first.shape[1]
    left, right = np.triu_indices(k, 1)
    total, number = 0.0, 0
    for start in range(0, len(first), _BLOCK):
        signs = []
        for values in (first[start : start + _BLOCK], second[start : start + _BLOCK]):
            scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(float).tiny)
            values = np.round(values / scale, 6)
            signs.append(np.sign(values[:, left] - values[:, right]))
        norm = np.sqrt((signs[0] ** 2).sum(axis=1) * (signs[1] ** 2).sum(axis=1))
        kept = norm > 0
        total += float(((signs[0] * signs[1]).sum(axis=1)[kept] / norm[kept]).sum())
        number += int(kept.sum())
    return total / number if number else float("nan")


def cliques(average: Array, critical: float) -> list[tuple[int, int]]:
    """Longest runs of methods, in order of rank, that the critical difference does not tell apart.

    Parameters
    ----------
    average : ndarray, shape (k,)
        Average ranks, ascending.
    critical : float

    Returns
    -------
    list of (first, last)
        Indices, both ends included; runs of one method and runs inside another are left out.
    """
    runs: list[tuple[int, int]] = []
    for first in range(len(average)):
        last = int(np.searchsorted(average, average[first] + critical, side="right")) - 1
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs


def ranked_entries(group: Group, table: pd.DataFrame, output: str) -> tuple[list[Entry], Array, float]:
    """Entries of one metric from best to worst, their average ranks and the critical difference."""
    part = table[table["metric"] == output]
    order = np.argsort(part["average_rank"].to_numpy(), kind="stable")
    lookup = {(entry.layer, entry.method): entry for entry in group.entries}
    entries = [lookup[row.layer, row.method] for row in part.iloc[order].itertuples()]
    return entries, part["average_rank"].to_numpy()[order], float(part["critical_difference"].iloc[0])
