"""A user's own pictures without boxes: any folder (the predicted class is explained), or one folder a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.datasets.arrays.stored import Span, check_span, load_picture, shown_channels, stored_picture
from bench.datasets.classes.class_map import IMAGENET_OUTPUTS, imagenet_classes, read_class_map
from bench.datasets.files import need_folder, pictures_below, refused
from bench.datasets.records import bad, check_bad, finish
from bench.types import Case, Dataset, UserError, printable


def folder(
    *,
    root: str | os.PathLike[str] | None = None,
    range: Sequence[float] | None = None,
    show: Sequence[int] | int | None = None,
) -> Dataset:
    """List the pictures below a folder, in the order of their paths.

    Parameters
    ----------
    root : path
        Folder that is searched with its subfolders. Hidden files and folders are skipped, links to nothing, and
        everything without the extension of a format in `bench.datasets.images.FORMATS` or ``.npy``.
    range : two floats, optional
        Values that are black and white; by default 0 and the largest of 8 or 16 bits. Floats need it.
    show : int or three of them, optional
        Channels that ``edges`` and the gallery look at, as grey or as red, green and blue.

    Returns
    -------
    Dataset
        Without boxes; id is the path relative to `root` with forward slashes, on one line, `target` is ``()``, the
        predicted class. ``load()`` raises for a picture that cannot be decoded.

    Raises
    ------
    UserError
        `root` is not given, missing, no folder, not readable, or holds no picture.
    """
    check_span("dataset.range", range)
    top = need_folder(root, "dataset.root")
    paths = pictures_below(top)
    if not paths:
        where = printable(top)
        raise UserError(f"no picture in {where} or below: put .jpg or .png files there, or set another dataset.root")
    cases = [_case(path.relative_to(top), "", (), path, range) for path in paths]
    return Dataset(cases, show=shown_channels(show))


def imagefolder(
    *,
    root: str | os.PathLike[str],
    class_map: str | None = None,
    range: Sequence[float] | None = None,
    show: Sequence[int] | int | None = None,
    allow_bad_records: bool = False,
) -> Dataset:
    """List the pictures below ``root/<class>/``, labelled by the folder.

    Parameters
    ----------
    root : path
        Folders are named by ImageNet synset (n01440764), unless there is a class map.
    class_map : str, optional
        csv (index,category) with the folders' names as categories, or ``sorted``: a folder's index is its place
        in alphabetical order, as torchvision's ImageFolder numbers what it trains on.
    range, show
        As in `folder`.
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
    check_span("dataset.range", range)
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
    classes, outputs = folder_classes(folders, class_map)
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
                cases.append(_case(place, class_name, target, path, range))
            else:
                empty.append(bad(place.as_posix(), "the picture is an empty file"))
    check_bad("imagefolder", "pictures", empty, len(cases) + len(empty), allow_bad_records)
    data = finish("imagefolder", cases, wrong + empty, [], outputs, allow_bad_records)
    return replace(data, show=shown_channels(show))


def folder_classes(folders: list[str], own: str | None) -> tuple[dict[str, tuple[tuple[int, ...], str]], int | None]:
    """Target and class name by folder, and the number of outputs they are meant for."""
    if own == "sorted":
        return {name: ((index,), name) for index, name in enumerate(folders)}, len(folders)
    if own:
        groups, outputs = read_class_map("imagefolder", own)
        return {name: (group, name) for name, group in groups.items()}, outputs
    return {name: ((index,), title) for name, (index, title) in imagenet_classes().items()}, IMAGENET_OUTPUTS


def _case(place: Path, class_name: str, target: tuple[int, ...], path: Path, span: Span) -> Case:
    return Case(
        id=printable(place.as_posix()),
        image_id=printable(place.as_posix()),
        class_name=printable(class_name),
        target=target,
        load=partial(load_picture, str(path), span),
        files=(str(path),),
        load_stored=partial(stored_picture, str(path), span),
    )
