"""PASCAL VOC: one case per image and class, with the ``difficult`` flags; several years at once."""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.datasets.classes.class_map import read_class_map, select
from bench.datasets.files import (
    check_names,
    files_in,
    need_file,
    need_folder,
    need_name,
    need_text,
    picture_fault,
    read_text,
)
from bench.datasets.images import picture_extensions
from bench.datasets.records import Object, bad, boxed_case, check_bad, finish, sound_box
from bench.types import Dataset, UserError, counted

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Annotation(NamedTuple):
    """A picture's XML file: (height, width) where known, and of each object its name, box as written, ``difficult``.

    The box is (xmin, ymin, xmax, ymax), None where it is not four numbers.
    """

    size: tuple[int, int] | None
    objects: list[tuple[str, tuple[float, float, float, float] | None, bool]]


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

    Pictures may have any extension of `bench.datasets.images.FORMATS`; where two have one name, ``.jpg`` is taken.

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
        csv (index,category) for networks with other classes than ImageNet's; it may name classes that VOC has not.
    match : {"strict", "loose"}
        See `bench.datasets.classes.class_map.read_class_map`.
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
    top, split = need_folder(root, "dataset.root"), need_name("split", split)
    own = read_class_map("voc", class_map, match)[0] if class_map else {}
    classes = list(dict.fromkeys((*CLASSES, *own)))
    selection = select("voc", classes, categories, exclude, min_instances, max_instances, class_map, match)
    listed = [
        need_name("years", year)
        for year in ([years] if isinstance(years, str) or not isinstance(years, Sequence) else years)
    ]
    if not listed:
        raise UserError("dataset.years is empty; name one or several, e.g. 'dataset.years=[2007,2012]'")

    cases = []
    bad_images: list[dict[str, str]] = []
    bad_objects: list[dict[str, str]] = []
    seen: set[str] = set()
    total_objects = unmapped = repeated = 0
    for year in listed:
        folder = need_folder(top / f"VOC{year}", "dataset.root and dataset.years")
        files = files_in(need_folder(folder / "JPEGImages", "dataset.root"))
        pictures = _pictures(files)
        for name in _image_set(folder, split, pictures):
            if name in seen:
                repeated += 1
                continue
            seen.add(name)
            label = f"VOC{year}/{name}"
            picture = pictures.get(name, "")
            annotation = picture_fault(picture, files) or read_xml(folder / "Annotations" / f"{name}.xml")
            if isinstance(annotation, str):
                bad_images.append(bad(label, annotation))
                continue
            objects, reasons = _sound(annotation, classes)
            total_objects += len(annotation.objects)
            bad_objects += [bad(label, reason) for reason in reasons]
            unmapped += len({one.category for one in objects if one.category in selection.without})
            for category in selection.categories:
                if selection.takes(sum(one.category == category for one in objects)):
                    case = boxed_case(
                        case_id=f"{name}/{category}",
                        image_id=name,
                        class_name=category,
                        category=category,
                        target=selection.groups[category],
                        objects=objects,
                        path=str(folder / "JPEGImages" / picture),
                        size=annotation.size,
                    )
                    cases.append(case)
    check_bad("voc", "images", bad_images, len(seen), allow_bad_records)
    check_bad("voc", "objects", bad_objects, total_objects, allow_bad_records)
    notes = [f"voc: {counted(repeated, 'image')} named more than once, counted once"] if repeated else []
    if selection.without:
        names = f"{', '.join(selection.without)} ({unmapped} image-class pairs)"
        notes.append(f"voc: not asked about, because no class means it: {names}")
    return finish("voc", cases, bad_images + bad_objects, notes, selection.outputs, allow_bad_records)


def _pictures(files: Iterable[str]) -> dict[str, str]:
    """Names of picture files by their stem; ``.jpg`` goes before others of the same stem."""
    readable = picture_extensions()
    split = sorted((os.path.splitext(name) for name in files), key=lambda parts: (parts[1].lower() == ".jpg", parts))
    return {stem: stem + extension for stem, extension in split if extension.lower() in readable}


def _image_set(folder: Path, split: str, pictures: Mapping[str, str]) -> list[str]:
    """Names in an image set; of a class's own set (``cat_test``: name and 1, 0 or -1) those with the class."""
    sets = need_folder(folder / "ImageSets" / "Main", "dataset.root")
    path = sets / f"{split}.txt"
    if not path.is_file():
        check_names("split", [split], [one.stem for one in sets.glob("*.txt")])
    names = []
    for line in need_text(need_file(path, "dataset.split")).split("\n"):
        name, flag = line.strip(), ""
        if name not in pictures and (parts := name.rsplit(maxsplit=1))[1:] and parts[1] in ("1", "0", "-1"):
            name, flag = parts
        if name and flag != "-1":
            names.append(name)
    return names


def read_xml(path: Path) -> Annotation | str:
    """Read an annotation in VOC's XML format, which ImageNet has too; a str says why it cannot be read."""
    if not os.path.isfile(path):
        return "its annotation is not there"
    try:
        with path.open("rb") as file:
            declared = re.match(rb"[^<]{0,9}<\?xml[^>]*encoding=[\"']([\w.-]+)", file.read(200))
        # As text, since expat knows five encodings only.
        tree = ElementTree.fromstring(read_text(path, declared[1].decode() if declared else None))
    except (ElementTree.ParseError, OSError, ValueError) as error:
        return f"its annotation cannot be read ({error})"
    if tree.tag != "annotation":
        return f"its annotation is <{tree.tag}> and not <annotation>"
    sides = [(tree.findtext(f"size/{side}") or "0").strip() for side in ("height", "width")]
    height, width = map(_to_number, sides)
    # Zeros are what some tools write for a size that they do not know.
    if not all(0 <= side < math.inf and side == side // 1 for side in (height, width)):
        return f"the size in its annotation, {sides[1]} x {sides[0]}, is none"
    objects: list[tuple[str, tuple[float, float, float, float] | None, bool]] = []
    for node in tree.findall("object"):
        x0, y0, x1, y1 = (_to_number(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        box = None if any(map(math.isnan, (x0, y0, x1, y1))) else (x0, y0, x1, y1)
        difficult = (node.findtext("difficult") or "0").strip() == "1"
        objects.append(((node.findtext("name") or "").strip(), box, difficult))
    return Annotation((int(height), int(width)) if height and width else None, objects)


def _to_number(text: str | None) -> float:
    """Read a number, NaN where a text is none; Python's own form 1_000 is none."""
    try:
        return float((text or "").replace("_", "x"))
    except ValueError:
        return math.nan


def _sound(annotation: Annotation, classes: Sequence[str]) -> tuple[list[Object], list[str]]:
    """Sound objects of an annotation, and what is wrong with each of the others."""
    height, width = annotation.size or (math.inf, math.inf)
    objects, reasons = [], []
    for category, edges, difficult in annotation.objects:
        if category not in classes:
            reasons.append(f"there is no class {category!r}; dataset.class_map=FILE names classes of your own")
            continue
        if edges is None:
            reasons.append(f"a {category} has no box of four numbers")
            continue
        # Pixels are counted from 1 and xmax, ymax belong to the box.
        box = sound_box((edges[0] - 1, edges[1] - 1, edges[2], edges[3]), width, height)
        if isinstance(box, str):
            reasons.append(f"{category}: {box}")
        else:
            objects.append(Object(category, box, difficult))
    return objects, reasons
