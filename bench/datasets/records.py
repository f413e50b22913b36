"""What data sets with annotation files share: bad records, checks of boxes, and a case of sound objects."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bench.datasets.images import array_of, is_number, read_image, shorten
from bench.types import Case, Dataset, UserError, printable

MOST_BAD = 0.05
# Annotators' boxes stick out by the width of a rounding; more means that box and picture do not belong together.
TOLERANCE = 1.0
NUMBERS = {2: "four", 3: "six"}  # of a box, by the number of axes


class Object(NamedTuple):
    """One sound annotation: an object of a category with its box (xyxy, exclusive, pixels of the picture).

    ``difficult`` is VOC's flag; ``crowd``, ``area`` (pixels) and ``segmentation`` are COCO's, ``outline`` is its hash.
    """

    category: str
    box: tuple[float, ...]
    difficult: bool = False
    crowd: bool = False
    area: float = 0.0
    segmentation: Any = None
    outline: str = ""


def bad(record: str, reason: str) -> dict[str, str]:
    """Describe one record that is left out; names in both texts come from the data."""
    return {"record": printable(record), "reason": printable(reason)}


def check_bad(setting: str, what: str, wrong: Sequence[dict[str, str]], total: int, allow: bool) -> None:
    """Raise UserError where more than 5 % of a kind of record is bad, unless that is allowed."""
    if total and len(wrong) > MOST_BAD * total and not allow:
        raise UserError(
            f"dataset={setting}: {len(wrong)} of {total} {what} are bad, first {wrong[0]['record']}: "
            f"{wrong[0]['reason']}; mend them, or go on without them with dataset.allow_bad_records=true"
        )


def bad_note(wrong: Sequence[dict[str, str]]) -> list[str]:
    """Return the line that tells the user of bad records; nothing where there are none."""
    if not wrong:
        return []
    first = wrong[0]
    return [f"bad records left out: {len(wrong)}, first {first['record']}: {first['reason']} (all in _provenance.json)"]


def sound_box(box: Sequence[float], *sides: float) -> tuple[float, ...] | str:
    """Clip a box (first corner, then the exclusive one, x first) to its picture or volume; a str says what is wrong.

    `sides` are width, height and, of a volume, depth; infinite where not known.
    """
    rank = len(sides)
    if len(box) != 2 * rank or not all(is_number(value) for value in box):
        return f"the box {shorten(box)} is not {NUMBERS[rank]} numbers"
    first, last = [float(value) for value in box[:rank]], [float(value) for value in box[rank:]]
    shown = " ".join(f"{value:g}" for value in (*first, *last))
    if not all(map(math.isfinite, (*first, *last))):
        return f"the box {shown} is not finite"
    if any(high <= low for low, high in zip(first, last, strict=True)):
        return f"the box {shown} has no or negative size"
    if min(first) < -TOLERANCE or any(high > side + TOLERANCE for high, side in zip(last, sides, strict=True)):
        what = "picture" if rank == 2 else "volume"
        return f"the box {shown} lies outside the {what} of {' x '.join(f'{side:g}' for side in sides)}"
    low, high = [max(value, 0.0) for value in first], list(map(min, last, sides))
    return (*low, *high) if all(map(operator.lt, low, high)) else f"the box {shown} lies on the border"


def read_boxes(boxes: Any, shape: Sequence[int]) -> Tensor:
    """Boxes of the user's own as float32 (M, 2 * rank); UserError where one is none in a picture of this shape."""
    rows, rank = array_of(boxes), len(shape)
    corners = {2: "(x0, y0, x1, y1)", 3: "(x0, y0, z0, x1, y1, z1)"}[rank]
    if rows.dtype == object or rows.size and (rows.ndim != 2 or rows.shape[1] != 2 * rank):
        raise UserError(f"boxes are rows of {NUMBERS[rank]} numbers {corners}, not {shorten(boxes)}")
    sound = [sound_box(row, *reversed(shape)) for row in rows.reshape(-1, 2 * rank).astype(np.float64).tolist()]
    for box in sound:
        if isinstance(box, str):
            what = "pixels of the picture, x1 and y1 exclusive" if rank == 2 else "voxels, x1, y1 and z1 exclusive"
            raise UserError(f"{box}; boxes are {corners} in {what}")
    return box_tensor((box for box in sound if not isinstance(box, str)), rank)


def read_instances(boxes: Any, masks: Any, shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Boxes (M, 2 * rank), those around the masks where there are masks only, and masks (M, *shape), bool, or None."""
    outlines = read_boxes(boxes, shape)
    if masks is None:
        return outlines, None
    array = array_of(masks)
    shapes = torch.from_numpy(np.atleast_1d(array != 0))
    if (
        array.dtype == object
        or shapes.ndim != len(shape) + 1
        or tuple(shapes.shape[1:]) != tuple(shape)
        or len(outlines) not in (0, len(shapes))
    ):
        number = f"{len(outlines)} boxes" if len(outlines) else "instances"
        sides = ", ".join(map(str, shape))
        raise UserError(f"masks are ({number}, {sides}) of numbers, as the picture is, not {tuple(array.shape)}")
    if not shapes.flatten(1).any(1).all():
        raise UserError("a mask is empty; leave it out, and its box")
    places = [one.nonzero().flip(1) for one in shapes]
    around = [(*one.amin(0).tolist(), *(one.amax(0) + 1).tolist()) for one in places]
    return outlines if len(outlines) else box_tensor(around, len(shape)), shapes


def box_tensor(boxes: Iterable[Sequence[float]], rank: int = 2) -> Tensor:
    """Boxes as float32 (M, 2 * rank), also for none."""
    return torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 2 * rank)


def load_checked(path: str, size: tuple[int, int] | None, boxes: Tensor) -> Tensor:
    """Decode a picture and make sure that its annotation is about these pixels.

    A picture may say, in its EXIF data, that viewers turn or mirror it. Its boxes are taken to be about the pixels as
    they are stored: so the tools of COCO (pycocotools, skimage) and VOC (MATLAB) and the loaders of torchvision read
    it. Where only the turned picture has the annotated size, it is turned.

    Raises OSError if it cannot be decoded, ValueError for another (height, width) than annotated or a box outside.
    """
    image = read_image(path, upright=False)
    if size is not None and tuple(image.shape[1:]) != size:
        image = read_image(path)
    height, width = image.shape[1:]
    if size is not None and (height, width) != size:
        raise ValueError(
            f"{printable(path)}: the picture is {width} x {height}, its annotation says {size[1]} x {size[0]}"
        )
    for box in boxes.tolist():
        checked = sound_box(box, width, height)
        if isinstance(checked, str):
            raise ValueError(f"{printable(path)}: {checked}")
    return image


def boxed_case(
    *,
    case_id: str,
    image_id: str,
    class_name: str,
    category: str,
    target: tuple[int, ...],
    objects: Sequence[Object],
    path: str,
    size: tuple[int, int] | None,
) -> Case:
    """Ask where a category is in a picture with annotated objects.

    `objects` are all of the picture: those of the category are the class, its crowds regions to ignore, other crowds
    are left out. `size`, the annotated (height, width), is checked when the picture is loaded.
    """
    instances = [one for one in objects if one.category == category and not one.crowd]
    others = [one for one in objects if one.category != category and not one.crowd]
    boxes = box_tensor(one.box for one in instances)
    return Case(
        id=printable(case_id),
        image_id=printable(image_id),
        class_name=printable(class_name),
        target=target,
        load=partial(load_boxed, path, size, boxes),
        files=(path,),
        boxes=boxes,
        other_boxes=box_tensor(one.box for one in others),
        difficult=torch.tensor([one.difficult for one in instances], dtype=torch.bool),
        ignore=box_tensor(one.box for one in objects if one.category == category and one.crowd),
        other_difficult=torch.tensor([one.difficult for one in others], dtype=torch.bool),
    )


def load_boxed(path: str, size: tuple[int, int] | None, boxes: Tensor) -> tuple[Tensor, None]:
    """Load a picture without masks; arguments and errors as in `load_checked`."""
    return load_checked(path, size, boxes), None


def finish(
    name: str, cases: list[Case], wrong: list[dict[str, str]], notes: list[str], outputs: int | None, allow: bool
) -> Dataset:
    """Put a data set together. With `allow` a run goes on whatever share of its pictures turns out to be bad.

    Raises
    ------
    UserError
        No case is left.
    """
    if not cases:
        reason = f"; first bad record {wrong[0]['record']}: {wrong[0]['reason']}" if wrong else ""
        raise UserError(f"dataset={name} leaves no case; widen its selection or check dataset.root{reason}")
    return Dataset(
        cases=cases,
        bad_records=wrong,
        notes=[printable(note) for note in notes + bad_note(wrong)],
        outputs=outputs,
        most_bad=1.0 if allow else MOST_BAD,
    )
