"""PASCAL VOC: one case per image and class, with the ``difficult`` flags; several years at once."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.datasets.class_map import class_map as read_class_map
from bench.datasets.records import (
    asked_categories,
    bad,
    box_tensor,
    check_bad,
    check_names,
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

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class _Object(NamedTuple):
    """One sound object of an annotation."""

    category: str
    box: tuple[float, float, float, float]
    difficult: bool


def voc(
    *,
    root: str | os.PathLike[str],
    split: str = "test",
    years: Sequence[int | str] | int | str = (2007,),
    categories: Sequence[str] | str | None = None,
    exclude: Sequence[str] | str | None = None,
    min_instances: int = 1,
    max_instances: int | None = None,
    class_map: str | None = None,
    match: str = "strict",
    allow_bad_records: bool = False,
) -> Dataset:
    """List the cases of VOCdevkit: ``VOC<year>/{JPEGImages,Annotations,ImageSets/Main}``.

    Parameters
    ----------
    root : path
        The folder VOCdevkit.
    split : str
        Image set, e.g. ``test``, ``trainval``.
    years : int or sequence of int
        An image that several years hold counts once.
    categories, exclude : str or sequence of str, optional
        Classes to ask about, or not to. Objects of the others stay in ``other_boxes``.
    min_instances, max_instances : int
        Cases with so many instances, difficult ones included.
    class_map : str, optional
        csv (index,category) for networks with other classes than ImageNet's.
    match : {"strict", "loose"}
        See `bench.datasets.class_map.class_map`.
    allow_bad_records : bool
        Go on when more than 5 % of the images or objects are bad.

    Returns
    -------
    Dataset
        VOC counts pixels from 1 and its xmax, ymax lie inside the box; here [xmin - 1, ymin - 1, xmax, ymax].
        A missing ``difficult`` (it is unknown for some of VOC2012) means not difficult.

    Raises
    ------
    UserError
        A missing folder or image set, a selection that makes no sense, too many bad records.
    """
    need_number("min_instances", min_instances, 1)
    need_number("max_instances", min_instances if max_instances is None else max_instances, min_instances)
    top = need_folder(root, "dataset.root")
    groups, outputs = read_class_map("voc", class_map, match)
    asked = asked_categories(categories, exclude, CLASSES, groups)
    listed = [years] if isinstance(years, int | str) else list(years)
    if not listed:
        raise UserError("dataset.years is empty; name one or several, e.g. 'dataset.years=[2007,2012]'")

    cases: list[Case] = []
    bad_images: list[dict[str, str]] = []
    bad_objects: list[dict[str, str]] = []
    seen: set[str] = set()
    total_objects = unmapped = repeated = 0
    for year in listed:
        folder = need_folder(top / f"VOC{year}", "dataset.root and dataset.years")
        files = files_in(need_folder(folder / "JPEGImages", "dataset.root"))
        for name in _image_set(folder, split):
            if name in seen:
                repeated += 1
                continue
            seen.add(name)
            label = f"VOC{year}/{name}"
            fault = picture_fault(f"{name}.jpg", files)
            read = fault or _read(folder / "Annotations" / f"{name}.xml")
            if isinstance(read, str):
                bad_images.append(bad(label, read))
                continue
            size, rows = read
            total_objects += len(rows)
            bad_objects += [bad(label, row) for row in rows if isinstance(row, str)]
            objects = [row for row in rows if not isinstance(row, str)]
            unmapped += len({one.category for one in objects if one.category not in groups})
            picture = str(folder / "JPEGImages" / f"{name}.jpg")
            for category in asked:
                mine = [one for one in objects if one.category == category]
                if mine and min_instances <= len(mine) <= (max_instances or len(mine)):
                    cases.append(_case(name, picture, size, category, groups[category], objects))
    check_bad("voc", "images", bad_images, len(seen), allow_bad_records)
    check_bad("voc", "objects", bad_objects, total_objects, allow_bad_records)
    notes = [f"voc: {repeated} images are in several years and count once"] if repeated else []
    without = [name for name in CLASSES if name not in groups]
    if without:
        notes.append(
            f"voc: not asked about, because no class means it: {', '.join(without)} ({unmapped} image-class pairs)"
        )
    return finish("voc", cases, bad_images + bad_objects, notes, outputs, allow_bad_records)


def _image_set(folder: Path, split: str) -> list[str]:
    """Names in an image set; of a class's own set (``cat_test``: name and 1, 0 or -1) those with the class."""
    sets = need_folder(folder / "ImageSets" / "Main", "dataset.root")
    path = sets / f"{split}.txt"
    if not path.is_file():
        check_names("split", [split], [one.stem for one in sets.glob("*.txt")])
    rows = [line.split() for line in need_file(path, "dataset.split").read_text(encoding="utf-8").splitlines()]
    return [row[0] for row in rows if row and row[1:] != ["-1"]]


def _read(path: Path) -> tuple[tuple[int, int] | None, list[_Object | str]] | str:
    """Annotated (height, width) and the objects, a str for each bad one; a str alone where the file is bad."""
    if not path.is_file():
        return "its annotation is not there"
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        return f"its annotation cannot be read ({error})"
    try:
        height, width = (int(tree.findtext(f"size/{side}", "")) for side in ("height", "width"))
        size = (height, width) if height > 0 and width > 0 else None
    except ValueError:
        size = None
    return size, [_object(node, size) for node in tree.findall("object")]


def _object(node: ElementTree.Element, size: tuple[int, int] | None) -> _Object | str:
    category = (node.findtext("name") or "").strip()
    if category not in CLASSES:
        return f"there is no class {category!r}"
    try:
        x0, y0, x1, y1 = (float(node.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return f"a {category} has no box of four numbers"
    height, width = size or (float("inf"), float("inf"))
    # Pixels are counted from 1 and xmax, ymax belong to the box.
    box = sound_box((x0 - 1, y0 - 1, x1, y1), width, height)
    if isinstance(box, str):
        return f"{category}: {box}"
    return _Object(category, box, (node.findtext("difficult") or "0").strip() == "1")


def _case(
    name: str,
    picture: str,
    size: tuple[int, int] | None,
    category: str,
    target: tuple[int, ...],
    objects: list[_Object],
) -> Case:
    mine = [one for one in objects if one.category == category]
    boxes = box_tensor(one.box for one in mine)
    return Case(
        id=f"{name}/{category}",
        image_id=name,
        class_name=category,
        target=target,
        load=partial(_load, picture, size, boxes),
        boxes=boxes,
        other_boxes=box_tensor(one.box for one in objects if one.category != category),
        difficult=torch.tensor([one.difficult for one in mine], dtype=torch.bool),
        other_difficult=torch.tensor([o.difficult for o in objects if o.category != category], dtype=torch.bool),
    )


def _load(path: str, size: tuple[int, int] | None, boxes: torch.Tensor) -> tuple[torch.Tensor, None]:
    return load_checked(path, size, boxes), None
