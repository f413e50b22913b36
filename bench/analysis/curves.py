"""Curves of cases: read as arrays, and the statistics of a whole data set that are functions of their means."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.analysis import loading
from bench.analysis.groups import Curves, Entry, Group
from bench.analysis.parts import Newest, Part, metric_of, place_of, read_parts
from bench.analysis.statistics import Array, means, resampled_means
from bench.options import named_function

_COLUMNS = 256  # of a curve that are widened to float64 at a time


@dataclass(frozen=True, eq=False)
class Statistic:
    """One statistic of the data set for one entry: its value, the same in every resample (R,), and its cases."""

    value: float
    resampled: Array
    present: NDArray[np.bool_]


def read_curves(group: Group, names: Collection[str], entries: Sequence[Entry]) -> dict[str, Curves]:
    """Curves of some entries: those in memory, the others in one pass over the parts.

    By the entry's label and the curve's name, ``<metric>.<output>``: arrays (cases, L) of float32 in the order of the
    group's cases, NaN where a case was not computed or has no curve of the usual length. Curves that an entry does not
    have are left out.
    """
    curves = {entry.label: {name: entry.curves[name] for name in names if name in entry.curves} for entry in entries}
    held = {name for entry in group.entries for name in entry.curves}
    missing = [name for name in names if name in group.curves and name not in held]
    if not missing:
        return curves
    rows = {(entry.method, entry.layer): entry for entry in entries}
    keys = {label: node["key"] for label, node in group.metrics.items()}
    newest = Newest({place: entry.key for place, entry in rows.items()}, keys)
    holding = [part.path for part in group.parts if newest.entries_of(part) and newest.metrics_of(part)]

    def convert(part: Part, table: pa.Table) -> tuple[Part, Curves]:
        own = set(newest.metrics_of(part))
        return part, {name: part.curves(table[name]) for name in table.column_names if metric_of(name)[0] in own}

    for part, arrays in read_parts(holding, lambda schema: missing, convert):
        at = np.array([group.places.get(case, -1) for case in part.cases])
        for i in newest.entries_of(part):
            own = curves[rows[place_of(part.entries[i])].label]
            for name, array in arrays.items():
                if array.shape[2] == group.curves[name]:
                    if name not in own:
                        own[name] = np.full((len(group.cases), array.shape[2]), np.nan, dtype=np.float32)
                    own[name][at[at >= 0]] = array[i][at >= 0]
    return curves


def each_entry(group: Group, names: Collection[str], entries: Sequence[Entry]) -> Iterator[tuple[Entry, Curves]]:
    """Each of these entries with its curves; of those not in memory, as many at a time as `HELD` bytes hold."""
    unread = [name for name in names if not any(name in entry.curves for entry in entries)]
    length = sum(group.curves.get(name, 0) for name in unread)
    size = max(1, loading.HELD // max(4 * length * len(group.cases), 1))
    for start in range(0, len(entries), size):
        block = entries[start : start + size]
        curves = read_curves(group, names, block)
        for entry in block:
            yield entry, curves.pop(entry.label)


def mean_curves(
    curve: NDArray[np.float32], group: Group, present: NDArray[np.bool_] | slice, resamples: int, seed: int
) -> tuple[Array, Array]:
    """Mean (L,) of a curve over the cases present, and the same in every resample of the images (R, L)."""
    average, resampled = np.empty(curve.shape[1]), np.empty((resamples, curve.shape[1]))
    for start in range(0, curve.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        values = curve[present, part].astype(np.float64)
        average[part] = means(values)
        resampled[:, part] = resampled_means(values, group.images[present], group.image_count, None, resamples, seed)
    return average, resampled


def statistics_of(
    group: Group, curves: Curves, resamples: int, seed: int, only: NDArray[np.bool_] | None = None
) -> dict[str, Statistic]:
    """Statistics of the whole data set (best threshold, pixel average precision) of one entry.

    Each is a function of the means over cases of some curves, evaluated anew in each resample of the images: the
    threshold that is best in the resample counts there. Sums are taken in the order of the case ids, so that neither
    shards nor parts nor their order show. `only` (cases,) says which cases to look at, by default all that have the
    curves. By ``<metric>.<name>``, without statistics whose curves no case has.
    """
    result = {}
    for name, columns in statistic_curves(group).items():
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
        result[name] = Statistic(value, resampled, present)
    return result


def statistic_curves(group: Group) -> dict[str, list[str]]:
    """Names of the curves that each statistic is a function of, without statistics whose curves nobody kept."""
    wanted = {name: [f"{metric_of(name)[0]}.{of}" for of in node["of"]] for name, node in group.statistics.items()}
    return {name: columns for name, columns in wanted.items() if all(column in group.curves for column in columns)}
