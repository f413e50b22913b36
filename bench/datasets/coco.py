"""COCO and data sets in its format: one case per image and category, with masks; crowds are ignore regions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.datasets.annotations.coco_file import (
    annotated_size,
    image_number,
    is_id,
    read_coco,
    sound_images,
    sound_objects,
)
from bench.datasets.annotations.segmentations import decode_masks
from bench.datasets.classes.class_map import select
from bench.datasets.files import (
    need_file,
    need_folder,
    need_name,
    need_number,
)
from bench.datasets.records import (
    Object,
    boxed_case,
    check_bad,
    finish,
    load_checked,
)
from bench.types import Case, Dataset, UserError, printable

CROWDS = ("ignore", "class")


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
    content = read_coco(path)
    names = {one["id"]: str(one["name"]) for one in content["categories"]}
    known = list(dict.fromkeys(names.values()))
    selection = select("coco", known, categories, exclude, min_instances, max_instances, class_map, match)
    images, bad_images = sound_images(content["images"], folder, subset)
    listed = {one["id"] for one in content["images"] if is_id(one["id"])}
    objects, bad_annotations = sound_objects(content["annotations"], images, names, listed, crowds)
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


def _case(image: dict[str, Any], folder: Path, category: str, target: tuple[int, ...], shown: list[Object]) -> Case:
    number, path, size = image_number(image["id"]), str(folder / image["file_name"]), annotated_size(image)
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
        x0, y0, x1, y1 = (int(value) for value in box)
        if not mask.numpy().any():  # an outline thinner than a pixel; numpy stops at the first pixel that is set
            mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        elif not mask[max(y0 - 1, 0) : y1 + 2, max(x0 - 1, 0) : x1 + 2].numpy().any():
            shown = " ".join(f"{value:g}" for value in box)
            raise ValueError(f"{printable(path)}: a segmentation lies outside its box {shown}")
    return image, masks
