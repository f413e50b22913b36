"""Parts: parquet files of rows, each with a note of what it holds and a hash of all its bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.store.files import hash_key, read_file, write_atomically

FORMAT = 2
CHUNK = 16  # cases in one part; a constant, so that every run cuts the cases in the same way
COLUMNS = "columns.parquet"
PLACEHOLDER = b"digest:" + b"0" * 32
LARGEST = 2**32  # bytes of a part
DICTIONARY = ["method", "layer", "case_id", "image_id", "class_name", "degenerate"]
# Columns that readers take for granted, beside those of metrics.
RELIED_ON = {
    **dict.fromkeys(DICTIONARY, pa.string()), **dict.fromkeys(("box_area", "probability"), pa.float64()),
    "n_instances": pa.int64(),
}  # fmt: skip


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
    written = json.dumps({"format": FORMAT, "chunk": chunk, **note}, default=str, separators=(",", ":"))
    footer = {"bench": written, "digest": PLACEHOLDER}
    stream = pa.BufferOutputStream()
    # Statistics and dictionaries of distinct numbers would make files a third larger and reading slower.
    with pq.ParquetWriter(
        stream, schema, compression="zstd", compression_level=9, write_statistics=False, write_page_checksum=True,
        use_dictionary=[n for n in DICTIONARY if n in schema.names], store_schema=False,
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
