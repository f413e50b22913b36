"""Columns of one run as arrays: which there are, values in a frame, curves as matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.analysis.merged import read_merged, with_chunk
from bench.runs.store import Run, read_tables

Curves = dict[str, NDArray[np.float32]]
# Curves of a group are kept in memory up to so many bytes in all, which saves reading its files a second time.
HELD = 2**30


def metric_columns(run: Run) -> tuple[list[str], list[str]]:
    """Names of the scalar columns and of the curve columns of a run, from the first chunk that has any."""
    _, fields = first_measured(run)
    curves = [field.name for field in fields if pa.types.is_list(field.type)]
    return [field.name for field in fields if field.name not in curves], curves


def first_measured(run: Run) -> tuple[int, list[pa.Field]]:
    """Index and metrics' columns of the first readable chunk with a case: one whose pictures are all bad has none."""
    for path in sorted(run.path.glob("chunk-*.parquet")):
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException):
            continue
        fields = [field for field in schema if field.name.partition(".")[0] in run.config["metrics"]]
        if fields:
            return int(path.stem.rpartition("-")[2]), fields
    return -1, []


def held_curves(runs: Sequence[Run], drawn: Iterable[str]) -> list[str]:
    """Names of those of the curves `drawn` that the first run has, if those of all runs fit into `HELD` bytes."""
    for run in runs[:1]:
        index, fields = first_measured(run)
        names = sorted({field.name for field in fields if pa.types.is_list(field.type)} & set(drawn))
        for _, table in read_tables(run, names, [index]):
            values = sum(len(table.column(name).combine_chunks().flatten()) for name in names)
            cases = sum(int(other.config.get("cases", 0)) for other in runs)
            return names if 4 * values / max(len(table), 1) * cases <= HELD else []
    return []


def read_table(run: Run, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Columns of a run with ``chunk``, the index of the file, one row a case; None where no chunk can be read."""
    merged = None if columns is None else read_merged(run, columns)
    if merged is not None:
        return merged
    tables = [with_chunk(index, table) for index, table in read_tables(run, columns)]
    return pa.concat_tables(tables, promote_options="default") if tables else None


def read_rows(run: Run, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Columns of a run, by default all, in the order of its cases."""
    table = read_table(run, columns)
    return pd.DataFrame(columns=list(columns or [])) if table is None else table.drop_columns("chunk").to_pandas()


def read_frame(run: Run, columns: Sequence[str], curves: Sequence[str] = ()) -> tuple[pd.DataFrame, Curves]:
    """Columns of a run with ``chunk``, the index of the file, one row a case; and curves (rows, L) beside them."""
    table = read_table(run, [*columns, *curves])
    if table is None:
        return pd.DataFrame(columns=[*columns, "chunk"]), {}
    frame = table.select([name for name in table.column_names if name not in curves]).to_pandas()
    found = {name: matrix(table.column(name).combine_chunks()) for name in curves if name in table.column_names}
    found = {name: values for name, values in found.items() if values.size}
    again = frame.duplicated("case_id").to_numpy()
    if not again.any():
        return frame, found
    return frame[~again], {name: values[~again] for name, values in found.items()}


def read_values(run: Run, curves: Sequence[str]) -> tuple[pd.DataFrame, Curves]:
    """Case ids, degenerate reasons and all columns with one value per case; and curves, as `read_frame`."""
    return read_frame(run, ["case_id", "degenerate", *metric_columns(run)[0]], curves)


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
