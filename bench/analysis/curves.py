"""Curves of cases: read as arrays, and the statistics of a whole data set that are functions of their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.analysis.groups import Entry, Group
from bench.analysis.reading import matrix, metric_columns
from bench.analysis.statistics import Array, means, resampled_means
from bench.named import named_function
from bench.runs.store import read_tables

# Columns of a curve that are widened to float64 at a time.
_COLUMNS = 256


@dataclass(frozen=True, eq=False)
class Statistic:
    """One statistic of the data set for one entry: its value, the same in every resample (R,), and its cases."""

    value: float
    resampled: Array
    present: NDArray[np.bool_]


def read_curves(group: Group, entry: Entry, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Curves of an entry, in one pass over its files, straight into arrays.

    Parameters
    ----------
    group : Group
    entry : Entry
    names : sequence of str
        List columns.

    Returns
    -------
    dict of ndarray, shape (cases, L), float32
        In the order of the group's cases, whatever the files' order; NaN where a case is not there or has no curve of
        the usual length. Columns that the run does not have are left out.
    """
    found = {name: entry.curves[name] for name in names if name in entry.curves}
    names = [name for name in names if name not in found]
    places = {case_id: i for i, case_id in enumerate(group.cases["case_id"].tolist())}
    for _, table in read_tables(entry.run, ["case_id", *names]) if names else ():
        at = np.array([places.get(case_id, -1) for case_id in table.column("case_id").to_pylist()])
        for name in [name for name in names if name in table.column_names]:
            curves = matrix(table.column(name).combine_chunks())
            if name not in found and curves.size:
                found[name] = np.full((len(places), curves.shape[1]), np.nan, dtype=np.float32)
            if name in found and curves.shape[1] == found[name].shape[1]:
                found[name][at[at >= 0]] = curves[at >= 0]
    return found


def mean_curves(
    curve: NDArray[np.float32], group: Group, present: NDArray[np.bool_] | slice, resamples: int, seed: int
) -> tuple[Array, Array]:
    """Mean (L,) of a curve over the cases present, and the same in every resample of the images (R, L)."""
    count = int(group.images.max()) + 1
    average, resampled = np.empty(curve.shape[1]), np.empty((resamples, curve.shape[1]))
    for start in range(0, curve.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        values = curve[present, part].astype(np.float64)
        average[part] = means(values)
        resampled[:, part] = resampled_means(values, group.images[present], count, None, resamples, seed)
    return average, resampled


def dataset_statistics(
    group: Group, entry: Entry, resamples: int, seed: int, only: NDArray[np.bool_] | None = None
) -> dict[str, Statistic]:
    """Statistics of the whole data set (best threshold, pixel average precision) of one entry.

    Each is a function of the means over cases of some curves, evaluated anew in each resample of the images: the
    threshold that is best in the resample counts there. Sums are taken in the order of the case ids, so that neither
    shards nor chunks nor their order show. Memory: 4 bytes a point of a curve and case of this entry.

    Parameters
    ----------
    group : Group
    entry : Entry
    resamples, seed : int
        Of the bootstrap over images.
    only : ndarray of bool, shape (cases,), optional
        Cases to look at; all that have the curves by default.

    Returns
    -------
    dict
        By ``<metric>.<name>``; without those whose curves no case has.
    """
    wanted = {name: [f"{name.partition('.')[0]}.{of}" for of in node["of"]] for name, node in group.statistics.items()}
    curves = read_curves(group, entry, sorted({column for columns in wanted.values() for column in columns}))
    found = {}
    for name, columns in wanted.items():
        if not all(column in curves for column in columns):
            continue
        finite = [np.isfinite(curves[column]).all(axis=1) for column in columns]
        present = np.logical_and.reduce([*finite, *([] if only is None else [only])])
        if not present.any():
            continue
        function = named_function(str(group.statistics[name]["function"]), "dataset_statistics")
        parts = [mean_curves(curves[column], group, present, resamples, seed) for column in columns]
        value = float(function([average for average, _ in parts]))
        resampled = np.asarray(function([drawn for _, drawn in parts]), dtype=np.float64)
        found[name] = Statistic(value, resampled, present)
    return found


def has_statistics(group: Group) -> bool:
    """Whether any run of the group holds curves of which the data set's statistics are functions."""
    wanted = {f"{name.partition('.')[0]}.{of}" for name, node in group.statistics.items() for of in node["of"]}
    return bool(wanted) and any(wanted & set(metric_columns(entry.run)[1]) for entry in group.entries)
