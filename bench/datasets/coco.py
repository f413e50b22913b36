"""COCO and data sets in its format: one case per image and category, with masks; crowds are ignore regions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from bench.datasets.class_map import select
from bench.datasets.records import (
    Object,
    bad,
    boxed_case,
    check_bad,
    files_in,
    finish,
    load_checked,
    need_file,
    need_folder,
    need_number,
    picture_fault,
    sound_box,
)
from bench.types import Case, Dataset, UserError

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
        Cases with so many instances; crowds do not count.
    min_area : float
        Cases whose smallest instance covers at least so many pixels (COCO's ``area``).
    subset : str, optional
        File with one image id per line.
    class_map : str, optional
        csv (index,category) for networks with other classes than ImageNet's.
    match : {"strict", "loose"}
        See `bench.datasets.class_map.read_class_map`.
    allow_bad_records : bool
        Go on when more than 5 % of the pictures or annotations are bad.

    Returns
    -------
    Dataset
        Categories that no class means are not asked about. An image whose only annotation of a category is a
        crowd gives no case.

    Raises
    ------
    UserError
        A missing or foreign annotation file, a selection that makes no sense, too many bad records.
    """
    need_number("min_area", min_area, 0, whole=False)
    top = need_folder(root, "dataset.root")
    path = (
        need_file(annotations, "dataset.annotations")
        if annotations
        else need_file(top / "annotations" / f"instances_{split}.json", "dataset.root and dataset.split")
    )
    folder = need_folder(top / split, "dataset.root and dataset.split")
    content = _read(path)
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    selection = select(
        "coco", list(names.values()), categories, exclude, min_instances, max_instances, class_map, match
    )
    images, bad_images = _images(content["images"], folder, subset)
    objects, bad_annotations = _objects(content["annotations"], images, names, {one["id"] for one in content["images"]})
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
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as json ({' '.join(str(error).split())[:100]})") from error
    for key, fields in _FIELDS.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise UserError(f"{path} has no list {key!r}; it must be a COCO instances file (instances_<split>.json)")
        if any(not isinstance(row, dict) or any(field not in row for field in fields) for row in rows):
            raise UserError(f"{path}: an entry of {key!r} has no {' or '.join(fields)}; it is not in COCO's format")
    return content


def _images(
    rows: list[dict[str, Any]], folder: Path, subset: str | None
) -> tuple[dict[Any, dict[str, Any]], list[dict[str, str]]]:
    """Images whose file exists, by id in the order of ids, and the bad ones."""
    rows = sorted(rows, key=lambda row: (str(type(row["id"])), row["id"]))
    wrong = []
    if subset:
        lines = need_file(subset, "dataset.subset").read_text(encoding="utf-8").split()
        by_id = {str(row["id"]): row for row in rows}
        wanted = dict.fromkeys(line.lstrip("0") or "0" if line.isdigit() else line for line in lines)
        reason = f"{subset} names it, the annotations do not"
        wrong = [bad(f"image {key}", reason) for key in wanted if key not in by_id]
        rows = [row for key, row in by_id.items() if key in wanted]
    files = files_in(folder)
    good = {}
    for row in rows:
        name = str(row["file_name"])
        if "/" in name and (folder / name).is_file():
            files[name] = (folder / name).stat().st_size
        fault = picture_fault(name, files)
        if row["id"] in good:
            fault = "two images have this id"
        if fault:
            wrong.append(bad(f"image {row['id']} ({name})", fault))
        else:
            good[row["id"]] = row
    return good, wrong


def _objects(
    rows: list[dict[str, Any]], images: dict[Any, dict[str, Any]], names: dict[Any, str], known: set[Any]
) -> tuple[dict[Any, list[Object]], list[dict[str, str]]]:
    """Sound annotations of the chosen images by image id, and the bad ones."""
    good: dict[Any, list[Object]] = {}
    wrong = []
    for row in sorted(rows, key=lambda row: str(row.get("id", "")).zfill(20)):
        label = f"annotation {row.get('id')} of image {row['image_id']}"
        image = images.get(row["image_id"])
        if image is None:
            # Annotations of bad images, and of images outside the subset, are dropped with their image.
            if row["image_id"] not in known:
                wrong.append(bad(label, "there is no image with this id"))
            continue
        category = names.get(row.get("category_id"))
        if category is None:
            wrong.append(bad(label, f"there is no category {row.get('category_id')}"))
            continue
        try:
            x, y, w, h = row["bbox"]
            box = sound_box((x, y, x + w, y + h), image.get("width", np.inf), image.get("height", np.inf))
        except (KeyError, TypeError, ValueError):
            box = "its bbox is not four numbers"
        if isinstance(box, str):
            wrong.append(bad(label, box))
            continue
        good.setdefault(row["image_id"], []).append(
            Object(
                category,
                box,
                crowd=bool(row.get("iscrowd", 0)),
                area=row.get("area") or (box[2] - box[0]) * (box[3] - box[1]),
                segmentation=row.get("segmentation"),
            )
        )
    return good, wrong


def _case(image: dict[str, Any], folder: Path, category: str, target: tuple[int, ...], shown: list[Object]) -> Case:
    number = f"{image['id']:012d}" if isinstance(image["id"], int) else str(image["id"])
    size = (int(image["height"]), int(image["width"])) if "height" in image and "width" in image else None
    path = str(folder / image["file_name"])
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
    outlines = [one.segmentation for one in shown if one.category == category and not one.crowd]
    return replace(case, load=partial(_load, path, size, case.boxes, outlines))


def _load(
    path: str, size: tuple[int, int] | None, boxes: Tensor, segmentations: list[Any]
) -> tuple[Tensor, Tensor | None]:
    image = load_checked(path, size, boxes)
    height, width = image.shape[1:]
    if any(not one for one in segmentations):
        return image, None
    try:
        masks = decode(segmentations, height, width)
    except Exception as error:  # pycocotools raises Exception itself for a foreign segmentation
        raise ValueError(f"{path}: a segmentation cannot be decoded ({error})") from error
    for mask, box in zip(masks, boxes.tolist(), strict=True):
        if not mask.numpy().any():  # an outline thinner than a pixel; numpy stops at the first pixel that is set
            x0, y0, x1, y1 = (int(value) for value in box)
            mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return image, masks


def decode(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """Masks (M, height, width), bool, of COCO's segmentations: polygons, or run-length codes of either kind."""
    codes = [_run_lengths(one, height, width) for one in segmentations]
    for code in codes:
        if list(code["size"]) != [height, width]:
            raise ValueError(f"it is made for {code['size'][1]} x {code['size'][0]} pixels")
    # pycocotools gives (height, width, M), column by column; a copy in another order would cost as much again.
    return torch.from_numpy(mask_utils.decode(codes)).permute(2, 0, 1).view(torch.bool)


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if polygons:
            return mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))
        segmentation = {"size": [height, width], "counts": [height * width]}  # nothing
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation
