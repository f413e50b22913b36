"""Which outputs of a network are a data set's class: tables from WordNet, or a user's own."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from bench.datasets.records import need_file
from bench.types import UserError

FOLDER = Path(__file__).parent / "classes"
IMAGENET_OUTPUTS = 1000
MATCHES = ("strict", "loose")


@cache
def imagenet_classes() -> dict[str, tuple[int, str]]:
    """Return index and name of each of the 1,000 ImageNet classes by its synset; names are unique."""
    rows = read_table(FOLDER / "imagenet.csv", ("index", "wnid", "name"))
    return {row["wnid"]: (int(row["index"]), row["name"]) for row in rows}


def class_map(name: str, own: str | None, match: str = "strict") -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Read which output indices mean which category.

    Parameters
    ----------
    name : {"coco", "voc"}
        The shipped table, made by scripts/make_class_maps.py from WordNet 3.0.
    own : str or None
        A csv with the columns ``index`` and ``category`` to use instead, for a network with other classes.
    match : {"strict", "loose"}
        ``loose`` adds classes whose pictures show the category though the words differ (a liner is a boat).
        Applies to tables with a column ``match``.

    Returns
    -------
    groups : dict
    outputs : int or None
        Number of outputs the table is made for; None for a user's own.

    Raises
    ------
    UserError
        No such file, a missing column, or an index that is no whole number from 0.
    """
    if match not in MATCHES:
        raise UserError(f"dataset.match={match} is unknown; it takes {' or '.join(MATCHES)}")
    path = need_file(own, "dataset.class_map") if own else FOLDER / f"imagenet_to_{name}.csv"
    groups: dict[str, list[int]] = {}
    for row in read_table(path, ("index", "category")):
        if row.get("match") == "loose" and match == "strict":
            continue
        try:
            index = int(row["index"])
        except (TypeError, ValueError):
            index = -1
        if index < 0:
            raise UserError(f"{path}: index {row['index']!r} is no output index; use whole numbers from 0")
        groups.setdefault(row["category"] or "", []).append(index)
    if not groups:
        raise UserError(f"{path} holds no rows; it takes one row per output: index,category")
    return {key: tuple(sorted(set(value))) for key, value in groups.items()}, None if own else IMAGENET_OUTPUTS


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a csv that has at least the named columns.

    Raises
    ------
    UserError
        It cannot be read as text or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            found = reader.fieldnames or []
            missing = [column for column in columns if column not in found]
            if missing:
                raise UserError(f"{path} has no column {missing[0]!r}; its first line must name {','.join(columns)}")
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as csv ({error})") from error
