"""Which outputs of a network mean a category (by WordNet, or a user's table), and which categories to ask about."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.datasets.files import check_names, need_file, need_number, need_text
from bench.datasets.images import shorten
from bench.types import UserError, printable

FOLDER = Path(__file__).parent
IMAGENET_OUTPUTS = 1000
MATCHES = ("strict", "loose")


@dataclass(frozen=True)
class Selection:
    """Which categories of a data set are asked about, in which images.

    `groups` are the output indices that mean a category, for networks with so many `outputs`; no output means those
    in `without`. Images have `least` to `most` instances (None: no upper limit).
    """

    categories: list[str]
    groups: dict[str, tuple[int, ...]]
    outputs: int | None
    without: list[str]
    least: int
    most: int | None

    def takes(self, instances: int) -> bool:
        """Whether an image with so many instances of a category is asked about."""
        return instances >= self.least and (self.most is None or instances <= self.most)


def select(
    table: str,
    known: Sequence[str],
    categories: Any,
    exclude: Any,
    min_instances: int,
    max_instances: int | None,
    class_map: str | None,
    match: str,
) -> Selection:
    """Check the parameters that data sets of many categories share; see `bench.datasets.coco.coco`.

    A class map of the user's own may name further categories than `known`, which are the data set's.
    UserError for an unknown category, one that no output of the network means, a number out of range, a bad class map.
    """
    need_number("min_instances", min_instances, 1)
    need_number("max_instances", min_instances if max_instances is None else max_instances, min_instances)
    groups, outputs = read_class_map(table, class_map, match)
    if not any(one in groups for one in known):
        some = printable(", ".join([*known[:3], "…"] if len(known) > 3 else known))
        raise UserError(
            f"dataset={table}: no class of {class_map or 'ImageNet'} means any of its {len(known)} categories "
            f"({some}); say which outputs of the network mean them with dataset.class_map=FILE (index,category)"
        )
    wanted, unwanted = names_list("categories", categories), names_list("exclude", exclude) or []
    check_names("categories", wanted or [], known)
    check_names("exclude", unwanted, known)
    for name in wanted or []:
        if name not in groups:
            raise UserError(f"dataset.categories: no class of the class map means {name!r}; leave it out")
    return Selection(
        categories=[one for one in known if one in groups and one in (wanted or known) and one not in unwanted],
        groups=groups,
        outputs=outputs,
        without=[name for name in known if name not in groups],
        least=min_instances,
        most=max_instances,
    )


def names_list(setting: str, value: Any) -> list[str] | None:
    """Accept a name or a list of names; None stays None."""
    if value is None or isinstance(value, str):
        return [value] if value is not None else None
    if not isinstance(value, Sequence):
        raise UserError(f"dataset.{setting}={printable(value)} must be a name or a list: 'dataset.{setting}=[a,b]'")
    return [str(one) for one in value]


@cache
def imagenet_classes() -> dict[str, tuple[int, str]]:
    """Return index and name of each of the 1,000 ImageNet classes by its synset; names are unique."""
    rows = read_table(FOLDER / "imagenet.csv", ("index", "wnid", "name"))
    return {row["wnid"]: (int(row["index"]), row["name"]) for row in rows}


def read_class_map(name: str, own: str | None, match: str = "strict") -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Read which output indices mean which category, and how many outputs (None: not known) the table is made for.

    The shipped tables of ``coco`` and ``voc`` were made by scripts/make_class_maps.py from WordNet 3.0; `own` is a csv
    with the columns ``index`` and ``category`` to use instead. Where a table has a column ``match``, "loose" adds
    classes whose pictures show the category though the words differ (a liner is a boat). UserError if there is no such
    file, a column is missing, or an index is no whole number from 0.
    """
    if match not in MATCHES:
        raise UserError(f"dataset.match={printable(match)} is unknown; it takes {' or '.join(MATCHES)}")
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
            raise UserError(
                f"{printable(path)}: index {shorten(row['index'])!r} is no output index; use whole numbers from 0"
            )
        groups.setdefault(row["category"] or "", []).append(index)
    if not groups:
        raise UserError(f"{printable(path)} holds no rows; it takes one row per output: index,category")
    return {key: tuple(sorted(set(value))) for key, value in groups.items()}, None if own else IMAGENET_OUTPUTS


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a csv that has at least the named columns.

    Raises
    ------
    UserError
        It cannot be read as text or lacks a column.
    """
    reader = csv.DictReader(io.StringIO(need_text(path), newline=""), skipinitialspace=True)
    where = printable(path)
    try:
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise UserError(f"{where} has no column {missing[0]!r}; its first line must name {','.join(columns)}")
        return list(reader)
    except csv.Error as error:
        raise UserError(f"{where} cannot be read as csv ({error})") from error


def class_name(group: tuple[int, ...], outputs: int) -> str:
    """ImageNet's name of a class where the network has ImageNet's outputs, else nothing."""
    if len(group) != 1 or outputs != IMAGENET_OUTPUTS:
        return ""
    return {index: name for index, name in imagenet_classes().values()}[group[0]]
