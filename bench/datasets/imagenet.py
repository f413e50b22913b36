"""ImageNet (ILSVRC) with boxes: from Kaggle's csv or the official XML files."""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path
from typing import NamedTuple

from bench.datasets.classes.class_map import IMAGENET_OUTPUTS, imagenet_classes
from bench.datasets.files import files_in, need_folder, need_name, need_text, own_path, refused
from bench.datasets.images import picture_extensions
from bench.datasets.records import Object, bad, boxed_case, check_bad, finish, sound_box
from bench.datasets.voc import read_xml
from bench.types import Case, Dataset, UserError, counted, printable


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
    top, split = need_folder(root, "dataset.root"), need_name("split", split)
    folder = next((f for f in (top / split, *_places(top, "Data", split)) if f.is_dir()), None)
    if folder is None:
        where = printable(f"{top} has no folder {split}/ nor Data/CLS-LOC/{split}/")
        raise UserError(f"{where}; check dataset.root and dataset.split")
    source = _annotation_source(top, split, annotations)
    known = read_csv(source) if source.is_file() else _xml_files(source)
    pictures, wrong = _pictures(folder)
    if not pictures:
        raise UserError(f"no picture in {printable(folder)} or below; check dataset.root and dataset.split")

    classes = imagenet_classes()
    cases = []
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
    notes = [f"imagenet: left out, because they have no boxes: {counted(unboxed, 'image')}"] if unboxed else []
    return finish("imagenet", cases, wrong, notes, IMAGENET_OUTPUTS, allow_bad_records)


def _places(top: Path, kind: str, split: str) -> list[Path]:
    return [top / kind / "CLS-LOC" / split, top / "ILSVRC" / kind / "CLS-LOC" / split, top / kind / split]


def _annotation_source(top: Path, split: str, own: str | None) -> Path:
    """Find the csv file or the folder of XML files."""
    if own:
        path = own_path(own)
        if not path.is_file() and not path.is_dir():
            what = "does not exist" if not path.exists() else "is a pipe or device"
            raise UserError(f"{printable(path)} {what}; dataset.annotations takes a csv file or a folder of XML files")
        return path
    places = [top / f"LOC_{split}_solution.csv", *_places(top, "Annotations", split), top / "bbox" / split]
    for place in places:
        if place.is_file() or place.is_dir():
            return place
    raise UserError(
        printable(f"{top} has no LOC_{split}_solution.csv and no Annotations/CLS-LOC/{split}/")
        + "; name the boxes with dataset.annotations=PATH, or use dataset=imagefolder, which needs none"
    )


def _xml_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.rglob("*.xml")) if not path.name.startswith(".")}


def _pictures(folder: Path) -> tuple[dict[str, _Picture], list[dict[str, str]]]:
    """Pictures in a folder and its direct subfolders, by name without extension, in their order, and bad ones."""
    readable, classes = picture_extensions(), imagenet_classes()
    pictures: dict[str, _Picture] = {}
    wrong = []
    try:
        below = [str(folder / name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
        for place in (str(folder), *filter(os.path.isdir, below)):
            synset = Path(place).name if Path(place).name in classes else None
            for name, size in sorted(files_in(Path(place)).items()):
                stem, extension = os.path.splitext(name)
                if extension.lower() not in readable or name.startswith("."):
                    continue
                if stem in pictures:
                    wrong.append(bad(os.path.relpath(os.path.join(place, name), folder), "two pictures have this name"))
                    continue
                pictures[stem] = _Picture(Path(place, name), size == 0, synset)
    except OSError as error:
        raise refused(error) from error
    return dict(sorted(pictures.items())), wrong


def read_csv(path: Path) -> dict[str, _Annotation | None]:
    """Boxes by image from Kaggle's csv: ``ImageId,PredictionString``, the latter ``wnid x0 y0 x1 y1`` repeated.

    None where two lines are about an image or a line is not in this format; UserError if the file is not such a csv.
    """
    reader = csv.DictReader(io.StringIO(need_text(path), newline=""))
    lines: dict[str, list[str]] = {}
    try:
        if not {"ImageId", "PredictionString"} <= set(reader.fieldnames or ()):
            raise UserError(f"{printable(path)} is not Kaggle's csv; its first line must be ImageId,PredictionString")
        for row in reader:
            # Two lines of one image contradict each other: neither is taken.
            lines[row["ImageId"]] = [] if row["ImageId"] in lines else (row["PredictionString"] or "").split()
    except csv.Error as error:
        raise UserError(f"{printable(path)} cannot be read as csv ({error})") from error
    # Whole numbers are pixels, the last of which belongs to the box; fractions are edges, of resized pictures.
    last = 0 if any("." in word for words in lines.values() for word in words) else 1
    annotations: dict[str, _Annotation | None] = {}
    for name, words in lines.items():
        try:
            numbers = [[float(word) for word in words[i + 1 : i + 5]] for i in range(0, len(words), 5)]
            rows = [(words[5 * i], (x0, y0, x1 + last, y1 + last)) for i, (x0, y0, x1, y1) in enumerate(numbers)]
            annotations[name] = _Annotation(None, rows) if rows else None
        except ValueError:
            annotations[name] = None
    return annotations


def _read_xml(path: Path) -> _Annotation | None:
    annotation = read_xml(path)
    if isinstance(annotation, str):
        return None
    # xmax and ymax belong to the box; a single bad box makes the class of the picture doubtful.
    objects = [(name, (box[0], box[1], box[2] + 1, box[3] + 1)) for name, box, _ in annotation.objects if box]
    return _Annotation(annotation.size, objects) if objects and len(objects) == len(annotation.objects) else None


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
    objects = []
    for label, edges in annotation.objects:
        box = sound_box(edges, width, height)
        if isinstance(box, str):
            return box
        objects.append(Object(label, box))
    index, class_name = classes[synset]
    return boxed_case(
        case_id=name,
        image_id=name,
        class_name=class_name,
        category=synset,
        target=(index,),
        objects=objects,
        path=str(picture.path),
        size=annotation.size,
    )
