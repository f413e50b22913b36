"""Results as one table of cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.analysis.groups import group_folders
from bench.analysis.parts import Newest, Part, metric_of, newest_of, parts_of, read_parts
from bench.store.folders import Folder, find_folders
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
        the map's own size (None where it was not kept), `boxes` and `other_boxes` are arrays (M, 4) in input pixels,
        (M, 6) in a volume.

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
    read = list(read_parts(parts_of(folders), None, lambda part, table: (part, table), folders[0].protocol["key"]))
    newest = newest_of([part for part, _ in read])
    chunks: dict[int, list[pa.Table]] = {}
    for part, table in read:
        chunks.setdefault(part.chunk, []).append(current(part, table, newest))
    if not chunks:
        return pd.DataFrame()
    table = pa.concat_tables([join(tables) for _, tables in sorted(chunks.items())], promote_options="default")
    frame = table.to_pandas().sort_values(KEYS, kind="stable", ignore_index=True)
    shapes = zip(frame["map"], frame.pop("map_shape"), strict=True)
    frame["map"] = pd.Series([None if m is None else m.reshape(shape.astype(int)) for m, shape in shapes], dtype=object)
    protocol = folders[0].protocol
    corners = 2 * protocol["parameters"].get("input", {}).get("rank", 2)
    for name in ("boxes", "other_boxes"):
        frame[name] = [np.empty((0, corners), np.float32) if b is None else b.reshape(-1, corners) for b in frame[name]]
    for place, (name, key) in enumerate({"dataset": "dataset", "model": "model", "protocol": "key"}.items()):
        frame.insert(place, name, str(protocol[key]))
    return frame


def current(part: Part, table: pa.Table, newest: Newest) -> pa.Table:
    """Rows and columns of the newest versions of methods and metrics."""
    kept = np.isin(np.arange(len(part.entries)), newest.entries_of(part))
    old = part.metrics.keys() - newest.metrics_of(part)
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
    return pa.Table.from_pylist(list(rows.values()), schema=pa.unify_schemas([table.schema for table in tables]))
