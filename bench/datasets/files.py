"""Folders and files that data sets are read from: what a setting names, what a folder holds, text in any encoding."""

from __future__ import annotations

import codecs
import math
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Any

from bench.datasets.images import picture_extensions
from bench.types import UserError, printable


def need_folder(path: str | os.PathLike[str] | None, setting: str) -> Path:
    """Return the folder a setting names, or raise UserError."""
    return _need(path, setting, os.path.isdir, "folder")


def need_file(path: str | os.PathLike[str] | None, setting: str) -> Path:
    """Return the file a setting names, or raise UserError."""
    return _need(path, setting, os.path.isfile, "file")


def _need(path: str | os.PathLike[str] | None, setting: str, is_kind: Callable[[Path], bool], kind: str) -> Path:
    if path is None or path == "":
        raise UserError(f"a {kind} is missing: add {setting}={'DIR' if kind == 'folder' else 'FILE'}")
    if not isinstance(path, str | os.PathLike | int) or isinstance(path, bool):  # 2012 is a folder's name, too
        raise UserError(f"{setting}={printable(path)} is no path of a {kind}")
    full = own_path(path)
    if is_kind(full):
        return full
    if not os.path.exists(full):
        raise UserError(f"{printable(full)} does not exist; check {setting}")
    other = "a folder" if os.path.isdir(full) else "a file" if os.path.isfile(full) else "a pipe or device"
    raise UserError(f"{printable(full)} is {other}; {setting} must name a {kind}")


def own_path(path: str | os.PathLike[str] | int) -> Path:
    """Return the absolute path of what a user names, also where the user has no home."""
    return Path(os.path.expanduser(str(path))).absolute()


def need_name(setting: str, value: Any) -> str:
    """Return a name, which may look like a number; UserError for anything else."""
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise UserError(f"dataset.{setting}={printable(value)} must be a name")
    return str(value)


def need_number(setting: str, value: Any, low: float, high: float = math.inf, *, whole: bool = True) -> None:
    """Raise UserError unless a parameter is a number of the range."""
    kind = int if whole else (int, float)
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
        span = f"from {low}" + (f" to {high}" if high < math.inf else "")
        raise UserError(f"dataset.{setting}={printable(value)} must be a {'whole ' if whole else ''}number {span}")


def check_names(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError, with the nearest names, for a name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, 3, 0.5) or sorted(known)[:100]
            raise UserError(f"dataset.{setting}: there is no {name!r}; there are {printable(', '.join(near))}")


def files_in(folder: Path) -> dict[str, int]:
    """Names and sizes in bytes of a folder's files: one pass instead of one question per picture."""
    files = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    info = entry.stat()
                except OSError:  # a link to nothing, or to itself
                    continue
                if stat.S_ISREG(info.st_mode):
                    files[entry.name] = info.st_size
    except OSError as error:
        raise refused(error) from error
    return files


def picture_fault(name: str, files: Mapping[str, int]) -> str | None:
    """Say what is wrong with a picture's file without decoding it; None where it exists and is not empty."""
    if name not in files:
        return "the picture is not there"
    return None if files[name] else "the picture is an empty file"


def leads_out(folder: Path, name: str) -> bool:
    """Whether a name that comes from data leaves the folder: by its root, by ``..``, or by a link to another folder.

    The file itself may be a link: the user's own.
    """
    pure = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    if pure.anchor or ".." in pure.parts:
        return True
    inside = os.path.realpath(folder)
    at = os.path.realpath(folder / os.path.dirname(name))
    return os.path.commonpath([inside, at]) != inside


def pictures_below(top: Path) -> list[Path]:
    """Pictures in a folder and below, arrays included, see `files_below`."""
    return files_below(top, [*picture_extensions(), ".npy"])


def files_below(top: Path, extensions: Iterable[str]) -> list[Path]:
    """Files of these extensions in a folder and below, in the order of their paths.

    Hidden files, and links to nothing, are skipped. UserError for a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise refused(error) from error

    # followlinks: folders of links into a larger collection are common; a link that leads back up is cut.
    seen: set[str] = set()
    paths: list[Path] = []
    for at, folders, names in os.walk(top, onerror=stop, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(at, name) for name in names if not name.startswith(".")]
    ends = tuple(extensions)
    return sorted(path for path in paths if path.name.lower().endswith(ends) and os.path.isfile(path))


def refused(error: OSError) -> UserError:
    """Return the line for a folder or file that the system does not let us read."""
    return UserError(f"cannot read {printable(error.filename)} ({error.strerror}): check its permissions")


def need_text(path: Path) -> str:
    """Text of a file that the data set cannot do without, see `read_text`; UserError where it cannot be read."""
    try:
        return read_text(path)
    except OSError as error:
        raise refused(error) from error


def read_text(path: Path, declared: str | None = None) -> str:
    """Text of a file in the encoding that fits.

    A byte order mark says UTF-8 or UTF-16. Then come the `declared` encoding, UTF-8, GB 18030, which holds GBK and
    gb2312, and Latin 1, which takes anything. Raises OSError.
    """
    raw = path.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    own = [declared] if declared and not raw.startswith(codecs.BOM_UTF8) and is_text_encoding(declared) else []
    for name in (*own, "utf-8-sig", "gb18030"):
        try:
            return raw.decode(name)
        except ValueError:
            continue
    return raw.decode("latin-1")


def is_text_encoding(name: str) -> bool:
    """Whether Python knows an encoding by this name that makes text of bytes (``zip`` is none)."""
    try:
        b"a".decode(name)
    except LookupError:
        return False
    except ValueError:  # half a character of UTF-16
        pass
    return True
