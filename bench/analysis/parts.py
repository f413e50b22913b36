"""Parts of results folders: what each holds, its rows as arrays, and which version of a method or metric counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.runs.store import read_part

log = logging.getLogger(__name__)

T = TypeVar("T")
THREADS, AHEAD = 2, 64  # parts that are read at a time, and before anyone uses them


@dataclass(frozen=True, eq=False)
class Part:
    """What a part holds, without its rows: entries by cases, entry by entry.

    Attributes
    ----------
    entries : list of dict
        As in the note, without ``maps`` and ``seconds``; equal entries of all parts are one object.
    maps : list of str
        Of each entry: for which cases, in their order, a map is kept (a word of 0 and 1).
    seconds : list of dict
        Of each entry.
    metrics : dict
        By label, as in the note.
    made : dict
        Command, versions, machine, batch sizes.
    """

    path: Path
    chunk: int
    cases: list[str]
    entries: list[dict[str, Any]]
    maps: list[str]
    seconds: list[dict[str, float]]
    metrics: dict[str, dict[str, Any]]
    made: dict[str, Any]
    skipped: list[dict[str, Any]]

    def array(self, column: pa.ChunkedArray) -> NDArray[Any]:
        """Column with one value a row as an array (entries, cases)."""
        return np.asarray(column.to_numpy()).reshape(len(self.entries), len(self.cases))

    def curves(self, column: pa.ChunkedArray) -> NDArray[np.float32]:
        """Column of lists as an array (entries, cases, L), see `matrix`."""
        values = matrix(column.combine_chunks())
        return values.reshape(len(self.entries), len(self.cases), values.shape[1])


def part_of(path: Path, note: dict[str, Any], shared: dict[Hashable, Any]) -> Part:
    """Part from its note; what is equal in many parts is kept in `shared` once."""

    def once(key: Hashable, value: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] = shared.setdefault(key, value)
        return known

    entries, own = note["entries"], ("maps", "seconds")
    made = {**note.get("made", {}), **{key: note.get(key, "?") for key in ("batch", "score_batch")}}
    return Part(
        path=path,
        chunk=int(note["chunk"]),
        cases=[str(case) for case in note["cases"]],
        entries=[
            once((e["key"], e["method"], e["layer"]), {key: value for key, value in e.items() if key not in own})
            for e in entries
        ],
        maps=[entry.get("maps", "") for entry in entries],
        seconds=[entry.get("seconds") or {} for entry in entries],
        metrics=once(tuple((label, node["key"]) for label, node in note["metrics"].items()), note["metrics"]),
        made=once(json.dumps(made, default=str), made),
        skipped=note.get("skipped") or [],
    )


def read_parts(
    paths: Sequence[Path], columns: Callable[[pa.Schema], list[str]] | None, convert: Callable[[Part, pa.Table], T]
) -> Iterator[T]:
    """Read parts in their order, a few at a time; damaged ones are named and left out.

    Parameters
    ----------
    paths : sequence of Path
    columns : callable, optional
        Which columns to read of a part with this schema; all by default.
    convert : callable
        What to make of a part and its rows; called in a thread.
    """
    shared: dict[Hashable, Any] = {}

    def read(path: Path) -> T | None:
        try:
            table, note = read_part(path, columns)
            part = part_of(path, note, shared)
            if len(table) != len(part.entries) * len(part.cases):
                raise ValueError(f"{path} is damaged: it has not one row for each of its entries and cases")
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            log.warning("left out: %s: %s", path, " ".join(str(error).replace(f"{path} ", "").split())[:200])
            return None
        return convert(part, table)

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), AHEAD):
            for result in pool.map(read, paths[start : start + AHEAD]):
                if result is not None:
                    yield result


def is_curve(field: pa.Field) -> bool:
    """Whether a column holds a metric's curves."""
    return "." in field.name and bool(pa.types.is_list(field.type))


def is_value(field: pa.Field) -> bool:
    """Whether a column holds a metric's values, one a case."""
    return "." in field.name and not pa.types.is_list(field.type)


def metric_of(output: str) -> tuple[str, str]:
    """Label of the metric and name of the output of ``<metric>.<output>``; parameters in the label may have dots."""
    metric, _, name = output.rpartition(".")
    return metric, name


def newest(versions: Iterable[tuple[Hashable, int, str]]) -> dict[Any, str]:
    """Choose the key that counts for each label: that of the highest version, of equal versions the last.

    Parameters
    ----------
    versions : iterable of (label, version, key)
        In the order of the parts.
    """
    best: dict[Any, tuple[int, str]] = {}
    keys: dict[Any, set[str]] = {}
    for label, version, key in versions:
        keys.setdefault(label, set()).add(key)
        if label not in best or version >= best[label][0]:
            best[label] = (version, key)
    for label in sorted((label for label, known in keys.items() if len(known) > 1), key=str):
        name = label if isinstance(label, str) else "@".join(map(str, label))
        log.warning("left out: results of %s of an earlier version; the newest are shown", name)
    return {label: key for label, (_, key) in best.items()}


def newest_entries(parts: Iterable[Part]) -> dict[tuple[str, str], str]:
    """Key that counts for each (method, layer)."""
    return newest(
        ((e["method"], e["layer"]), int(e.get("version", 0)), str(e["key"])) for part in parts for e in part.entries
    )


def newest_metrics(parts: Iterable[Part]) -> dict[str, str]:
    """Key that counts for each metric, by label."""
    return newest(
        (label, int(node.get("version", 0)), str(node["key"])) for part in parts for label, node in part.metrics.items()
    )


def matrix(column: pa.ListArray) -> NDArray[np.float32]:
    """Curves (rows, L) of a list column, NaN where a row has none or one of another length than the longest."""
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    longest = int(lengths.max(initial=0))
    kept = lengths == longest
    flat = (column if kept.all() else column.filter(pa.array(kept))).flatten().to_numpy(zero_copy_only=False)
    if kept.all():
        return flat.reshape(len(column), longest).astype(np.float32, copy=False)
    values = np.full((len(column), longest), np.nan, dtype=np.float32)
    values[kept] = flat.reshape(-1, longest)
    return values
