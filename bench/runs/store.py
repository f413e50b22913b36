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
import stat
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bench.options import LOADER, check_yaml
from bench.types import UserError

log = logging.getLogger(__name__)
FORMAT = 2
CHUNK = 16  # cases in one part; a constant, so that every run cuts the cases in the same way
PROTOCOL, PROVENANCE, COLUMNS = "_protocol.yaml", "_provenance.json", "columns.parquet"
OLD_CONFIG = "_config.yaml"  # of format 1
PLACEHOLDER = b"digest:" + b"0" * 32
PART = re.compile(r"part-\d{5,}-[0-9a-f]{10}\.parquet")
LARGEST, LARGEST_TEXT = 2**32, 2**26  # bytes of a part, and of another file
DICTIONARY = ["method", "layer", "case_id", "image_id", "class_name", "degenerate"]
# Columns that readers take for granted, beside those of metrics.
RELIED_ON = {
    **dict.fromkeys(("method", "layer", "case_id", "image_id", "class_name", "degenerate"), pa.string()),
    **dict.fromkeys(("box_area", "probability"), pa.float64()), "n_instances": pa.int64(),
}  # fmt: skip


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
        """Parts in canonical order; what others put beside them, such as ``part (copy).parquet``, is no part."""
        return sorted(path for path in self.path.glob("part-*.parquet") if PART.fullmatch(path.name))

    @property
    def images(self) -> Path:
        """Folder of the gallery's pictures."""
        return self.path / "_images"


def hash_key(value: Any) -> str:
    """Short stable hash of anything JSON can hold: 10 hex digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def safe_name(text: str) -> str:
    """Text as a file name: every character outside ``[A-Za-z0-9._-]``, and dots in front, become ``_``."""
    return re.sub(r"[^A-Za-z0-9._-]|^\.+|^$", "_", text)


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


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a dict as indented JSON with its hash, atomically."""
    write_text(path, json.dumps({**value, "hash": hash_key(value)}, indent=1, default=str) + "\n")


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
    """Read a dict from a JSON file; empty where it is missing and, with a warning, where it is damaged."""
    try:
        value = json.loads(read_file(path).decode())
        if not isinstance(value, dict) or not is_unchanged(value):
            raise ValueError("its hash is not that of its content")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is damaged and not used: %s", path, " ".join(str(error).split())[:100])
        return {}
    return {key: one for key, one in value.items() if key != "hash"}


def is_unchanged(value: dict[str, Any]) -> bool:
    """Whether a dict from a file has the hash that it was written with; one that was written without is taken."""
    kept = {key: one for key, one in value.items() if key != "hash"}
    return value.get("hash", hash_key(kept)) == hash_key(kept)


def read_file(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """Bytes of a file; ValueError for one that is no regular file (a pipe never ends), or too large."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError(f"{path} is no regular file")
    if about.st_size > most:
        raise ValueError(f"{path} is too large: {about.st_size / 1e6:,.0f} MB")
    return path.read_bytes()


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
    write_sealed(path, stream)
    return path


def write_sealed(path: Path, stream: pa.BufferOutputStream) -> None:
    """Write a parquet file atomically, the hash of all other bytes in place of the one `PLACEHOLDER` in its footer."""
    data = stream.getvalue().to_pybytes()
    before, _, after = data.rpartition(PLACEHOLDER)
    sealed = before + _digest(data) + after
    if not path.is_file() or path.read_bytes() != sealed:
        write_atomically(path, lambda temporary: temporary.write_bytes(sealed))


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
    data = read_file(path, LARGEST)
    if not is_whole(data):
        raise ValueError(f"{path} is damaged: its hash is not that of its content")
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        note = json.loads(file.metadata.metadata[b"bench"])
        if note["format"] != FORMAT:
            raise ValueError(f"{path} has format {note['format']}, this program reads {FORMAT}")
        check_note(note, file.metadata.num_rows)
        sizes = (file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if sum(sizes) > LARGEST:
            raise ValueError(f"{path} is too large when it is unpacked")
        schema = file.schema_arrow
        if any(schema.field(name).type != kind for name, kind in RELIED_ON.items()):
            raise ValueError(f"{path} has columns of another kind")
        wanted = columns(schema) if callable(columns) else columns
        names = None if wanted is None else [name for name in wanted if name in schema.names]
        return file.read(columns=names, use_threads=False), note
    except (pa.ArrowException, OSError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a part of this program: {' '.join(str(error).split())[:120]}") from error


def check_note(note: dict[str, Any], rows: int) -> None:
    """Raise ValueError unless a part's note has what readers rely on, and the part a row a case and entry."""
    kinds = {"chunk": int, "protocol": str, "cases": list, "entries": list, "metrics": dict, "skipped": list}
    fields = [(note.get(key), kind) for key, kind in kinds.items()]
    fields += [(case, str) for case in note["cases"]]
    fields += [(entry[key], str) for entry in note["entries"] for key in ("key", "method", "layer", "maps")]
    fields += [(node["key"], str) for node in note["metrics"].values()]
    fields += [(row["case_id"], str) for row in note["skipped"]]
    if not all(isinstance(value, kind) for value, kind in fields):
        raise ValueError("its note has fields of another kind")
    if rows != len(note["entries"]) * len(note["cases"]) or len(set(note["cases"])) < len(note["cases"]):
        raise ValueError("it has not one row for each of its entries and cases")
    if any(len(entry["maps"]) != len(note["cases"]) for entry in note["entries"]):
        raise ValueError("its note does not say which maps are kept")


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
    stream = pa.BufferOutputStream()
    with pq.ParquetWriter(stream, schema, store_schema=False) as writer:
        writer.add_key_value_metadata({"digest": PLACEHOLDER})
    write_sealed(folder / COLUMNS, stream)


def damaged(folder: Folder) -> bool:
    """Whether the list of columns or the provenance beside the parts is missing or damaged."""
    path = folder.path / COLUMNS
    return not (path.is_file() and is_whole(path.read_bytes()) and read_json(folder.path / PROVENANCE))


def set_aside(path: Path) -> None:
    """Rename a damaged part, so that it is never read again and can still be looked at."""
    try:
        os.replace(path, path.with_name(f"{path.name}.damaged"))
    except OSError as error:
        raise UserError(f"cannot set {path} aside: {error.strerror or error}; delete it") from error


def find_folders(root: Path) -> list[Folder]:
    """All results folders below `root`, in a canonical order; those with a damaged protocol are named and left out.

    Links to folders are followed, each folder is looked at once.
    """
    folders, seen, old = [], set[str](), 0
    for place, below, files in os.walk(root, followlinks=True):
        path, real = Path(place) / PROTOCOL, os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below.sort()
        old += OLD_CONFIG in files
        if PROTOCOL in (*files, *below):
            try:
                folders.append(Folder(path.parent, read_protocol(path)))
            except (OSError, ValueError) as error:
                log.warning("%s is left out: %s", path.parent, error)
    folders.sort(key=lambda folder: folder.path)
    if old:
        log.warning("%d results folders below %s are of an earlier version (format 1); they are left alone", old, root)
    return folders


def read_protocol(path: Path) -> dict[str, Any]:
    """Content of a ``_protocol.yaml``; ValueError where its key is not that of its parameters, or it was changed."""
    try:
        text = read_file(path).decode()
        check_yaml(text)
        protocol = yaml.load(text, LOADER)
        if not isinstance(protocol["parameters"], dict):
            raise ValueError("its parameters are none")
        if hash_key(protocol["parameters"]) != protocol["key"] or protocol["format"] != FORMAT:
            raise ValueError("the key in it is not that of its parameters")
        if not is_unchanged(protocol):
            raise ValueError("its hash is not that of its content")
        return {**protocol, "dataset": str(protocol["dataset"]), "model": str(protocol["model"])}
    except (KeyError, TypeError, AttributeError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name} is damaged: {' '.join(str(error).split())[:100]}") from error
