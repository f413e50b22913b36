"""Results as a table of cases, and in words: what a folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.analysis.groups import NO_LAYER, group_folders, natural
from bench.analysis.parts import Part, metric_of, newest_entries, newest_metrics, read_parts
from bench.runs.store import Folder, find_folders
from bench.types import UserError

KEYS = ["method", "layer", "case_id"]


def load_results(root: str | Path) -> pd.DataFrame:
    """Read all cases of all results below a folder, the metrics of all parts side by side.

    Parameters
    ----------
    root : path
        As given to ``out=``.

    Returns
    -------
    DataFrame
        One row a case, method and layer, sorted: dataset, model, protocol (equal where values may be compared), method,
        layer, what is known of the case, and a column a metric value. Curves are float32 arrays, `map` is an array of
        the map's own size (None where it was not kept), `boxes` and `other_boxes` are arrays (M, 4) in input pixels.

    Raises
    ------
    bench.types.UserError
        There are no results.
    """
    tables = [load_rows(folders) for folders in group_folders(find_folders(Path(root)))]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise UserError(f"no results under {root}; run python -m bench out={root} first")
    return pd.concat(tables, ignore_index=True)


def load_rows(folders: Sequence[Folder]) -> pd.DataFrame:
    """Rows of one protocol, as `load_results` has them."""
    paths = sorted((path for folder in folders for path in folder.parts), key=lambda path: (path.name, path))
    read = list(read_parts(paths, None, lambda part, table: (part, table)))
    parts = [part for part, _ in read]
    entries, metrics = newest_entries(parts), newest_metrics(parts)
    chunks: dict[int, list[pa.Table]] = {}
    for part, table in read:
        chunks.setdefault(part.chunk, []).append(current(part, table, entries, metrics))
    joined = [join(tables) for _, tables in sorted(chunks.items())]
    if not joined:
        return pd.DataFrame()
    table = pa.concat_tables(joined, promote_options="default")
    frame = table.to_pandas().sort_values(KEYS, kind="stable", ignore_index=True)
    shapes = zip(frame["map"], frame.pop("map_shape"), strict=True)
    frame["map"] = pd.Series([None if m is None else m.reshape(shape.astype(int)) for m, shape in shapes], dtype=object)
    for name in ("boxes", "other_boxes"):
        frame[name] = [np.empty((0, 4), np.float32) if b is None else b.reshape(-1, 4) for b in frame[name]]
    protocol = folders[0].protocol
    for place, (name, key) in enumerate({"dataset": "dataset", "model": "model", "protocol": "key"}.items()):
        frame.insert(place, name, str(protocol[key]))
    return frame


def current(part: Part, table: pa.Table, entries: dict[tuple[str, str], str], metrics: dict[str, str]) -> pa.Table:
    """Rows and columns of the newest versions of methods and metrics."""
    kept = [entries[entry["method"], entry["layer"]] == entry["key"] for entry in part.entries]
    old = {label for label, node in part.metrics.items() if metrics[label] != node["key"]}
    names = [name for name in table.column_names if metric_of(name)[0] not in old]
    return table.select(names).filter(pa.array(np.repeat(kept, len(part.cases)), pa.bool_()))


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Parts of the same cases side by side; of what two parts hold the later one counts."""
    if len(tables) == 1:
        return tables[0]
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for table in tables:
        for row in table.to_pylist():
            known = rows.setdefault(tuple(row[key] for key in KEYS), {})
            known |= {name: value for name, value in row.items() if value is not None}
    schema = pa.unify_schemas([table.schema for table in tables])
    return pa.Table.from_pylist(list(rows.values()), schema=schema)


def describe_results(root: str | Path) -> list[str]:
    """Describe the results below a folder in words: some lines for each protocol.

    Parameters
    ----------
    root : path

    Returns
    -------
    list of str
        Data set, network, weights and key; cases and images; layers, methods and metrics with versions; what is
        incomplete and by how much; size on disk; damaged files.

    Raises
    ------
    bench.types.UserError
        There are no results.
    """
    folders = find_folders(Path(root))
    if not folders:
        raise UserError(f"no results under {root}; run python -m bench out={root} first")
    lines: list[str] = []
    for folder in folders:
        lines += [*([""] if lines else []), *describe_folder(folder)]
    return lines


def describe_folder(folder: Folder) -> list[str]:
    """Lines about one results folder."""
    about = folder.protocol
    what = f"{about['dataset']} / {about['model']}, weights {about.get('weights')}, protocol {about['key']}"
    read = list(read_parts(folder.parts, lambda schema: ["image_id"], lambda part, table: (part, table)))
    parts = [part for part, _ in read]
    size = sum(path.stat().st_size for path in folder.parts)
    damaged = len(folder.parts) - len(parts)
    files = f"  {size / 1e6:.1f} MB in {len(folder.parts)} parts"
    if damaged:
        files += f", {damaged} of them damaged (the next run computes them again)"
    aside = sorted(path.name for path in folder.path.glob("*.damaged"))
    files += f"; set aside as damaged: {', '.join(aside)}" if aside else ""
    cases = sorted({case for part in parts for case in part.cases})
    images = {image for _, table in read for image in table["image_id"].unique().to_pylist()}
    entries, metrics = newest_entries(parts), newest_metrics(parts)
    layers = sorted({layer for _, layer in entries if layer != NO_LAYER}, key=natural)
    methods = {e["method"]: int(e.get("version", 0)) for part in parts for e in part.entries
               if entries[e["method"], e["layer"]] == e["key"]}  # fmt: skip
    versions = {label: int(node.get("version", 0)) for part in parts for label, node in part.metrics.items()
                if metrics[label] == node["key"]}  # fmt: skip
    lines = [f"{folder.path}: {what}", f"  {len(cases)} cases on {len(images)} images"]
    lines += [f"  layers: {', '.join(layers)}"] if layers else []
    lines.append(f"  methods: {with_versions(methods)}")
    lines.append(f"  metrics: {with_versions(versions)}")
    return [*lines, *missing(parts, entries, metrics, cases), files]


def with_versions(versions: dict[str, int]) -> str:
    """Names with their versions, sorted."""
    return ", ".join(f"{name} (version {version})" for name, version in sorted(versions.items()))


def missing(
    parts: Sequence[Part], entries: dict[tuple[str, str], str], metrics: dict[str, str], cases: Sequence[str]
) -> list[str]:
    """One line for each method and layer that lacks cases of a metric."""
    rows = {place: i for i, place in enumerate(sorted(entries))}
    columns = {label: i for i, label in enumerate(sorted(metrics))}
    order = {case: i for i, case in enumerate(cases)}
    done = np.zeros((len(rows), len(columns), len(order)), dtype=bool)
    for part in parts:
        places = [(e["method"], e["layer"]) for e in part.entries if entries[e["method"], e["layer"]] == e["key"]]
        labels = [label for label, node in part.metrics.items() if metrics[label] == node["key"]]
        at = np.ix_([rows[p] for p in places], [columns[m] for m in labels], [order[c] for c in part.cases])
        done[at] = True
    lines = []
    for (method, layer), counts in zip(rows, done.sum(axis=2), strict=True):
        short = [f"{label} {len(order) - n}" for label, n in zip(columns, counts, strict=True) if n < len(order)]
        name = method if layer == NO_LAYER else f"{method}@{layer}"
        lines += [f"  incomplete: {name} lacks cases: {', '.join(short)}"] if short else []
    return lines
