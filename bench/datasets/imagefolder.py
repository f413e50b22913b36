"""Pictures with a label and no boxes: one folder a class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.datasets.class_map import IMAGENET_OUTPUTS, imagenet_classes
from bench.datasets.class_map import class_map as read_class_map
from bench.datasets.folder import picture_extensions
from bench.datasets.images import read_image
from bench.datasets.records import bad, check_bad, finish, need_folder
from bench.types import Case, Dataset, UserError


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
            if not path.stat().st_size:
                empty.append(bad(place, "the picture is an empty file"))
                continue
            target, class_name = classes[name]
            nothing = torch.zeros(0, 4)
            load = partial(_load, str(path))
            flags = torch.zeros(0, dtype=torch.bool)
            cases.append(Case(place, place, class_name, target, load, nothing, nothing, flags))
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


def _load(path: str) -> tuple[Tensor, None]:
    return read_image(Path(path)), None
