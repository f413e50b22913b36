"""A finished run's rows in one file beside its chunks: of a report's time, most went into opening small files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.runs.store import AHEAD, Run, hash_key, parquet_options, read_chunk, read_tables, write_atomically

log = logging.getLogger(__name__)
MERGED = "_merged.parquet"
# Large, and read only by the gallery, a few cases at a time: they stay in the chunks.
MAP_COLUMNS = ("map", "map_shape", "map_scale")


def merge(run: Run) -> None:
    """Write all rows of a run, without maps, into one file, with ``chunk``, the index of the file they come from.

    The chunks stay what counts; the file may be deleted at any time. None is written where the one that is there is up
    to date, where one chunk has all rows, or where chunks are unreadable or have different columns.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    state, files = state_of(run.path)
    if files < 2 or _is_current(run, state):
        return

    def write(to: Path) -> None:
        tables = _rows(run, files)
        first = next(tables)
        schema = first.schema.with_metadata({"bench": json.dumps({"key": run.config["key"], "state": state})})
        with pq.ParquetWriter(to, schema, **parquet_options(schema)) as writer:
            for table in chain([first], tables):
                writer.write_table(table.cast(schema))

    try:
        write_atomically(run.path / MERGED, write)
    except (ValueError, StopIteration) as error:
        log.warning("%s stays unmerged: %s", run.path, str(error).partition("\n")[0] or "it has no case")


def _rows(run: Run, files: int) -> Iterator[pa.Table]:
    """Rows of `AHEAD` chunks at a time, so that memory does not grow with the run."""
    tables, done = read_tables(run), 0
    while part := list(islice(tables, AHEAD)):
        done += len(part)
        # A chunk of bad pictures has no rows, and not the metrics' columns either.
        kept = [with_chunk(index, table.drop_columns(list(MAP_COLUMNS))) for index, table in part if len(table)]
        if kept:
            yield pa.concat_tables(kept).combine_chunks()
    if done < files:
        raise ValueError("not all its chunks can be read")


def with_chunk(index: int, table: pa.Table) -> pa.Table:
    """Rows of a chunk with its index in every row."""
    return table.append_column("chunk", pa.repeat(index, len(table)))


def read_merged(run: Run, columns: Sequence[str]) -> pa.Table | None:
    """Those of the columns that the run has, and ``chunk``; None where no merged file is up to date and readable."""
    if set(columns) & set(MAP_COLUMNS) or not _is_current(run, state_of(run.path)[0]):
        return None
    try:
        return read_chunk(run.path / MERGED, [*columns, "chunk"])[0]
    except (ValueError, OSError) as error:
        log.warning("read its chunks instead: %s", error)
        return None


def _is_current(run: Run, state: str) -> bool:
    try:
        _, note = read_chunk(run.path / MERGED, [])
        return bool(note["key"] == run.config.get("key") and note["state"] == state)
    except (ValueError, OSError, KeyError, TypeError):
        return False


def state_of(folder: Path) -> tuple[str, int]:
    """Hash of the chunk files' names, sizes and times of change; and how many there are."""
    files = [(path.name, path.stat()) for path in sorted(folder.glob("chunk-*.parquet"))]
    return hash_key([(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]), len(files)
