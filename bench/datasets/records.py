"""What data sets with annotation files share: checks of settings, files and boxes, and a case of sound objects."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.datasets.images import read_image
from bench.types import Case, Dataset, UserError

MOST_BAD = 0.05
# Annotators' boxes stick out by the width of a rounding; more means that box and picture do not belong together.
TOLERANCE = 1.0


class Object(NamedTuple):
    """One sound annotation: an object of a category with its box (xyxy, exclusive, pixels of the picture).

    ``difficult`` is VOC's flag; ``crowd``, ``area`` (pixels) and ``segmentation`` are COCO's.
    """

    category: str
    box: tuple[float, float, float, float]
    difficult: bool = False
    crowd: bool = False
    area: float = 0.0
    segmentation: Any = None


def need_folder(path: str | os.PathLike[str] | None, setting: str) -> Path:
    """Return the folder a setting names, or raise UserError."""
    return _need(path, setting, Path.is_dir, "folder")


def need_file(path: str | os.PathLike[str] | None, setting: str) -> Path:
    """Return the file a setting names, or raise UserError."""
    return _need(path, setting, Path.is_file, "file")


def _need(path: str | os.PathLike[str] | None, setting: str, is_kind: Callable[[Path], bool], kind: str) -> Path:
    if path is None or not os.fspath(path):
        raise UserError(f"a {kind} is missing: add {setting}={'DIR' if kind == 'folder' else 'FILE'}")
    full = Path(path).expanduser().absolute()
    if not full.exists():
        raise UserError(f"{full} does not exist; check {setting}")
    if not is_kind(full):
        raise UserError(f"{full} is a {'file' if kind == 'folder' else 'folder'}; {setting} must name a {kind}")
    return full


def need_number(setting: str, value: Any, low: float, high: float = math.inf, *, whole: bool = True) -> None:
    """Raise UserError unless a parameter is a number of the range."""
    kind = int if whole else (int, float)
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
        span = f"from {low}" + (f" to {high}" if high < math.inf else "")
        raise UserError(f"dataset.{setting}={value} must be a {'whole ' if whole else ''}number {span}")


def files_in(folder: Path) -> dict[str, int]:
    """Names and sizes in bytes of a folder's files: one pass instead of one question per picture."""
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def picture_fault(name: str, files: Mapping[str, int]) -> str | None:
    """Say what is wrong with a picture's file without decoding it; None where it exists and is not empty."""
    if name not in files:
        return "the picture is not there"
    return None if files[name] else "the picture is an empty file"


def bad(record: str, reason: str) -> dict[str, str]:
    """Describe one record that is left out."""
    return {"record": record, "reason": reason}


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
    try:
        x0, y0, x1, y1 = (float(value) for value in box)
    except (TypeError, ValueError):
        return f"the box {box} is not four numbers"
    shown = " ".join(f"{value:g}" for value in (x0, y0, x1, y1))
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return f"the box {shown} is not finite"
    if x1 <= x0 or y1 <= y0:
        return f"the box {shown} has no or negative size"
    if min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE:
        return f"the box {shown} lies outside the picture of {width:g} x {height:g}"
    clipped = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    return clipped if clipped[2] > clipped[0] and clipped[3] > clipped[1] else f"the box {shown} lies on the border"


def box_tensor(boxes: Iterable[Sequence[float]]) -> Tensor:
    """Boxes as float32 (M, 4), also for none."""
    return torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 4)


def load_checked(path: str, size: tuple[int, int] | None, boxes: Tensor | None = None) -> Tensor:
    """Decode a picture and make sure that its annotation is about these pixels.

    Raises OSError if it cannot be decoded, ValueError for another (height, width) than annotated or a box outside.
    """
    image = read_image(path)
    height, width = image.shape[1:]
    if size is not None and (height, width) != size:
        raise ValueError(f"{path}: the picture is {width} x {height}, its annotation says {size[1]} x {size[0]}")
    for box in boxes.tolist() if boxes is not None else []:
        checked = sound_box(box, width, height)
        if isinstance(checked, str):
            raise ValueError(f"{path}: {checked}")
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
        id=case_id,
        image_id=image_id,
        class_name=class_name,
        target=target,
        load=partial(load_boxed, path, size, boxes),
        boxes=boxes,
        other_boxes=box_tensor(one.box for one in others),
        difficult=torch.tensor([one.difficult for one in instances], dtype=torch.bool),
        ignore=box_tensor(one.box for one in objects if one.category == category and one.crowd),
        other_difficult=torch.tensor([one.difficult for one in others], dtype=torch.bool),
    )


def load_boxed(path: str, size: tuple[int, int] | None = None, boxes: Tensor | None = None) -> tuple[Tensor, None]:
    """Load a picture without masks; arguments and errors as in `load_checked`."""
    return load_checked(path, size, boxes), None


def check_names(setting: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError, with the nearest names, for a name that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, 3, 0.5) or sorted(known)
            raise UserError(f"dataset.{setting}: there is no {name!r}; there are {', '.join(near)}")


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
        notes=notes + bad_note(wrong),
        outputs=outputs,
        most_bad=1.0 if allow else MOST_BAD,
    )
