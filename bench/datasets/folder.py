"""A user's own pictures without boxes: any folder (the predicted class is explained), or one folder a class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from bench.datasets.class_map import IMAGENET_OUTPUTS, imagenet_classes, read_class_map
from bench.datasets.images import picture_extensions
from bench.datasets.records import bad, check_bad, finish, load_boxed, need_folder
from bench.types import Case, Dataset, UserError


def folder(*, root: str | os.PathLike[str] | None = None) -> list[Case]:
    """List the pictures below a folder, in the order of their paths.

    Parameters
    ----------
    root : path
        Folder that is searched with its subfolders. Hidden files and folders are skipped, and so is
        everything whose extension Pillow does not read.

    Returns
    -------
    list of Case
        Without boxes; id is the path relative to `root` with forward slashes, `target` is ``()``, the
        predicted class. ``load()`` raises for a picture that cannot be decoded.

    Raises
    ------
    UserError
        `root` is not given, missing, no folder, not readable, or holds no picture.
    """
    top = need_folder(root, "dataset.root")
    readable = picture_extensions()
    names = sorted(path.relative_to(top).as_posix() for path in _files(top) if path.suffix.lower() in readable)
    if not names:
        raise UserError(f"no picture in {top} or below: put .jpg or .png files there, or set another dataset.root")
    return [_case(name, "", (), top / name) for name in names]


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
        Without boxes; id is the path below `root`.

    Raises
    ------
    UserError
        No folders, or folders whose class is not known.
    """
    top = need_folder(root, "dataset.root")
    folders = sorted(path.name for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UserError(
            f"{top} has no folders; it takes one folder of pictures a class (without classes: dataset=folder)"
        )
    classes, outputs = _classes(folders, class_map)
    unknown = [name for name in folders if name not in classes]
    if len(unknown) == len(folders):
        raise UserError(
            f"{top}: no class is known by the name {unknown[0]!r}; name folders by synset (n01440764), or give "
            "dataset.class_map=FILE (index,category) or dataset.class_map=sorted"
        )
    readable = picture_extensions()
    cases, wrong = [], [bad(f"{name}/", "no class has the name of this folder") for name in unknown]
    check_bad("imagefolder", "folders", wrong, len(folders), allow_bad_records)
    empty = []
    for name in folders:
        if name not in classes:
            continue
        for path in sorted(path for path in (top / name).rglob("*") if path.suffix.lower() in readable):
            place = path.relative_to(top).as_posix()
            if path.stat().st_size:
                target, class_name = classes[name]
                cases.append(_case(place, class_name, target, path))
            else:
                empty.append(bad(place, "the picture is an empty file"))
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


def _files(top: Path) -> list[Path]:
    # followlinks: folders of links into a larger collection are common; a link that leads back up is cut.
    seen: set[str] = set()
    files = []
    for at, folders, names in os.walk(top, onerror=_refuse, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(at, name) for name in names if not name.startswith(".")]
    return [path for path in files if path.is_file()]


def _refuse(error: OSError) -> None:
    raise UserError(f"cannot read the folder {error.filename} ({error.strerror}): check its permissions")


def _case(name: str, class_name: str, target: tuple[int, ...], path: Path) -> Case:
    return Case(id=name, image_id=name, class_name=class_name, target=target, load=partial(load_boxed, str(path)))
