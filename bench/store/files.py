"""Names, hashes and small files of results: written whole or not at all, read with limits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.types import UserError

log = logging.getLogger(__name__)
LARGEST_TEXT = 2**26  # bytes of a file that is no part
HASHED = 2**28  # bytes of files, some 3,000 photographs, whose content is read in under half a second


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
        raise not_written(path, error) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a file that may be missing; UserError where its folder cannot be written, or is none."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> UserError:
    """Return the line for a file that cannot be written."""
    return UserError(f"cannot write {path}: {error.strerror or error}; choose another folder with out=DIR")


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


def file_states(paths: Iterable[str]) -> dict[str, str]:
    """Tell files from others of the same name: by a hash of the content, or by size and time of change in seconds.

    The content is read where all files together have at most `HASHED` bytes. Both survive a move of the data set as
    ``cp -a`` or ``tar`` makes it. A file that cannot be read has none.
    """
    known: dict[str, os.stat_result] = {}
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            known[path] = os.stat(path)
    if sum(one.st_size for one in known.values()) > HASHED:
        return {path: f"{one.st_size} {int(one.st_mtime)}" for path, one in known.items()}
    states = {}
    for path in known:
        with suppress(OSError):
            states[path] = hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()
    return states


def folder_content(folder: str) -> str:
    """Hash of the names and states (`file_states`) of all files in a folder and below, hidden ones left out."""
    paths = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names if name[0] != "."]
    states = file_states(path for path in sorted(paths) if os.path.isfile(path))
    return hash_key([[os.path.relpath(path, folder), state] for path, state in states.items()])
