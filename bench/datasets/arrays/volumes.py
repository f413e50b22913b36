"""Volumes of the user's own: arrays in files, with instances as label volumes or boxes, classes by folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from bench.datasets.arrays.stored import VOLUMES, Span, check_span, named, read_volume, shown_channels, stored_volume
from bench.datasets.files import files_below, need_folder, need_text
from bench.datasets.folder import folder_classes
from bench.datasets.records import bad, box_tensor, check_bad, finish
from bench.types import Case, Dataset, UserError, printable

LABELS, BOXES = "labels", "boxes.csv"
COLUMNS = ("file", "x0", "y0", "z0", "x1", "y1", "z1")
MOST_INSTANCES = 255  # in a volume: each has a mask of its own


def volumes(
    *,
    root: str | os.PathLike[str],
    class_map: str | None = None,
    range: Sequence[float] | None = None,
    show: Sequence[int] | int | None = None,
    allow_bad_records: bool = False,
) -> Dataset:
    """List the volumes below a folder, with their instances where ``labels/`` or ``boxes.csv`` in it names them.

    Parameters
    ----------
    root : path
        Folder that is searched with its subfolders for ``.npy``, ``.npz``, ``.nii`` and ``.nii.gz``: arrays (D, H, W),
        or with an axis of channels first or last.
    class_map : str, optional
        As in `bench.datasets.folder.imagefolder`, for volumes in ``root/<class>/``; None explains the predicted class.
    range, show
        As in `bench.datasets.folder.folder`.
    allow_bad_records : bool
        Go on when more than 5 % of the volumes or of their labels are bad.

    Returns
    -------
    Dataset
        One case a volume; id is the path below `root`. ``labels/`` holds a volume (D, H, W) of the same name, with any
        of these extensions, for each one: 0 is background, and every other whole number an instance, which gives a mask
        and the box around it. Lines of ``boxes.csv`` (`COLUMNS`) are boxes in voxels, x along the last axis, the second
        corner exclusive; they count for volumes without labels.

    Raises
    ------
    UserError
        No volumes, folders whose class is not known, or a ``boxes.csv`` without these columns.
    """
    check_span("dataset.range", range)
    top = need_folder(root, "dataset.root")
    paths = files_below(top, VOLUMES)
    marked = {stem(path.relative_to(top / LABELS)): path for path in paths if path.is_relative_to(top / LABELS)}
    paths = [path for path in paths if not path.is_relative_to(top / LABELS)]
    if not paths:
        raise UserError(f"no volume in {printable(top)} or below: put .npy, .npz or .nii files there")
    classes: Mapping[str, tuple[tuple[int, ...], str]] = {}
    outputs = None
    if class_map is not None:
        folders = {path.relative_to(top).parts[0] for path in paths if path.parent != top}
        classes, outputs = folder_classes(sorted(folders), class_map)
    boxes, wrong = read_boxes(top / BOXES, {path.relative_to(top).as_posix() for path in paths})
    cases = []
    for path in paths:
        place = path.relative_to(top)
        target, name = classes.get(place.parts[0], ((), "")) if len(place.parts) > 1 else ((), "")
        if class_map is not None and not target:
            wrong.append(bad(place.as_posix(), "no class has the name of its folder"))
            continue
        label = marked.get(stem(place))
        own = boxes.get(place.as_posix(), [])
        try:
            instances = label_boxes(read_labels(str(label))) if label else box_tensor(own, 3)
        except (OSError, ValueError) as error:
            wrong.append(bad(place.as_posix(), str(error)))
            continue
        cases.append(_case(place, name, target, path, label, instances, range))
    check_bad("volumes", "records", wrong, len(paths), allow_bad_records)
    return replace(finish("volumes", cases, wrong, [], outputs, allow_bad_records), show=shown_channels(show))


def stem(place: Path) -> str:
    """Path without the extension of a volume."""
    text = place.as_posix()
    return next(text[: -len(end)] for end in reversed(VOLUMES) if text.lower().endswith(end))


def _case(
    place: Path, name: str, target: tuple[int, ...], path: Path, label: Path | None, boxes: Tensor, span: Span
) -> Case:
    load = partial(load_volume, str(path), span, None if label is None else str(label), boxes)
    return Case(
        id=printable(place.as_posix()),
        image_id=printable(place.as_posix()),
        class_name=printable(name),
        target=target,
        load=partial(load, 3),
        load_stored=load,
        boxes=boxes,
        other_boxes=torch.zeros(0, 6),
        ignore=torch.zeros(0, 6),
        difficult=torch.zeros(len(boxes), dtype=torch.bool),
        files=(str(path), *([str(label)] if label else [])),
    )


def load_volume(path: str, span: Span, label: str | None, boxes: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Read a volume (C, D, H, W) and a mask (M, D, H, W) of each instance; None where there is no label volume.

    Raises OSError or ValueError as `bench.datasets.arrays.stored.stored_volume`, and where labels or boxes are of
    another volume.
    """
    image = stored_volume(path, span, channels)
    shape = tuple(image.shape[1:])
    ends = torch.tensor(shape[::-1])
    if len(boxes) and bool((boxes[:, 3:] > ends).any()):
        raise ValueError(f"{printable(path)}: a box reaches beyond its {' x '.join(map(str, shape))} voxels")
    if label is None:
        return image, None
    labels = read_labels(label)
    if labels.shape != shape:
        raise ValueError(f"{printable(path)}: its labels have {labels.shape} voxels instead of {shape}")
    values = np.unique(labels)
    return image, torch.from_numpy(labels[None] == values[values != 0][:, None, None, None])


def read_labels(path: str) -> NDArray[Any]:
    """Read a label volume (D, H, W) of whole numbers; OSError or ValueError where it is none."""
    with named(path):
        labels = read_volume(path)
        whole = labels.dtype.kind in "bui" or (labels.dtype.kind == "f" and bool((labels == labels.round()).all()))
        if labels.ndim != 3 or not whole:
            raise ValueError(f"labels are whole numbers (D, H, W), not {labels.dtype} {labels.shape}")
        return labels


def label_boxes(labels: NDArray[Any]) -> Tensor:
    """Box (M, 6) around each value but 0, in ascending order; ValueError for more than `MOST_INSTANCES`."""
    values, numbers = np.unique(labels, return_inverse=True)
    if len(values) > MOST_INSTANCES + 1:
        raise ValueError(f"{len(values)} different labels; at most {MOST_INSTANCES} instances")
    places = ndimage.find_objects(numbers.reshape(labels.shape).astype(np.int32) + 1)
    rows = [
        [*(side.start for side in reversed(place)), *(side.stop for side in reversed(place))]
        for place, value in zip(places, values.tolist(), strict=True)
        if value != 0 and place is not None
    ]
    return box_tensor(rows, 3)


def read_boxes(path: Path, names: set[str]) -> tuple[dict[str, list[list[float]]], list[dict[str, str]]]:
    """Boxes of the volumes of these names from a csv of `COLUMNS`, and the lines that say nothing."""
    boxes: dict[str, list[list[float]]] = {}
    wrong: list[dict[str, str]] = []
    if not path.is_file():
        return boxes, wrong
    lines = csv.DictReader(need_text(path).splitlines())
    lacking = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
    if lacking:
        raise UserError(f"{printable(path)} has no column {lacking[0]}; it needs {','.join(COLUMNS)}")
    for number, row in enumerate(lines, start=2):
        try:
            box = [float(row[name]) for name in COLUMNS[1:]]
        except (TypeError, ValueError):
            box = []
        sound = (
            bool(box)
            and bool(np.isfinite(box).all())
            and all(0 <= a < b for a, b in zip(box[:3], box[3:], strict=True))
        )
        if row["file"] not in names or not sound:
            reason = "is no box: x0,y0,z0 from 0 and below x1,y1,z1" if row["file"] in names else "names no volume"
            wrong.append(bad(f"{BOXES} line {number}", reason))
            continue
        boxes.setdefault(row["file"], []).append(box)
    return boxes, wrong
