"""Results on disk: one folder a protocol, with parquet parts that only grow.

``<dataset>/<network>-<key>/`` holds ``_protocol.yaml``, ``_provenance.json`` and parts
``part-<chunk>-<what>.parquet``. A part holds one row a case, method and layer, entry by entry (method at layer), the
cases of each in the same order. Its footer, the note, says which entries, metrics and cases these are. Parts are
written once and never changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bench.types import UserError

log = logging.getLogger(__name__)
FORMAT = 2
CHUNK = 16  # cases in one part; a constant, so that every run cuts the cases in the same way
PROTOCOL, PROVENANCE, COLUMNS = "_protocol.yaml", "_provenance.json", "columns.parquet"
OLD_CONFIG = "_config.yaml"  # of format 1
PLACEHOLDER = b"digest:" + b"0" * 32
DICTIONARY = ["method", "layer", "case_id", "image_id", "class_name", "degenerate"]
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Folder:
    """Results of one protocol.

    `protocol` is the content of ``_protocol.yaml``: ``format``, ``key``, ``dataset``, ``model``, ``weights``,
    ``parameters`` (what the key is a hash of), and what is known of the network.
    """

    path: Path
    protocol: dict[str, Any]

    @property
    def parts(self) -> list[Path]:
        """Parts in canonical order."""
        return sorted(self.path.glob("part-*.parquet"))

    @property
    def images(self) -> Path:
        """Folder of the gallery's pictures."""
        return self.path / "_images"


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
    """Write a dict as JSON unless another process was first; return the content of the file.

    A file that cannot be read or is not `usable` is replaced; UserError where the folder cannot be written.
    """
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.first")
    write_json(own, value)
    try:
        os.link(own, path)
    except OSError:  # the file exists, or this file system has no hard links
        known = read_json(path)
        if usable(known):
            return known
        os.replace(own, path)
    finally:
        own.unlink(missing_ok=True)
    return value


def read_json(path: Path) -> dict[str, Any]:
    """Read a dict from a JSON file, empty where it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    except (OSError, ValueError):
        return {}


def write_part(
    folder: Path, chunk: int, rows: Sequence[dict[str, Any]], schema: pa.Schema, note: dict[str, Any]
) -> Path:
    """Write one part.

    Parameters
    ----------
    folder : Path
        Of the protocol.
    chunk : int
        Which cases: those from ``CHUNK * chunk`` on in the order of the protocol.
    rows : sequence of dict
        One a case and entry: all cases of the first entry in the order of ``note["cases"]``, then the second entry's.
    schema : Schema
    note : dict
        ``protocol`` (key), ``cases`` (ids), ``entries`` (one dict each: ``key``, ``method``, ``layer``, ``maps``, a
        word of 0 and 1 that says for which cases a map is kept, ...), ``metrics`` (dict by name, each with ``key``),
        ``skipped`` (pictures that cannot be decoded), and more for the reader.

    Returns
    -------
    Path
        Its name follows from what it holds.
    """
    holds = [
        note["cases"],
        [(e["key"], e["maps"]) for e in note["entries"]],
        [m["key"] for m in note["metrics"].values()],
    ]
    path = folder / f"part-{chunk:05d}-{hash_key([holds, note['skipped']])}.parquet"
    footer = {"bench": json.dumps({"format": FORMAT, "chunk": chunk, **note}, default=str), "digest": PLACEHOLDER}
    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    compression = {f"{n}.list.element" if n in lists else n: "zstd" if n in lists else "none" for n in schema.names}
    stream = pa.BufferOutputStream()
    # Statistics and dictionaries of distinct numbers would make files a third larger and reading slower.
    with pq.ParquetWriter(
        stream, schema, compression=compression, use_dictionary=[n for n in DICTIONARY if n in schema.names],
        write_statistics=False, write_page_checksum=True, store_schema=False,
    ) as writer:  # fmt: skip
        writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
        writer.add_key_value_metadata(footer)
    data = stream.getvalue().to_pybytes()
    before, _, after = data.rpartition(PLACEHOLDER)
    data = before + _digest(data) + after
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return path


def read_part(
    path: Path, columns: Sequence[str] | Callable[[pa.Schema], Sequence[str]] | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """Rows and note of a part, after the hash of the whole file was checked.

    Parameters
    ----------
    path : Path
    columns : sequence of str, or function from the part's schema to names, optional
        Only these, where the part has them.

    Raises
    ------
    ValueError
        The file is damaged or not of this program.
    OSError
        It cannot be read.
    """
    data = path.read_bytes()
    if not is_whole(data):
        raise ValueError(f"{path} is damaged: its hash is not that of its content")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        note = json.loads(file.metadata.metadata[b"bench"])
        if note["format"] != FORMAT:
            raise ValueError(f"{path} has format {note['format']}, this program reads {FORMAT}")
        schema = file.schema_arrow
        wanted = columns(schema) if callable(columns) else columns
        names = None if wanted is None else [name for name in wanted if name in schema.names]
        return file.read(columns=names, use_threads=False), note
    except (pa.ArrowException, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a part of this program: {' '.join(str(error).split())[:120]}") from error


def is_whole(data: bytes) -> bool:
    """Whether the hash in a part's footer is that of all its other bytes."""
    before, mark, after = data.rpartition(b"digest:")
    return bool(mark) and _digest(before + PLACEHOLDER + after[32:]) == mark + after[:32]


def _digest(data: bytes) -> bytes:
    return b"digest:" + hashlib.blake2b(data, digest_size=16).hexdigest().encode()


def write_columns(folder: Path, schema: pa.Schema) -> None:
    """Write ``columns.parquet``: no rows, all columns of all parts.

    Its name sorts before the parts', so a reader that takes the columns of a folder's first file, such as
    ``pandas.read_parquet(folder)``, gets those of a metric that was added later, too.
    """
    path = folder / COLUMNS
    if not path.is_file() or pq.read_schema(path) != schema:
        write_atomically(path, lambda temporary: pq.write_table(schema.empty_table(), temporary, store_schema=False))


def set_aside(path: Path) -> None:
    """Rename a damaged part, so that it is never read again and can still be looked at."""
    try:
        os.replace(path, path.with_name(f"{path.name}.damaged"))
    except OSError as error:
        raise UserError(f"cannot set {path} aside: {error.strerror or error}; delete it") from error


def find_folders(root: Path) -> list[Folder]:
    """All results folders below `root`, in a canonical order; those with a damaged protocol are named and left out."""
    folders = []
    for path in sorted(Path(root).glob(f"**/{PROTOCOL}")):
        try:
            folders.append(Folder(path.parent, read_protocol(path)))
        except (OSError, ValueError) as error:
            log.warning("%s is left out: %s", path.parent, error)
    old = sum(1 for _ in Path(root).glob(f"**/{OLD_CONFIG}"))
    if old:
        log.warning("%d results folders below %s are of an earlier version (format 1); they are left alone", old, root)
    return folders


def read_protocol(path: Path) -> dict[str, Any]:
    """Content of a ``_protocol.yaml``; ValueError where its key is not that of its parameters."""
    try:
        protocol = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
        if hash_key(protocol["parameters"]) != protocol["key"] or protocol["format"] != FORMAT:
            raise ValueError("the key in it is not that of its parameters")
        return {**protocol, "dataset": str(protocol["dataset"]), "model": str(protocol["model"])}
    except (KeyError, TypeError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name} is damaged: {' '.join(str(error).split())[:100]}") from error
