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
from bench.analysis.parts import Newest, Part, Place, metric_of, newest_of, parts_of, place_of, read_parts
from bench.analysis.statistics import Array
from bench.store.folders import Folder

CASE_COLUMNS = ["image_id", "class_name", "n_instances", "box_area", "probability"]
FROM_NOTE = ("key", "method", "name", "layer", "category", "parameters", "version", "index")
REASONS = ("", "zero", "constant", "nonfinite", "other")  # why a map is degenerate; "" where it is not
# The curves that figures show stay in memory up to so many bytes in all, which saves reading the parts again.
HELD = 2**30


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of a part as arrays: of cases (C,), of values (entries, C), of curves (entries, C, L)."""

    part: Part
    about: dict[str, list[Any]]
    degenerate: NDArray[Any]
    values: dict[str, Array]
    curves: Curves


def load_group(
    *folders: Folder,
    cases: Collection[str] | None = None,
    entries: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
    wanted: Collection[str] = (),
) -> Group | None:
    """Read all values of a protocol.

    Of the same entry, metric and case in two parts the part that sorts last counts. Where a method or metric of one
    label occurs in several versions only the highest counts; of one version, what is `wanted`. Damaged parts are named
    in a warning and left out.

    Parameters
    ----------
    *folders : Folder
        Results folders of one protocol; several where results lie below several roots.
    cases, entries, metrics : collection of str, optional
        Only these case ids, keys of entries, keys of metrics.
    wanted : collection of str
        Keys of entries that count where another has the same name, as those of a run that has just ended.

    Returns
    -------
    Group or None
        None where no case can be read. Without maps; with the curves that figures show if they fit into `HELD` bytes.
        Memory: 16 bytes a value and twice the curves at most.
    """
    lengths: dict[str, int] = {}
    blocks = read_blocks(folders, lengths)
    parts = [block.part for block in blocks]
    newest = newest_of(parts, wanted)
    counting = [part.entries[i] for part in parts for i in newest.entries_of(part)]
    chosen = {place_of(entry): entry for entry in counting if entries is None or entry["key"] in entries}
    chosen = dict(sorted(chosen.items(), key=lambda item: entry_order(item[1])))
    known = {label: part.metrics[label] for part in parts for label in newest.metrics_of(part)}
    known = {label: node for label, node in known.items() if metrics is None or node["key"] in metrics}
    newest = Newest({place: e["key"] for place, e in chosen.items()}, {name: n["key"] for name, n in known.items()})
    holding = [part for part in parts if newest.entries_of(part)]
    ids = sorted({case for part in holding for case in part.cases if cases is None or case in cases})
    if not ids:
        return None
    rows: dict[str, tuple[Any, ...]] = {}
    for block in blocks:
        if not rows.keys() >= set(block.part.cases):
            rows |= dict(zip(block.part.cases, zip(*block.about.values(), strict=True), strict=True))
    about = pd.DataFrame([(case, *rows[case]) for case in ids], columns=["case_id", *CASE_COLUMNS])
    outputs = sorted({name for block in blocks for name in block.values if metric_of(name)[0] in known})
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
        entries=fill(blocks, newest, chosen, ids, outputs),
        outputs=outputs,
        metrics=known,
        curves={name: length for name, length in sorted(lengths.items()) if metric_of(name)[0] in known},
    )


def read_blocks(folders: Sequence[Folder], lengths: dict[str, int]) -> list[_Block]:
    """Read each part once; `lengths` is filled with the number of points of each curve."""
    held = True

    def columns(schema: pa.Schema) -> list[str]:
        outputs = {field.name: pa.types.is_list(field.type) for field in schema if "." in field.name}
        curves = {name for name in outputs if name not in lengths or (held and name.endswith(".curve"))}
        return [
            *CASE_COLUMNS,
            "degenerate",
            *(name for name, listed in outputs.items() if not listed or name in curves),
        ]

    def convert(part: Part, table: pa.Table) -> _Block:
        outputs = {field.name: pa.types.is_list(field.type) for field in table.schema if "." in field.name}
        curves = {name: part.curves(table[name]) for name, listed in outputs.items() if listed}
        curves = {name: array for name, array in curves.items() if array.size}
        for name, array in curves.items():
            lengths.setdefault(name, array.shape[2])
        reasons = pc.index_in(table["degenerate"].cast(pa.string()).fill_null(""), pa.array(REASONS))
        return _Block(
            part=part,
            about={name: table[name].slice(0, len(part.cases)).to_pylist() for name in CASE_COLUMNS},
            degenerate=part.array(reasons.fill_null(REASONS.index("other")).cast(pa.int8())),
            values={name: part.array(table[name]) for name, listed in outputs.items() if not listed},
            curves={name: array for name, array in curves.items() if held and name.endswith(".curve")},
        )

    blocks, size = [], 0
    for block in read_parts(parts_of(folders), columns, convert, folders[0].protocol["key"]):
        blocks.append(block)
        size += sum(array.nbytes for array in block.curves.values())
        if size > HELD:
            held, size = False, 0
            for earlier in blocks:
                earlier.curves.clear()
    for block in blocks if not held else ():
        block.curves.clear()
    return blocks


def fill(
    blocks: list[_Block], newest: Newest, chosen: dict[Place, dict[str, Any]], cases: list[str], outputs: list[str]
) -> list[Entry]:
    """Put every block's values into arrays over all entries and cases; a block's arrays are let go after that."""
    size, labels = (len(chosen), len(cases)), list(newest.metrics)
    row_of, column_of = ({key: i for i, key in enumerate(keys)} for keys in (chosen, cases))
    place = {output: i for i, output in enumerate(outputs)}
    values = np.full((*size, len(place)), np.nan)
    curves: Curves = {}
    reasons = np.full(size, -1, dtype=np.int8)
    measured = np.zeros((*size, len(labels)), dtype=bool)
    seconds: list[Counter[str]] = [Counter() for _ in chosen]
    for block in blocks:
        part, own, counting = block.part, newest.entries_of(block.part), newest.metrics_of(block.part)
        rows = np.array([row_of[place_of(part.entries[i])] for i in own], dtype=np.intp)
        columns = np.array([column_of.get(case, -1) for case in part.cases], dtype=np.intp)
        kept = np.flatnonzero(columns >= 0)
        source: Any = np.ix_(np.array(own, dtype=np.intp), kept)
        target: Any = np.ix_(rows, columns[kept])
        reasons[target] = block.degenerate[source]
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
            seconds[row].update(part.seconds[i])
        block.values.clear()
        block.curves.clear()
    result = []
    for i, about in enumerate(chosen.values()):
        counts = np.bincount(reasons[i][reasons[i] >= 0], minlength=len(REASONS)).tolist()
        numbers = {
            label: number for label, number in zip(labels, measured[i].sum(axis=0).tolist(), strict=True) if number
        }
        entry = Entry(
            **{key: about[key] for key in FROM_NOTE},
            values=values[i],
            rows=sum(counts),
            measured=numbers,
            degenerate={reason: n for reason, n in zip(REASONS, counts, strict=True) if reason and n},
            seconds=dict(seconds[i]),
            curves={name: array[i] for name, array in curves.items() if metric_of(name)[0] in numbers},
        )
        result.append(entry)
    return result
