"""Parts of results folders: what each holds, its rows as arrays, and which version of a method or metric counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bench.store.folders import Folder
from bench.store.parts import read_part

log = logging.getLogger(__name__)

T = TypeVar("T")
Place = tuple[str, str]  # method and layer
THREADS, AHEAD = 2, 64  # parts that are read at a time, and before anyone uses them


OLDER = "left out: results of %s of an earlier version; the newest are shown"
# A folder of maps that was changed, or a map fused over other layers or scales.
OTHERS = "left out: other results that are also called %s, from other maps; rename one, or use another out="


@dataclass(frozen=True, eq=False)
class Part:
    """What a part holds, without its rows: entries by cases, entry by entry.

    Attributes
    ----------
    entries : list of dict
        As in the note, without ``maps`` and ``seconds``; equal entries of all parts are one object.
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
    seconds: list[dict[str, float]]
    metrics: dict[str, dict[str, Any]]
    made: dict[str, Any]
    skipped: list[dict[str, Any]]

    def array(self, column: pa.ChunkedArray) -> NDArray[Any]:
        """Column with one value a row as an array (entries, cases)."""
        return np.asarray(column.to_numpy()).reshape(len(self.entries), len(self.cases))

    def curves(self, column: pa.ChunkedArray) -> NDArray[np.float32]:
        """Column of lists as an array (entries, cases, L), NaN where a list is not as long as the longest."""
        lists = column.combine_chunks()
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        kept = lengths == lengths.max(initial=0)
        flat = (lists if kept.all() else lists.filter(pa.array(kept))).flatten().to_numpy(zero_copy_only=False)
        values = np.full((len(lists), int(lengths.max(initial=0))), np.nan, dtype=np.float32)
        values[kept] = flat.reshape(-1, values.shape[1]) if flat.size else np.nan
        return values.reshape(len(self.entries), len(self.cases), values.shape[1])


@dataclass(frozen=True, eq=False)
class Newest:
    """Which keys count: one for each method and layer, and one for each metric's label."""

    entries: dict[Place, str]
    metrics: dict[str, str]

    def entries_of(self, part: Part) -> list[int]:
        """Which of a part's entries count."""
        return [i for i, entry in enumerate(part.entries) if self.entries.get(place_of(entry)) == entry["key"]]

    def metrics_of(self, part: Part) -> list[str]:
        """Which of a part's metrics count."""
        return [label for label, node in part.metrics.items() if self.metrics.get(label) == node["key"]]


def newest_of(parts: Sequence[Part], wanted: Collection[str] = ()) -> Newest:
    """Choose the keys of the highest version; of equal versions a wanted key, else that of the last part."""
    entries = ((place_of(e), e["version"], e["key"]) for part in parts for e in part.entries)
    metrics = ((label, node["version"], node["key"]) for part in parts for label, node in part.metrics.items())
    return Newest(highest(entries, wanted), highest(metrics, wanted))


def highest(versions: Iterable[tuple[Any, int, str]], wanted: Collection[str] = ()) -> dict[Any, str]:
    """Key of the highest version of each label, from (label, version, key); of equal ones a wanted, else the last."""
    best: dict[Any, tuple[int, bool, str]] = {}
    older, others = set[Any](), set[Any]()
    for label, version, key in versions:
        known, this = best.get(label), (version, key in wanted, key)
        if known and known[2] != key:
            (others if known[0] == version else older).add(label)
        if not known or this[:2] >= known[:2]:
            best[label] = this
    for labels, text in ((older, OLDER), (others, OTHERS)):
        for name in sorted(label if isinstance(label, str) else "@".join(label) for label in labels):
            log.warning(text, name)
    return {label: key for label, (_, _, key) in best.items()}


def place_of(entry: dict[str, Any]) -> Place:
    """Return the method and layer of an entry of a note."""
    return entry["method"], entry["layer"]


def parts_of(folders: Sequence[Folder]) -> list[Path]:
    """All parts of some folders, in the order in which later ones count."""
    return sorted((path for folder in folders for path in folder.parts), key=lambda path: (path.name, path))


def read_parts(
    paths: Sequence[Path],
    columns: Callable[[pa.Schema], list[str]] | None,
    convert: Callable[[Part, pa.Table], T],
    protocol: str | None = None,
) -> Iterator[T]:
    """Read parts in their order, a few at a time; damaged ones and those of another protocol are named and left out.

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
            if protocol not in (None, note["protocol"]):
                raise ValueError(f"{path} belongs to another protocol")
            part = part_of(path, note, shared)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("left out: %s: %s", path, " ".join(str(error).replace(f"{path} ", "").split())[:200])
            return None
        return convert(part, table)

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), AHEAD):
            for result in pool.map(read, paths[start : start + AHEAD]):
                if result is not None:
                    yield result


def part_of(path: Path, note: dict[str, Any], shared: dict[Hashable, Any]) -> Part:
    """Part from its note; what is equal in many parts is kept in `shared` once."""
    about = [{key: value for key, value in e.items() if key not in ("maps", "seconds")} for e in note["entries"]]
    made = {**note["made"], "batch": note["batch"], "score_batch": note["score_batch"]}
    for node in note["metrics"].values():
        check_kinds(node, {"name": str, "version": int, "parameters": dict, "about": dict})
        about_kinds = {"higher_is_better": dict, "show": list, "class_mean": list, "dataset_statistics": dict}
        check_kinds(
            node["about"], {key: kind for key, kind in about_kinds.items() if node["about"].get(key) is not None}
        )
    for entry in note["entries"]:
        kinds = {"name": str, "category": str, "version": int, "index": int, "parameters": dict, "seconds": dict}
        check_kinds(entry, kinds)
        check_kinds(entry["seconds"], dict.fromkeys(entry["seconds"], (int, float)))
    keys = tuple((label, node["key"]) for label, node in note["metrics"].items())
    return Part(
        path=path,
        chunk=note["chunk"],
        cases=note["cases"],
        entries=[shared.setdefault((e["key"], *place_of(e)), e) for e in about],
        seconds=[entry["seconds"] for entry in note["entries"]],
        metrics=shared.setdefault(keys, note["metrics"]),
        made=shared.setdefault(json.dumps(made, default=str), made),
        skipped=note["skipped"],
    )


def check_kinds(node: dict[str, Any], kinds: dict[str, Any]) -> None:
    """Raise ValueError unless a node of a note has these keys, with values of these kinds."""
    for key, kind in kinds.items():
        if not isinstance(node.get(key), kind):
            raise ValueError(f"{key} is {str(node.get(key))[:40]} in its note")


def metric_of(output: str) -> tuple[str, str]:
    """Label of the metric and name of the output of ``<metric>.<output>``; parameters in the label may have dots."""
    metric, _, name = output.rpartition(".")
    return metric, name
