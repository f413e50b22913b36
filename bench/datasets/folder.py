"""A user's own pictures without boxes: any folder (the predicted class is explained), or one folder a class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch import Tensor

from bench.datasets.classes.class_map import IMAGENET_OUTPUTS, imagenet_classes, read_class_map
from bench.datasets.files import need_folder, pictures_below, refused
from bench.datasets.images import read_image
from bench.datasets.records import bad, check_bad, finish
from bench.types import Case, Dataset, UserError, printable


def folder(*, root: str | os.PathLike[str] | None = None) -> list[Case]:
    """List the pictures below a folder, in the order of their paths.

    Parameters
    ----------
    root : path
        Folder that is searched with its subfolders. Hidden files and folders are skipped, links to nothing, and
        everything without the extension of a format in `bench.datasets.images.FORMATS`.

    Returns
    -------
    list of Case
        Without boxes; id is the path relative to `root` with forward slashes, on one line, `target` is ``()``, the
        predicted class. ``load()`` raises for a picture that cannot be decoded.

    Raises
    ------
    UserError
        `root` is not given, missing, no folder, not readable, or holds no picture.
    """
    top = need_folder(root, "dataset.root")
    paths = pictures_below(top)
    if not paths:
        where = printable(top)
        raise UserError(f"no picture in {where} or below: put .jpg or .png files there, or set another dataset.root")
    return [_case(path.relative_to(top), "", (), path) for path in paths]


def imagefolder(
    *, root: str | os.PathLike[str], class_map: str | None = None, allow_bad_records: bool = False
) -> Dataset:
    """List the pictures below ``root/<class>/``, labelled by the folder.

    Parameters
    ----------
    root : path
        Folders are named by ImageNet synset (n01440764), unless there is a class map.
    class_map : str, optional
        csv (index,category) with the folders' names as categories, or ``sorted``: a folder's index is its place
        in alphabetical order, as torchvision's ImageFolder numbers what it trains on.
    allow_bad_records : bool
        Go on when more than 5 % of the pictures are bad.

    Returns
    -------
    Dataset
        Without boxes; id is the path below `root`, on one line. What `folder` skips is skipped.

    Raises
    ------
    UserError
        No folders, or folders whose class is not known.
    """
    top = need_folder(root, "dataset.root")
    try:
        folders = sorted(name for name in os.listdir(top) if os.path.isdir(top / name) and not name.startswith("."))
    except OSError as error:
        raise refused(error) from error
    where = printable(top)
    if not folders:
        raise UserError(
            f"{where} has no folders; it takes one folder of pictures a class (without classes: dataset=folder)"
        )
    classes, outputs = _classes(folders, class_map)
    unknown = [name for name in folders if name not in classes]
    if len(unknown) == len(folders):
        raise UserError(
            f"{where}: no class is known by the name {unknown[0]!r}; name folders by synset (n01440764), or give "
            "dataset.class_map=FILE (index,category) or dataset.class_map=sorted"
        )
    cases, wrong = [], [bad(f"{name}/", "no class has the name of this folder") for name in unknown]
    check_bad("imagefolder", "folders", wrong, len(folders), allow_bad_records)
    empty = []
    for name in folders:
        if name not in classes:
            continue
        for path in pictures_below(top / name):
            place = path.relative_to(top)
            if path.stat().st_size:
                target, class_name = classes[name]
                cases.append(_case(place, class_name, target, path))
            else:
                empty.append(bad(place.as_posix(), "the picture is an empty file"))
    check_bad("imagefolder", "pictures", empty, len(cases) + len(empty), allow_bad_records)
    return finish("imagefolder", cases, wrong + empty, [], outputs, allow_bad_records)


def _classes(folders: list[str], own: str | None) -> tuple[dict[str, tuple[tuple[int, ...], str]], int | None]:
    """Target and class name by folder, and the number of outputs they are meant for."""
    if own == "sorted":
        return {name: ((index,), name) for index, name in enumerate(folders)}, len(folders)
    if own:
        groups, outputs = read_class_map("imagefolder", own)
        return {name: (group, name) for name, group in groups.items()}, outputs
    return {name: ((index,), title) for name, (index, title) in imagenet_classes().items()}, IMAGENET_OUTPUTS


def _case(place: Path, class_name: str, target: tuple[int, ...], path: Path) -> Case:
    return Case(
        id=printable(place.as_posix()),
        image_id=printable(place.as_posix()),
        class_name=printable(class_name),
        target=target,
        load=partial(_load, str(path)),
        files=(str(path),),
    )


def _load(path: str) -> tuple[Tensor, None]:
    return read_image(path), None
