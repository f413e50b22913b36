"""Folders of results, one a protocol: found below a root, checked against their key."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.options import LOADER, check_yaml
from bench.store.files import hash_key, is_unchanged, read_file, read_json
from bench.store.parts import COLUMNS, FORMAT, is_whole
from bench.types import UserError

log = logging.getLogger(__name__)
PROTOCOL, PROVENANCE = "_protocol.yaml", "_provenance.json"
PUBLISHED = "published"  # folder of results that come with the program
OLD_CONFIG = "_config.yaml"  # of format 1
PART = re.compile(r"part-\d{5,}-[0-9a-f]{10}\.parquet")


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


def find_folders(root: Path) -> list[Folder]:
    """All results folders below `root`, in a canonical order; those with a damaged protocol are named and left out.

    Links to folders are followed, each folder is looked at once. Published results, which lie below the default
    ``out=`` and are not the user's, are left out unless `root` names them.
    """
    folders, seen, old = [], set[str](), 0
    for place, below, files in os.walk(root, followlinks=True):
        path, real = Path(place) / PROTOCOL, os.path.realpath(place)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if name != PUBLISHED)
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


def beside(folder: Folder, roots: Sequence[str | Path]) -> list[Folder]:
    """Find results of a folder's protocol below other folders.

    Raises
    ------
    UserError
        There are none; it names what differs in the nearest protocol.
    """
    others = [other for root in roots for other in find_folders(Path(root))]
    listed = ", ".join(map(str, roots))
    if not others:
        raise UserError(f"against={listed}: no results there")
    same = [other for other in others if other.protocol["key"] == folder.protocol["key"]]
    if not same:
        apart = min((differences(folder.protocol, other.protocol) for other in others), key=len)
        raise UserError(f"against={listed}: no results of this run's protocol; in the nearest {', '.join(apart)}")
    return [other for other in same if other.path.resolve() != folder.path.resolve()]


def differences(protocol: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name what makes two protocols differ, with both values: ``seed is 0 there and 1 here``."""
    own, theirs = (dict(leaves(one["parameters"])) for one in (protocol, other))
    own["weights"], theirs["weights"] = (
        f"{one['weights']} ({one['parameters']['weights']})" for one in (protocol, other)
    )
    lines = []
    for name in dict.fromkeys([*own, *theirs]):
        if own.get(name) != theirs.get(name):
            values = "differ (pictures, boxes or targets)" if name == "cases" else ""
            lines.append(f"{name} {values or f'is {theirs.get(name)} there and {own.get(name)} here'}")
    return lines


def leaves(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield names with dots and values, as text, of nested settings."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(list(value) if isinstance(value, tuple) else value)


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
