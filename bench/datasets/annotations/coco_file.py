"""Read an instances file in COCO's format into sound images and objects, and name the bad ones."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from bench.datasets.files import (
    files_in,
    leads_out,
    need_file,
    need_text,
    picture_fault,
)
from bench.datasets.images import is_number, shorten
from bench.datasets.records import (
    Object,
    bad,
    sound_box,
)
from bench.types import UserError, printable

FIELDS = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}


def read_coco(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the lists of images, annotations and categories; every entry has the fields in `FIELDS`."""
    try:
        content = json.loads(need_text(path))
    except (ValueError, RecursionError) as error:  # a list in a list in a list, a thousand times
        raise UserError(f"{printable(path)} cannot be read as json ({printable(error)[:100]})") from error
    for key, fields in FIELDS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UserError(
                f"{printable(path)} has no list {key!r}; it must be a COCO instances file (instances_<split>.json)"
            )
        if any(not isinstance(row, dict) or any(field not in row for field in fields) for row in rows):
            raise UserError(
                f"{printable(path)}: an entry of {key!r} has no {' or '.join(fields)}; it is not in COCO's format"
            )
    for row in content["categories"]:
        if not is_id(row["id"]):
            raise UserError(f"{printable(path)}: the id {shorten(row['id'])} of a category is no number and no name")
    return content


def is_id(value: Any) -> bool:
    """Whether a value of the file can be an id: a whole number or a name."""
    return isinstance(value, str) or (is_number(value) and value == value // 1)


def image_number(key: Any) -> str:
    """Id of an image as it is written in a case's id: 12 digits for a number, as COCO's pictures are called."""
    return printable(key) if isinstance(key, str) else f"{int(key):012d}"


def sound_images(
    rows: list[dict[str, Any]], folder: Path, subset: str | None
) -> tuple[dict[Any, dict[str, Any]], list[dict[str, str]]]:
    """Images whose file exists, by id in the order of ids, and the bad ones."""
    no_id = "its id is no whole number and no name"
    wrong = [bad(f"image {shorten(row['id'])}", no_id) for row in rows if not is_id(row["id"])]
    rows = sorted((row for row in rows if is_id(row["id"])), key=lambda row: (isinstance(row["id"], str), row["id"]))
    if subset:
        lines = need_text(need_file(subset, "dataset.subset")).split()
        names = {str(row["id"]) for row in rows}
        wanted = dict.fromkeys(line.lstrip("0") or "0" if line.isdigit() else line for line in lines)
        reason = f"{subset} names it, the annotations do not"
        wrong = [bad(f"image {key}", reason) for key in wanted if key not in names]
        rows = [row for row in rows if str(row["id"]) in wanted]
    files = files_in(folder)
    good: dict[Any, dict[str, Any]] = {}
    taken: set[str] = set()
    for row in rows:
        fault = _image_fault(row, folder, files)
        if image_number(row["id"]) in taken:
            fault = "two images have this id"
        if fault:
            wrong.append(bad(f"image {row['id']} ({shorten(row['file_name'])})", fault))
        else:
            taken.add(image_number(row["id"]))
            good[row["id"]] = row
    return good, wrong


def _image_fault(row: dict[str, Any], folder: Path, files: dict[str, int]) -> str | None:
    """Say what is wrong with an image's entry or file; None where nothing is."""
    name = row["file_name"]
    if not isinstance(name, str) or "\0" in name:
        return "its file_name is no name"
    if leads_out(folder, name):
        return "its file_name leads out of the folder of pictures"
    if "/" in name and os.path.isfile(folder / name):
        files[name] = os.path.getsize(folder / name)
    sides: list[Any] = [row.get(side) for side in ("height", "width")]
    # A width and height of 0, or of null, are left blank by some tools.
    if any(sides) and not all(is_number(side) and 1 <= side < math.inf and side == side // 1 for side in sides):
        return f"its width and height, {shorten(row.get('width'))} and {shorten(row.get('height'))}, are no size"
    return picture_fault(name, files)


def annotated_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Annotated (height, width), None where they are left blank."""
    return (int(image["height"]), int(image["width"])) if image.get("height") else None


def sound_objects(
    rows: list[dict[str, Any]], images: dict[Any, dict[str, Any]], names: dict[Any, str], listed: set[Any], crowds: str
) -> tuple[dict[Any, list[Object]], list[dict[str, str]]]:
    """Sound annotations of the chosen images by image id, and the bad ones."""
    good: dict[Any, list[Object]] = {}
    wrong, known = [], set[str]()
    for row in sorted(rows, key=lambda row: shorten(row.get("id", "")).zfill(20)):
        key = row["image_id"]
        label = f"annotation {shorten(row.get('id'))} of image {shorten(key)}"
        if not is_id(key) or key not in listed:
            wrong.append(bad(label, "there is no image with this id"))
        elif key in images:
            # Annotations of bad images, and of images outside the subset, are dropped with their image.
            made = _object(row, annotated_size(images[key]), names, crowds)
            same = repr([row.get(field) for field in ("id", "image_id", "category_id", "bbox")])
            if isinstance(made, str) or same in known:
                wrong.append(bad(label, made if isinstance(made, str) else "it stands there twice"))
            else:
                known.add(same)
                good.setdefault(key, []).append(made)
    return good, wrong


def _object(row: dict[str, Any], size: tuple[int, int] | None, names: dict[Any, str], crowds: str) -> Object | str:
    """One annotation, or what is wrong with it."""
    category = names.get(row.get("category_id")) if is_id(row.get("category_id")) else None
    if category is None:
        return f"there is no category {shorten(row.get('category_id'))}"
    edges = row.get("bbox")
    if not isinstance(edges, list) or len(edges) != 4 or not all(map(is_number, edges)):
        return f"its bbox, {shorten(edges)}, is not four numbers"
    x, y, width, height = edges
    box = sound_box((x, y, x + width, y + height), *(size or (math.inf, math.inf))[::-1])
    if isinstance(box, str):
        return box
    if row.get("iscrowd") not in (None, 0, 1, "0", "1"):
        return f"its iscrowd, {shorten(row['iscrowd'])}, is neither 0 nor 1"
    area = row.get("area") or (box[2] - box[0]) * (box[3] - box[1])
    if not is_number(area) or not 0 <= area < math.inf:
        return f"its area, {shorten(area)}, is no number of pixels"
    segmentation = row.get("segmentation")
    try:
        outline = json.dumps(segmentation, sort_keys=True).encode()
    except RecursionError:
        return "its segmentation is nested too deeply"
    return Object(
        category,
        box,
        crowd=crowds == "ignore" and row.get("iscrowd") in (1, "1"),
        area=area,
        segmentation=segmentation,
        outline=hashlib.blake2b(outline, digest_size=8).hexdigest(),
    )
