"""Parts of a protocol -> one group: newest versions, later parts over earlier ones, cases sorted by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.analysis.groups import Curves, Entry, Group, entry_order
from bench.analysis.parts import (
    Part,
    is_curve,
    is_value,
    metric_of,
    newest_entries,
    newest_metrics,
    read_parts,
)
from bench.analysis.statistics import Array
from bench.runs.store import Folder

CASE_COLUMNS = ["image_id", "class_name", "n_instances", "box_area", "probability"]
REASONS = ("", "zero", "constant", "nonfinite", "other")  # why a map is degenerate; "" where it is not
# The curves that figures show stay in memory up to so many bytes in all, which saves reading the parts again.
HELD = 2**30

Place = tuple[str, str]  # method and layer


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of a part as arrays: of cases (C,), of values (entries, C), of curves (entries, C, L)."""

    part: Part
    about: dict[str, list[Any]]
    degenerate: NDArray[Any]
    values: dict[str, Array]
    curves: Curves


@dataclass(frozen=True, eq=False)
class _Layout:
    """What goes where: the place of each entry, case, output and metric in the group's arrays."""

    entries: dict[Place, dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    cases: dict[str, int]
    outputs: list[str]

    def places(self, part: Part) -> tuple[list[int], NDArray[np.intp], NDArray[np.intp]]:
        """Which of a part's entries count, and the places of these and of its cases in the group; -1: left out."""
        order = {place: i for i, place in enumerate(self.entries)}
        own = [i for i, e in enumerate(part.entries) if self.entries.get(place_of(e), {}).get("key") == e["key"]]
        rows = np.array([order[place_of(part.entries[i])] for i in own], dtype=np.intp)
        return own, rows, np.array([self.cases.get(case, -1) for case in part.cases], dtype=np.intp)


def place_of(entry: dict[str, Any]) -> Place:
    """Give the method and layer of an entry of a note."""
    return str(entry["method"]), str(entry["layer"])


def load_group(
    *folders: Folder,
    cases: Collection[str] | None = None,
    entries: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
) -> Group | None:
    """Read all values of a protocol.

    Of the same entry, metric and case in two parts the part that sorts last counts. Where a method or metric of one
    label occurs in several versions only the highest counts. Damaged parts are named in a warning and left out.

    Parameters
    ----------
    *folders : Folder
        Results folders of one protocol; several where results lie below several roots.
    cases, entries, metrics : collection of str, optional
        Only these case ids, keys of entries, keys of metrics.

    Returns
    -------
    Group or None
        None where no case can be read. Maps are not read; the curves that figures show are if they fit into
        `HELD` bytes. Memory: 16 bytes a value and twice the curves at most.
    """
    lengths: dict[str, int] = {}
    blocks = read_blocks(folders, lengths)
    layout = lay_out(blocks, cases, entries, metrics)
    if not layout.entries or not layout.cases:
        return None
    about = case_table(blocks, layout)
    parts = [block.part for block in blocks]
    first = folders[0].protocol
    return Group(
        dataset=str(first["dataset"]),
        model=str(first["model"]),
        protocol=str(first["key"]),
        parameters=first["parameters"],
        folders=list(folders),
        parts=parts,
        cases=about,
        images=pd.factorize(about["image_id"], sort=True)[0].astype(np.int64),
        classes=pd.factorize(about["class_name"], sort=True)[0].astype(np.int64),
        entries=fill(blocks, layout),
        outputs=layout.outputs,
        metrics=layout.metrics,
        curves={name: length for name, length in sorted(lengths.items()) if metric_of(name)[0] in layout.metrics},
    )


def read_blocks(folders: Sequence[Folder], lengths: dict[str, int]) -> list[_Block]:
    """Read each part once; `lengths` is filled with the number of points of each curve."""
    held = True

    def columns(schema: pa.Schema) -> list[str]:
        curves = [f.name for f in schema if is_curve(f)]
        wanted = [name for name in curves if name not in lengths or (held and name.endswith(".curve"))]
        return [*CASE_COLUMNS, "degenerate", *(f.name for f in schema if is_value(f)), *wanted]

    def convert(part: Part, table: pa.Table) -> _Block:
        fields = {field.name: field for field in table.schema}
        curves = {name: part.curves(table[name]) for name, field in fields.items() if is_curve(field)}
        for name, array in curves.items():
            if array.size:
                lengths.setdefault(name, array.shape[2])
        return _Block(
            part=part,
            about={name: table[name].slice(0, len(part.cases)).to_pylist() for name in CASE_COLUMNS},
            degenerate=part.array(reason_codes(table["degenerate"])),
            values={name: part.array(table[name]) for name, field in fields.items() if is_value(field)},
            curves={name: array for name, array in curves.items() if held and name.endswith(".curve") and array.size},
        )

    paths = sorted((path for folder in folders for path in folder.parts), key=lambda path: (path.name, path))
    blocks, size = [], 0
    for block in read_parts(paths, columns, convert):
        blocks.append(block)
        size += sum(array.nbytes for array in block.curves.values())
        if held and size > HELD:
            held = False
        if not held:
            for earlier in blocks if size else ():
                earlier.curves.clear()
            size = 0
    return blocks


def reason_codes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Place of each reason in `REASONS`."""
    column = column.cast(pa.string()).fill_null("")
    return pc.index_in(column, pa.array(REASONS)).fill_null(REASONS.index("other")).cast(pa.int8())


def lay_out(
    blocks: Sequence[_Block],
    cases: Collection[str] | None,
    entries: Collection[str] | None,
    metrics: Collection[str] | None,
) -> _Layout:
    """Choose what counts, in the order of the table."""
    parts = [block.part for block in blocks]
    entry_keys, metric_keys = newest_entries(parts), newest_metrics(parts)
    chosen: dict[Place, dict[str, Any]] = {}
    known: dict[str, dict[str, Any]] = {}
    for part in parts:
        for entry in part.entries:
            place = place_of(entry)
            if entry_keys[place] == entry["key"] and (entries is None or entry["key"] in entries):
                chosen[place] = entry
        for label, node in part.metrics.items():
            if metric_keys[label] == node["key"] and (metrics is None or node["key"] in metrics):
                known[label] = node
    ordered = dict(sorted(chosen.items(), key=lambda item: entry_order(item[1])))
    keys = {entry["key"] for entry in ordered.values()}
    holding = [part for part in parts if any(entry["key"] in keys for entry in part.entries)]
    ids = {case for part in holding for case in part.cases if cases is None or case in cases}
    outputs = {name for block in blocks for name in block.values if metric_of(name)[0] in known}
    return _Layout(ordered, known, {case: i for i, case in enumerate(sorted(ids))}, sorted(outputs))


def case_table(blocks: Sequence[_Block], layout: _Layout) -> pd.DataFrame:
    """Make the table of cases, sorted by id."""
    rows: dict[str, tuple[Any, ...]] = {}
    for block in blocks:
        if not rows.keys() >= set(block.part.cases):
            rows |= dict(zip(block.part.cases, zip(*block.about.values(), strict=True), strict=True))
    ordered = [(case, *rows[case]) for case in layout.cases]
    return pd.DataFrame(ordered, columns=["case_id", *CASE_COLUMNS])


def fill(blocks: list[_Block], layout: _Layout) -> list[Entry]:
    """Put every block's values into arrays over all entries and cases; a block's arrays are let go after that."""
    size = (len(layout.entries), len(layout.cases))
    labels = list(layout.metrics)
    place = {output: i for i, output in enumerate(layout.outputs)}
    values = np.full((*size, len(place)), np.nan)
    curves: Curves = {}
    reasons = np.full(size, -1, dtype=np.int8)
    measured = np.zeros((*size, len(labels)), dtype=bool)
    seconds: list[Counter[str]] = [Counter() for _ in layout.entries]
    for block in blocks:
        own, rows, columns = layout.places(block.part)
        kept = np.flatnonzero(columns >= 0)
        source: Any = np.ix_(np.array(own, dtype=np.intp), kept)
        target: Any = np.ix_(rows, columns[kept])
        reasons[target] = block.degenerate[source]
        counting = {
            label for label, node in block.part.metrics.items()
            if label in layout.metrics and layout.metrics[label]["key"] == node["key"]
        }  # fmt: skip
        for label in counting:
            measured[(*target, labels.index(label))] = True
        for name, array in block.values.items():
            if metric_of(name)[0] in counting:
                values[(*target, place[name])] = array[source]
        for name, points in block.curves.items():
            if metric_of(name)[0] in counting:
                if name not in curves:
                    curves[name] = np.full((*size, points.shape[2]), np.nan, dtype=np.float32)
                if curves[name].shape[2] == points.shape[2]:
                    curves[name][target] = points[source]
        for i, row in zip(own, rows, strict=True):
            seconds[row].update(block.part.seconds[i])
        block.values.clear()
        block.curves.clear()
    return [
        entry_of(about, values[i], reasons[i], dict(zip(labels, measured[i].sum(axis=0).tolist(), strict=True)),
                 seconds[i], {name: array[i] for name, array in curves.items()})
        for i, about in enumerate(layout.entries.values())
    ]  # fmt: skip


def entry_of(
    about: dict[str, Any],
    values: Array,
    reasons: NDArray[Any],
    measured: dict[str, int],
    seconds: Counter[str],
    curves: Curves,
) -> Entry:
    """One row of the table."""
    counts = np.bincount(reasons[reasons >= 0], minlength=len(REASONS)).tolist()
    own = {label: number for label, number in measured.items() if number}
    return Entry(
        key=str(about["key"]),
        method=str(about["method"]),
        name=str(about.get("name", about["method"])),
        layer=str(about["layer"]),
        category=str(about.get("category", "other")),
        parameters=about.get("parameters") or {},
        version=int(about.get("version", 0)),
        index=int(about.get("index", 0)),
        values=values,
        rows=sum(counts),
        measured=own,
        degenerate={reason: number for reason, number in zip(REASONS, counts, strict=True) if reason and number},
        seconds={stage: float(value) for stage, value in seconds.items()},
        curves={name: array for name, array in curves.items() if metric_of(name)[0] in own},
    )
