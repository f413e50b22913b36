"""What data sets with annotation files share: bad records, checks of boxes, and a case of sound objects."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from bench.datasets.images import array_of, is_number, read_image, shorten
from bench.types import Case, Dataset, UserError, printable

MOST_BAD = 0.05
# Annotators' boxes stick out by the width of a rounding; more means that box and picture do not belong together.
TOLERANCE = 1.0


class Object(NamedTuple):
    """One sound annotation: an object of a category with its box (xyxy, exclusive, pixels of the picture).

    ``difficult`` is VOC's flag; ``crowd``, ``area`` (pixels) and ``segmentation`` are COCO's, ``outline`` is its hash.
    """

    category: str
    box: tuple[float, float, float, float]
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


def sound_box(box: Sequence[float], width: float, height: float) -> tuple[float, float, float, float] | str:
    """Clip a box (xyxy, exclusive) to its picture, infinite where not known; a str says what is wrong with it."""
    if len(box) != 4 or not all(is_number(value) for value in box):
        return f"the box {shorten(box)} is not four numbers"
    x0, y0, x1, y1 = (float(value) for value in box)
    shown = " ".join(f"{value:g}" for value in (x0, y0, x1, y1))
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return f"the box {shown} is not finite"
    if x1 <= x0 or y1 <= y0:
        return f"the box {shown} has no or negative size"
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        return f"the box {shown} lies outside the picture of {width:g} x {height:g}"
    clipped = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    return clipped if clipped[2] > clipped[0] and clipped[3] > clipped[1] else f"the box {shown} lies on the border"


def read_boxes(boxes: Any, height: int, width: int) -> Tensor:
    """Boxes of the user's own as float32 (M, 4); UserError where one is none in a picture of this size."""
    rows = array_of(boxes)
    if rows.dtype == object or rows.size and (rows.ndim != 2 or rows.shape[1] != 4):
        raise UserError(f"boxes are rows of four numbers (x0, y0, x1, y1), not {shorten(boxes)}")
    sound = [sound_box(row, width, height) for row in rows.reshape(-1, 4).astype(np.float64).tolist()]
    for box in sound:
        if isinstance(box, str):
            raise UserError(f"{box}; boxes are (x0, y0, x1, y1) in pixels of the picture, x1 and y1 exclusive")
    return box_tensor(box for box in sound if not isinstance(box, str))


def read_instances(boxes: Any, masks: Any, height: int, width: int) -> tuple[Tensor, Tensor | None]:
    """Boxes (M, 4), those around the masks where there are masks only, and masks (M, height, width), bool, or None."""
    outlines = read_boxes(boxes, height, width)
    if masks is None:
        return outlines, None
    array = array_of(masks)
    shapes = torch.from_numpy(np.atleast_1d(array != 0))
    if (
        array.dtype == object
        or shapes.ndim != 3
        or tuple(shapes.shape[1:]) != (height, width)
        or len(outlines) not in (0, len(shapes))
    ):
        number = f"{len(outlines)} boxes" if len(outlines) else "instances"
        raise UserError(
            f"masks are ({number}, {height}, {width}) of numbers, as the picture is, not {tuple(array.shape)}"
        )
    if not shapes.flatten(1).any(1).all():
        raise UserError("a mask is empty; leave it out, and its box")
    around = masks_to_boxes(shapes) + torch.tensor([0, 0, 1, 1])  # whose last row and column are inside
    return outlines if len(outlines) else around, shapes


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
