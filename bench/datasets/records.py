"""Checks that data sets with annotation files share: what is there, what is sound, what is left out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.datasets.images import read_image
from bench.types import Case, Dataset, UserError

MOST_BAD = 0.05
# Annotators' boxes stick out by the width of a rounding; more means that box and picture do not belong together.
TOLERANCE = 1.0


def need_folder(path: str | os.PathLike[str] | None, setting: str) -> Path:
    """Return the folder a setting names, or raise UserError."""
    return _need(path, setting, Path.is_dir, "folder")


def need_file(path: str | os.PathLike[str] | None, setting: str) -> Path:
    """Return the file a setting names, or raise UserError."""
    return _need(path, setting, Path.is_file, "file")


def _need(path: str | os.PathLike[str] | None, setting: str, is_kind: Callable[[Path], bool], kind: str) -> Path:
    if path is None or not os.fspath(path):
        raise UserError(f"a {kind} is missing: add {setting}=PATH")
    full = Path(path).expanduser().absolute()
    if not full.exists():
        raise UserError(f"{full} does not exist; check {setting}")
    if not is_kind(full):
        raise UserError(f"{full} is no {kind}; {setting} must name one")
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
    """Say what is wrong with a picture's file without decoding it; None where it is there and not empty."""
    if name not in files:
        return "the picture is not there"
    return None if files[name] else "the picture is an empty file"


def bad(record: str, reason: str) -> dict[str, str]:
    """Describe one record that is left out."""
    return {"record": record, "reason": reason}


def check_bad(setting: str, what: str, found: Sequence[dict[str, str]], total: int, allow: bool) -> None:
    """Raise UserError where more than 5 % of a kind of record is bad, unless that is allowed."""
    if total and len(found) > MOST_BAD * total and not allow:
        raise UserError(
            f"dataset={setting}: {len(found)} of {total} {what} are bad, first {found[0]['record']}: "
            f"{found[0]['reason']}; mend them, or go on without them with dataset.allow_bad_records=true"
        )


def bad_note(found: Sequence[dict[str, str]]) -> list[str]:
    """Return the line that tells the user of bad records; nothing where there are none."""
    if not found:
        return []
    first = found[0]
    return [f"bad records left out: {len(found)}, first {first['record']}: {first['reason']} (all in _provenance.json)"]


def sound_box(box: Sequence[float], width: float, height: float) -> tuple[float, float, float, float] | str:
    """Clip a box to its picture; a str says what is wrong with it.

    Parameters
    ----------
    box : four numbers
        xyxy in pixels, exclusive.
    width, height : float
        Of the picture; infinite where not known.
    """
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

    Raises
    ------
    OSError
        It cannot be decoded.
    ValueError
        It has another (height, width) than annotated, or a box lies outside.
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


def check_names(setting: str, asked: Iterable[str], known: Iterable[str]) -> None:
    """Raise UserError, with the nearest names, for a name that is not known."""
    known = list(known)
    for name in asked:
        if name not in known:
            near = get_close_matches(str(name), known, 3, 0.5) or sorted(known)
            raise UserError(f"dataset.{setting}: there is no {name!r}; there are {', '.join(near)}")


def names_list(setting: str, value: Any) -> list[str] | None:
    """Accept a name or a list of names; None stays None."""
    if value is None or isinstance(value, str):
        return [value] if value is not None else None
    if not isinstance(value, Sequence):
        raise UserError(f"dataset.{setting}={value} must be a name or a list: 'dataset.{setting}=[a,b]'")
    return [str(one) for one in value]


def asked_categories(
    categories: Any, exclude: Any, known: Sequence[str], mapped: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Names of the categories to ask about: those with a class, selected by ``categories`` and ``exclude``.

    Raises
    ------
    UserError
        An unknown name, or one asked for that no output of the network means.
    """
    wanted, unwanted = names_list("categories", categories), names_list("exclude", exclude) or []
    check_names("categories", wanted or [], known)
    check_names("exclude", unwanted, known)
    for name in wanted or []:
        if name not in mapped:
            raise UserError(f"dataset.categories: no class of the class map means {name!r}; leave it out")
    return [name for name in known if name in mapped and name in (wanted or known) and name not in unwanted]


def finish(
    name: str, cases: list[Case], found_bad: list[dict[str, str]], notes: list[str], outputs: int | None, allow: bool
) -> Dataset:
    """Put a data set together; refuses an empty one. `allow` lets a run go on whatever share of its pictures is bad.

    Raises
    ------
    UserError
        No case is left.
    """
    if not cases:
        reason = f"; first bad record {found_bad[0]['record']}: {found_bad[0]['reason']}" if found_bad else ""
        raise UserError(f"dataset={name} leaves no case; widen its selection or check dataset.root{reason}")
    return Dataset(cases, found_bad, notes + bad_note(found_bad), outputs, 1.0 if allow else MOST_BAD)
