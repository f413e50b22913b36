"""Average ranks of the methods, and whether the metrics agree on their order (Kendall's tau): both describe only.

Both look at methods at layers side by side, on the images for which all of them have a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bench.analysis.groups import Group
from bench.analysis.statistics import Array, cluster_means
from bench.analysis.tables import shown_columns, table_of

RANK_COLUMNS = ["dataset", "model", "layer", "method", "metric", "average_rank", "n", "k", "protocol"]
AGREEMENT_COLUMNS = [
    "dataset", "model", "metric", "other_metric", "tau", "p", "k", "tau_within", "n", "protocol",
]  # fmt: skip
# Images whose pairs of methods are compared at a time; bounds the memory.
_BLOCK = 500


def average_ranks(values: Array, higher_is_better: bool) -> Array:
    """Average rank (k,) of k methods over n images, from finite values (n, k): 1 is best, ties share their ranks."""
    # Values equal up to rounding get one rank; else noise would decide between equal maps.
    scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(float).tiny)
    whole = np.rint((-values if higher_is_better else values) / scale * 1e6)
    return np.asarray(stats.rankdata(whole, axis=1).mean(axis=0))


def ranked(group: Group, output: str) -> NDArray[np.bool_]:
    """Which entries are ranked by an output: those that have values, and whose maps are mostly not degenerate."""
    return np.array([e.ranked and bool(np.isfinite(group.values(e, output)).any()) for e in group.entries])


def columns_of(group: Group, output: str) -> Array:
    """One output of all entries, shape (cases, entries)."""
    return np.stack([group.values(entry, output) for entry in group.entries], axis=1)


def complete_images(group: Group, output: str) -> Array:
    """Values per image (mean over its cases) and ranked entry, of the images that all of these have: (n, k)."""
    values = columns_of(group, output)[:, ranked(group, output)]
    values[~np.isfinite(values).all(axis=1)] = np.nan
    averages = cluster_means(values, group.images)
    return averages[np.isfinite(averages).all(axis=1)]


def ranked_outputs(group: Group) -> list[str]:
    """Choose the outputs of the printed table that have a direction and are values of cases (class means are not)."""
    columns = [column for column in shown_columns(group) if column.better is not None]
    return [column.metric for column in columns if column.metric in group.outputs]


def ranks_table(group: Group) -> pd.DataFrame:
    """Average rank of every method by every metric of the printed table, columns `RANK_COLUMNS`.

    `n` images, `k` methods at layers. A metric for which fewer than two images or two methods have values is left out,
    and so is a method whose maps are mostly degenerate.
    """
    rows = []
    for output in ranked_outputs(group):
        values = complete_images(group, output)
        if min(values.shape) < 2:
            continue
        averages = average_ranks(values, bool(group.higher_is_better(output)))
        for at, average in zip(np.flatnonzero(ranked(group, output)), averages, strict=True):
            entry, about = group.entries[at], {"metric": output, "n": len(values), "k": values.shape[1]}
            rows.append({"layer": entry.layer, "method": entry.method, "average_rank": average, **about})
    return table_of(group, rows, RANK_COLUMNS)


def agreement_table(group: Group) -> pd.DataFrame:
    """Kendall's tau-b between every two metrics of the printed table, columns `AGREEMENT_COLUMNS`.

    `tau` compares the order of the k methods at layers by their means over the images that all have (`p` tests it
    against 0), `tau_within` is the mean over images of tau between the orders within one image. Directions are aligned
    first: 1 means that both metrics put the methods in the same order of quality, -1 that one reverses the other.
    """
    outputs = ranked_outputs(group)
    signed, rows = [], []
    for output in outputs:
        values = columns_of(group, output)
        signed.append(cluster_means(values if group.higher_is_better(output) else -values, group.images))
    measured = [ranked(group, output) for output in outputs]
    within: dict[bytes, Array] = {}
    used = np.zeros(0, dtype=bool)
    for i, j in combinations(range(len(outputs)), 2):
        entries = measured[i] & measured[j]
        if entries.sum() < 2:
            continue
        if not np.array_equal(entries, used):  # nearly always once: all entries have all outputs
            used, kept = entries, [values[:, entries] for values in signed]
            whole = [np.isfinite(values).all(axis=1) for values in kept]
        both = whole[i] & whole[j]
        if not both.any():
            continue
        if entries.tobytes() not in within:
            within[entries.tobytes()] = mean_taus(kept)
        tau = stats.kendalltau(*(steady(values[both].mean(axis=0)) for values in (kept[i], kept[j])))
        row = {"metric": outputs[i], "other_metric": outputs[j], "tau": tau.statistic, "p": tau.pvalue}
        rows.append(row | {"k": len(kept[i][0]), "tau_within": within[entries.tobytes()][i, j], "n": int(both.sum())})
    return table_of(group, rows, AGREEMENT_COLUMNS)


def steady(values: Array) -> Array:
    """Values rounded to a millionth of the largest, so that noise breaks no tie."""
    return np.asarray(np.round(values / (np.abs(values).max() or 1.0), 6), dtype=np.float64)


def mean_taus(values: Sequence[Array]) -> Array:
    """Mean over rows of Kendall's tau-b between the same rows of every two of M arrays (n, k): (M, M).

    Rows count for a pair of arrays where both are finite and neither is all ties; NaN where no row counts.
    """
    total, number = np.zeros((len(values), len(values))), np.zeros((len(values), len(values)))
    for start in range(0, len(values[0]) if values else 0, _BLOCK):
        signs = np.stack([_signs(part[start : start + _BLOCK]).T for part in values], axis=1).astype(np.float32)
        agree = signs @ signs.transpose(0, 2, 1)  # whole numbers, exact; (rows, M, M)
        untied = np.diagonal(agree, axis1=1, axis2=2).astype(np.float64)
        norm = np.sqrt(untied[:, :, None] * untied[:, None, :])
        total += np.divide(agree, norm, out=np.zeros_like(norm), where=norm > 0).sum(axis=0)
        number += (norm > 0).sum(axis=0)
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)


def _signs(values: Array) -> NDArray[np.int8]:
    """Signs (pairs, n) of the differences of every two of k columns (n, k).

    Differences below a millionth of the row's largest value are ties, and so are all of a row where a value is missing.
    """
    values = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, 0.0)
    scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.finfo(float).tiny)
    whole = np.ascontiguousarray(np.rint(values / scale * 1e6).astype(np.int32).T)
    above = [(whole[i + 1 :] > column).view(np.int8) for i, column in enumerate(whole)]
    return np.concatenate(above) - np.concatenate([(whole[i + 1 :] < x).view(np.int8) for i, x in enumerate(whole)])
