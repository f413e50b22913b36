"""ImageNet (ILSVRC) with boxes: from Kaggle's csv or the official XML files."""

from __future__ import annotations

import csv
import math
import os
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.datasets.class_map import IMAGENET_OUTPUTS, imagenet_classes
from bench.datasets.folder import picture_extensions
from bench.datasets.records import (
    bad,
    box_tensor,
    check_bad,
    finish,
    load_checked,
    need_folder,
    sound_box,
)
from bench.types import Case, Dataset, UserError


class _Picture(NamedTuple):
    """A picture's file, whether it is empty, and its folder's name where that is a synset."""

    path: Path
    empty: bool
    synset: str | None


class _Annotation(NamedTuple):
    """Annotated (height, width) where known, and (synset, xyxy exclusive) of each object."""

    size: tuple[int, int] | None
    objects: list[tuple[str, tuple[float, float, float, float]]]


def imagenet(
    *,
    root: str | os.PathLike[str],
    split: str = "val",
    annotations: str | None = None,
    allow_bad_records: bool = False,
) -> Dataset:
    """List ILSVRC's images with their boxes, one case each.

    Pictures lie in ``<split>/`` or ``[ILSVRC/]Data/CLS-LOC/<split>/``, all together or one folder a synset. Boxes come
    from ``LOC_<split>_solution.csv`` or the XML files below ``[ILSVRC/]Annotations/CLS-LOC/<split>/``.

    Parameters
    ----------
    root : path
    split : str
    annotations : str, optional
        Another csv file, or folder of XML files.
    allow_bad_records : bool
        Go on when more than 5 % of the images are bad.

    Returns
    -------
    Dataset
        Annotators counted pixels from 0 and xmax, ymax belong to the box, so 1 is added to them; a csv with
        fractions (boxes of resized pictures) is taken as it is. An annotated image's class is its first object's.
        Pictures in a synset's folder that have no annotation are left out (ILSVRC's training images, of which half have
        boxes).

    Raises
    ------
    UserError
        No pictures, no annotations, too many bad records.
    """
    top = need_folder(root, "dataset.root")
    folder = next((f for f in (top / split, *_places(top, "Data", split)) if f.is_dir()), None)
    if folder is None:
        raise UserError(f"{top} has no folder {split}/ nor Data/CLS-LOC/{split}/; check dataset.root and dataset.split")
    source = _annotation_source(top, split, annotations)
    known = read_csv(source) if source.is_file() else {path.stem: path for path in source.rglob("*.xml")}
    pictures = _pictures(folder)
    if not pictures:
        raise UserError(f"no picture in {folder} or below; check dataset.root and dataset.split")

    classes = imagenet_classes()
    cases, wrong = [], []
    unboxed = 0
    for name, picture in pictures.items():
        entry = known.get(name)
        if entry is None and picture.synset:
            unboxed += 1
            continue
        annotation = _read_xml(entry) if isinstance(entry, Path) else entry
        made = _case(name, picture, annotation, classes)
        if isinstance(made, str):
            wrong.append(bad(name, made))
        else:
            cases.append(made)
    wrong += [bad(name, "annotated, but the picture is not there") for name in known if name not in pictures]
    check_bad("imagenet", "images", wrong, len(cases) + len(wrong), allow_bad_records)
    notes = [f"imagenet: {unboxed} images without boxes are left out"] if unboxed else []
    return finish("imagenet", cases, wrong, notes, IMAGENET_OUTPUTS, allow_bad_records)


def _places(top: Path, kind: str, split: str) -> list[Path]:
    return [top / kind / "CLS-LOC" / split, top / "ILSVRC" / kind / "CLS-LOC" / split, top / kind / split]


def _annotation_source(top: Path, split: str, own: str | None) -> Path:
    """Find the csv file or the folder of XML files."""
    if own:
        path = Path(own).expanduser().absolute()
        if not path.exists():
            raise UserError(f"{path} does not exist; dataset.annotations takes a csv file or a folder of XML files")
        return path
    places = [top / f"LOC_{split}_solution.csv", *_places(top, "Annotations", split), top / "bbox" / split]
    for place in places:
        if place.exists():
            return place
    raise UserError(
        f"{top} has no LOC_{split}_solution.csv and no Annotations/CLS-LOC/{split}/; name the boxes with "
        "dataset.annotations=PATH, or use dataset=imagefolder, which needs none"
    )


def _pictures(folder: Path) -> dict[str, _Picture]:
    """Pictures in a folder and its direct subfolders, by name without extension, in their order."""
    readable, classes = picture_extensions(), imagenet_classes()
    found = {}
    with os.scandir(folder) as entries:
        below = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for place in (str(folder), *below):
        synset = Path(place).name if Path(place).name in classes else None
        with os.scandir(place) as entries:
            for entry in entries:
                stem, extension = os.path.splitext(entry.name)
                if extension.lower() in readable and entry.is_file() and not stem.startswith("."):
                    found[stem] = _Picture(Path(entry.path), entry.stat().st_size == 0, synset)
    return dict(sorted(found.items()))


def read_csv(path: Path) -> dict[str, _Annotation | None]:
    """Boxes by image from Kaggle's csv: ``ImageId,PredictionString``, the latter ``wnid x0 y0 x1 y1`` repeated.

    Returns
    -------
    dict
        None where a line is not in this format.

    Raises
    ------
    UserError
        The file is not such a csv.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path} is not Kaggle's csv; its first line must be ImageId,PredictionString")
            lines = {row["ImageId"]: (row["PredictionString"] or "").split() for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as csv ({error})") from error
    # Whole numbers are pixels, the last of which belongs to the box; fractions are edges, of resized pictures.
    last = 0 if any("." in word for words in lines.values() for word in words) else 1
    found: dict[str, _Annotation | None] = {}
    for name, words in lines.items():
        try:
            numbers = [[float(word) for word in words[i + 1 : i + 5]] for i in range(0, len(words), 5)]
            rows = [(words[5 * i], (x0, y0, x1 + last, y1 + last)) for i, (x0, y0, x1, y1) in enumerate(numbers)]
            found[name] = _Annotation(None, rows) if rows else None
        except ValueError:
            found[name] = None
    return found


def _read_xml(path: Path) -> _Annotation | None:
    try:
        tree = ElementTree.parse(path).getroot()
        height, width = (int(tree.findtext(f"size/{side}", "0")) for side in ("height", "width"))
        objects = []
        for node in tree.findall("object"):
            x0, y0, x1, y1 = (float(node.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            objects.append(((node.findtext("name") or "").strip(), (x0, y0, x1 + 1, y1 + 1)))
    except (ElementTree.ParseError, OSError, ValueError):
        return None
    size = (height, width) if height > 0 and width > 0 else None
    return _Annotation(size, objects) if objects else None


def _case(
    name: str, picture: _Picture, annotation: _Annotation | None, classes: dict[str, tuple[int, str]]
) -> Case | str:
    """One image's case, or what is wrong with it."""
    if picture.empty:
        return "the picture is an empty file"
    if annotation is None:
        return "it has no annotation, or one that cannot be read"
    synset = annotation.objects[0][0]
    if synset not in classes:
        return f"there is no class {synset!r} among ImageNet's 1,000"
    if picture.synset and picture.synset != synset:
        return f"it lies in the folder of {picture.synset}, but its annotation says {synset}"
    height, width = annotation.size or (math.inf, math.inf)
    boxes: dict[bool, list[tuple[float, float, float, float]]] = {True: [], False: []}
    for label, box in annotation.objects:
        checked = sound_box(box, width, height)
        if isinstance(checked, str):
            return checked
        boxes[label == synset].append(checked)
    index, class_name = classes[synset]
    mine = box_tensor(boxes[True])
    return Case(
        id=name,
        image_id=name,
        class_name=class_name,
        target=(index,),
        load=partial(_load, str(picture.path), annotation.size, mine),
        boxes=mine,
        other_boxes=box_tensor(boxes[False]),
        difficult=torch.zeros(len(mine), dtype=torch.bool),
    )


def _load(path: str, size: tuple[int, int] | None, boxes: torch.Tensor) -> tuple[torch.Tensor, None]:
    return load_checked(path, size, boxes), None
