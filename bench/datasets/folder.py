"""A user's own pictures: no ground truth, the predicted class is explained."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench.datasets.images import read_image
from bench.types import Case, UserError

# Pillow also opens films and documents, which are no pictures here (and need Ghostscript or ffmpeg).
_NO_PICTURES = {".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf"}


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
        predicted class. A picture that cannot be decoded is found out only by ``load()``.

    Raises
    ------
    UserError
        `root` is not given, missing, no folder, not readable, or holds no picture.
    """
    if root is None or not os.fspath(root):
        raise UserError("dataset=folder needs the folder with the pictures: add dataset.root=DIR")
    top = Path(root).expanduser()
    if not top.exists():
        raise UserError(f"picture folder {top} does not exist: check dataset.root (relative to {Path.cwd()})")
    if not top.is_dir():
        raise UserError(f"{top} is a file: set dataset.root to the folder that holds the pictures")
    readable = picture_extensions()
    found = sorted(path.relative_to(top).as_posix() for path in _files(top) if path.suffix.lower() in readable)
    if not found:
        raise UserError(f"no picture in {top} or below: put .jpg or .png files there, or set another dataset.root")
    return [
        Case(
            id=name,
            image_id=name,
            class_name="",
            target=(),
            load=partial(_load, str(top.absolute() / name)),
            boxes=torch.zeros(0, 4),
            other_boxes=torch.zeros(0, 4),
            difficult=torch.zeros(0, dtype=torch.bool),
        )
        for name in found
    ]


def picture_extensions() -> frozenset[str]:
    """Extensions, in lower case with the dot, of the picture formats this Pillow can decode."""
    names = Image.registered_extensions().items()
    return frozenset(extension for extension, name in names if name in Image.OPEN) - _NO_PICTURES


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


def _load(path: str) -> tuple[Tensor, Tensor | None]:
    return read_image(path), None
