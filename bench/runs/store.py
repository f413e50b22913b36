"""Results on disk: keys, atomic chunk files, provenance, and reading them back."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bench.types import UserError

log = logging.getLogger(__name__)
CONFIG, PROVENANCE = "_config.yaml", "_provenance.json"
# Chunk files read at a time, and how many before the reader has to take them.
READERS, AHEAD = 4, 64
# Configs repeat the metrics' whole text; libyaml reads them ten times faster.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Run:
    """One folder of results: one method at one layer of one model on one data set."""

    path: Path
    config: dict[str, Any]
    provenance: dict[str, Any]


def hash_key(value: Any) -> str:
    """Short stable hash of anything JSON can hold: 10 hex digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def safe_name(text: str) -> str:
    """Text as a part of a file name: every character outside ``[A-Za-z0-9._-]`` becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)


def image_name(case_id: str) -> str:
    """File name, without suffix, of a case's picture: readable, unique, safe."""
    return f"{safe_name(case_id)[-80:]}-{hashlib.sha256(case_id.encode()).hexdigest()[:8]}"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: a reader never sees a half file.

    Raises
    ------
    UserError
        The folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose another folder with out=DIR"
        ) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def write_first(path: Path, value: dict[str, Any], usable: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Write a dict as JSON unless another process was first, and give what stands there: the first one's word counts.

    A file that cannot be read or is not `usable` is replaced.

    Raises
    ------
    UserError
        The folder cannot be made or written.
    """
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.first")
    write_json(own, value)
    try:
        os.link(own, path)
    except OSError:  # it is there, or this file system has no hard links
        known = read_json(path)
        if usable(known):
            return known
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)
    return value


def chunk_path(folder: Path, index: int) -> Path:
    """Path of the chunk with this index."""
    return folder / f"chunk-{index:05d}.parquet"


def write_chunk(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema, note: dict[str, Any]) -> None:
    """Write one finished chunk; `note` (key, skipped pictures, seconds, batch sizes) goes into its footer."""
    write_table(path, pa.Table.from_pylist(list(rows), schema=schema), note)
    seconds = ", ".join(f"{part} {value:.1f} s" for part, value in note.get("seconds", {}).items())
    log.debug("%s: %d cases, %s", path, len(rows), seconds)


def write_table(path: Path, table: pa.Table, note: dict[str, Any]) -> None:
    """Write a chunk's rows and note, atomically."""
    table = table.replace_schema_metadata({"bench": json.dumps(note, default=str)})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, **parquet_options(table.schema)))


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How parquet files are written.

    A dictionary and statistics for columns of distinct numbers make files a third larger, and with them or with single
    numbers compressed, reading takes twice the time.
    """
    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    return {
        "compression": {
            f"{name}.list.element" if name in lists else name: "zstd" if name in lists else "none"
            for name in schema.names
        },
        "use_dictionary": ["class_name", "degenerate"],
        "write_statistics": False,
        "write_page_checksum": True,
    }


def read_chunk(path: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """Rows and note of a chunk.

    Raises
    ------
    ValueError, OSError
        The file is truncated, damaged (page checksums are verified) or was not written by this program.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            note = json.loads((schema.metadata or {})[b"bench"])
            there = set(schema.names)
            names = None if columns is None else [name for name in columns if name in there]
            # Files are small and several are read at once: threads inside one only cost.
            return file.read(columns=names, use_threads=False), note
    except (pa.ArrowException, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a chunk of this program: {error}") from error


def valid_chunk(path: Path, key: str, ids: Sequence[str]) -> bool:
    """Whether the file is a whole chunk of this key with exactly these cases; a bad file is logged, not fatal."""
    if not path.is_file():
        return False
    try:
        table, note = read_chunk(path)
        found = table.column("case_id").to_pylist() + [skipped["case_id"] for skipped in note["skipped"]]
        if note["key"] == key and sorted(found) == sorted(ids):
            return True
        log.warning("%s belongs to another run; it will be computed again", path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        log.warning("%s cannot be trusted (%s); it will be computed again", path, error)
    return False


def find_runs(root: Path) -> list[Run]:
    """All result folders below `root`, in a canonical order; folders with a damaged config are left out."""
    runs = []
    for path in sorted(Path(root).glob(f"**/{CONFIG}")):
        try:
            config = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
            if not {"dataset", "model", "method", "layer", "protocol", "metrics"} <= set(config):
                raise ValueError("entries are missing")
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            log.warning("%s is left out: %s", path, str(error).splitlines()[0])
            continue
        runs.append(Run(path.parent, config, read_provenance(path.parent)))
    return runs


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read what `_provenance.json` says, or an empty dict where it is missing or damaged."""
    return read_json(folder / PROVENANCE)


def read_json(path: Path) -> dict[str, Any]:
    """Read a dict from a JSON file, empty where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    except (OSError, ValueError):
        return {}


def read_tables(
    run: Run, columns: Sequence[str] | None = None, chunks: Collection[int] | None = None
) -> Iterator[tuple[int, pa.Table]]:
    """Read a run chunk by chunk, a few files ahead; unreadable or foreign files are left out with a warning.

    Parameters
    ----------
    run : Run
    columns : sequence of str, optional
        Only these, where they are there, are read and their page checksums verified.
    chunks : collection of int, optional
        Only the chunks with these indices.

    Yields
    ------
    (int, pyarrow.Table)
        Index of the chunk and its rows, in the order of the indices.
    """
    paths = {int(path.stem.rpartition("-")[2]): path for path in run.path.glob("chunk-*.parquet")}
    wanted = sorted(paths if chunks is None else set(paths) & set(chunks))
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(wanted), AHEAD):
            part = wanted[start : start + AHEAD]
            for index, found in zip(part, pool.map(lambda i: _read_own(run, paths[i], columns), part), strict=True):
                if isinstance(found, Exception):
                    log.warning("left out: %s", found)
                else:
                    yield index, found


def _read_own(run: Run, path: Path, columns: Sequence[str] | None) -> pa.Table | Exception:
    try:
        table, note = read_chunk(path, columns)
        if note["key"] != run.config.get("key", note["key"]):
            raise ValueError(f"{path} belongs to another run")
        return table
    except (ValueError, OSError, KeyError) as error:
        return error
