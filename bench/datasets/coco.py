"""COCO and data sets in its format: one case per image and category, with masks; crowds are ignore regions."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.datasets.classes.class_map import select
from bench.datasets.files import (
    files_in,
    leads_out,
    need_file,
    need_folder,
    need_name,
    need_number,
    need_text,
    picture_fault,
)
from bench.datasets.images import decode_masks, is_number, shorten
from bench.datasets.records import (
    Object,
    bad,
    boxed_case,
    check_bad,
    finish,
    load_checked,
    sound_box,
)
from bench.types import Case, Dataset, UserError, printable

CROWDS = ("ignore", "class")
_FIELDS = {"images": ("id", "file_name"), "annotations": ("image_id",), "categories": ("id", "name")}


def coco(
    *,
    root: str | os.PathLike[str],
    split: str = "val2017",
    annotations: str | None = None,
    categories: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    min_instances: int = 1,
    max_instances: int | None = None,
    min_area: float = 0,
    crowds: str = "ignore",
    subset: str | None = None,
    class_map: str | None = None,
    match: str = "strict",
    allow_bad_records: bool = False,
) -> Dataset:
    """List the cases of a data set in COCO's layout: ``<split>/``, ``annotations/instances_<split>.json``.

    Parameters
    ----------
    root : path
    split : str
        Folder of the pictures.
    annotations : str, optional
        Another annotation file.
    categories, exclude : str or sequence of str, optional
        Categories to ask about, or not to. Objects of the others stay in ``other_boxes``.
    min_instances, max_instances : int
        Cases with so many instances; crowds that are ignored do not count.
    min_area : float
        Cases whose smallest instance covers at least so many pixels (COCO's ``area``).
    crowds : {"ignore", "class"}
        A crowd (``iscrowd``) is a region where an object may or may not be, which counts neither way; or, as in
        TorchRay's pointing game, one more instance of the class.
    subset : str, optional
        File with one image id per line.
    class_map : str, optional
        csv (index,category) for networks with other classes than ImageNet's.
    match : {"strict", "loose"}
        See `bench.datasets.classes.class_map.read_class_map`.
    allow_bad_records : bool
        Go on when more than 5 % of the pictures or annotations are bad.

    Returns
    -------
    Dataset
        Categories that no class means are not asked about. An image whose only annotation of a category is a
        crowd gives no case, unless crowds count as the class. Categories of one name are one category.

    Raises
    ------
    UserError
        A missing or foreign annotation file, a selection that makes no sense, too many bad records.
    """
    need_number("min_area", min_area, 0, whole=False)
    if crowds not in CROWDS:
        raise UserError(f"dataset.crowds={printable(crowds)} is unknown; it takes {' or '.join(CROWDS)}")
    top, split = need_folder(root, "dataset.root"), need_name("split", split)
    path = (
        need_file(annotations, "dataset.annotations")
        if annotations
        else need_file(top / "annotations" / f"instances_{split}.json", "dataset.root and dataset.split")
    )
    folder = need_folder(top / split, "dataset.root and dataset.split")
    content = _read(path)
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    known = list(dict.fromkeys(names.values()))
    selection = select("coco", known, categories, exclude, min_instances, max_instances, class_map, match)
    images, bad_images = _images(content["images"], folder, subset)
    listed = {one["id"] for one in content["images"] if _is_id(one["id"])}
    objects, bad_annotations = _objects(content["annotations"], images, names, listed, crowds)
    check_bad("coco", "pictures", bad_images, len(images) + len(bad_images), allow_bad_records)
    check_bad("coco", "annotations", bad_annotations, len(content["annotations"]), allow_bad_records)

    cases = []
    unmapped = 0
    for key, image in images.items():
        shown = objects.get(key, [])
        unmapped += len({one.category for one in shown if one.category in selection.without and not one.crowd})
        for category in selection.categories:
            areas = [one.area for one in shown if one.category == category and not one.crowd]
            if selection.takes(len(areas)) and min(areas) >= min_area:
                cases.append(_case(image, folder, category, selection.groups[category], shown))
    pairs = f"{len(selection.without)} ({unmapped} image-category pairs)"
    notes = [f"coco: categories not asked about, because no class means them: {pairs}"] if selection.without else []
    return finish("coco", cases, bad_images + bad_annotations, notes, selection.outputs, allow_bad_records)


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(need_text(path))
    except (ValueError, RecursionError) as error:  # a list in a list in a list, a thousand times
        raise UserError(f"{printable(path)} cannot be read as json ({printable(error)[:100]})") from error
    for key, fields in _FIELDS.items():
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
        if not _is_id(row["id"]):
            raise UserError(f"{printable(path)}: the id {shorten(row['id'])} of a category is no number and no name")
    return content


def _is_id(value: Any) -> bool:
    """Whether a value of the file can be an id: a whole number or a name."""
    return isinstance(value, str) or (is_number(value) and value == value // 1)


def _number(key: Any) -> str:
    """Id of an image as it is written in a case's id: 12 digits for a number, as COCO's pictures are called."""
    return printable(key) if isinstance(key, str) else f"{int(key):012d}"


def _images(
    rows: list[dict[str, Any]], folder: Path, subset: str | None
) -> tuple[dict[Any, dict[str, Any]], list[dict[str, str]]]:
    """Images whose file exists, by id in the order of ids, and the bad ones."""
    no_id = "its id is no whole number and no name"
    wrong = [bad(f"image {shorten(row['id'])}", no_id) for row in rows if not _is_id(row["id"])]
    rows = sorted((row for row in rows if _is_id(row["id"])), key=lambda row: (isinstance(row["id"], str), row["id"]))
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
        if _number(row["id"]) in taken:
            fault = "two images have this id"
        if fault:
            wrong.append(bad(f"image {row['id']} ({shorten(row['file_name'])})", fault))
        else:
            taken.add(_number(row["id"]))
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


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Annotated (height, width), None where they are left blank."""
    return (int(image["height"]), int(image["width"])) if image.get("height") else None


def _objects(
    rows: list[dict[str, Any]], images: dict[Any, dict[str, Any]], names: dict[Any, str], listed: set[Any], crowds: str
) -> tuple[dict[Any, list[Object]], list[dict[str, str]]]:
    """Sound annotations of the chosen images by image id, and the bad ones."""
    good: dict[Any, list[Object]] = {}
    wrong = []
    for row in sorted(rows, key=lambda row: shorten(row.get("id", "")).zfill(20)):
        key = row["image_id"]
        label = f"annotation {shorten(row.get('id'))} of image {shorten(key)}"
        if not _is_id(key) or key not in listed:
            wrong.append(bad(label, "there is no image with this id"))
        elif key in images:
            # Annotations of bad images, and of images outside the subset, are dropped with their image.
            made = _object(row, _size(images[key]), names, crowds)
            if isinstance(made, str):
                wrong.append(bad(label, made))
            else:
                good.setdefault(key, []).append(made)
    return good, wrong


def _object(row: dict[str, Any], size: tuple[int, int] | None, names: dict[Any, str], crowds: str) -> Object | str:
    """One annotation, or what is wrong with it."""
    category = names.get(row.get("category_id")) if _is_id(row.get("category_id")) else None
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


def _case(image: dict[str, Any], folder: Path, category: str, target: tuple[int, ...], shown: list[Object]) -> Case:
    number, path, size = _number(image["id"]), str(folder / image["file_name"]), _size(image)
    case = boxed_case(
        case_id=f"{number}/{category}",
        image_id=number,
        class_name=category,
        category=category,
        target=target,
        objects=shown,
        path=path,
        size=size,
    )
    instances = [one for one in shown if one.category == category and not one.crowd]
    load = partial(_load, path, size, case.boxes, [one.segmentation for one in instances])
    return replace(case, load=load, outlines=" ".join(one.outline for one in instances))


def _load(
    path: str, size: tuple[int, int] | None, boxes: Tensor, segmentations: list[Any]
) -> tuple[Tensor, Tensor | None]:
    image = load_checked(path, size, boxes)
    height, width = image.shape[1:]
    if any(not one for one in segmentations):
        return image, None
    try:
        masks = decode_masks(segmentations, height, width)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: a segmentation cannot be decoded ({printable(error)})") from error
    for mask, box in zip(masks, boxes.tolist(), strict=True):
        if not mask.numpy().any():  # an outline thinner than a pixel; numpy stops at the first pixel that is set
            x0, y0, x1, y1 = (int(value) for value in box)
            mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return image, masks
