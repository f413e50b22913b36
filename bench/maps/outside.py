"""Maps that another program made: read from a folder, and brought to the network's input as the picture was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.maps.heatmaps import upsample
from bench.types import Batch

SUFFIXES = (".npy", ".npz", ".png", ".tif", ".tiff")
LARGEST = 10**8  # values of a map


def find_map(root: str, case_id: str, image_id: str) -> Path | None:
    """Find the map of a case in a folder: named like the case, or like its image; None where there is none.

    A ``/`` in an id is a folder's, and ``..`` leads nowhere. A file may be a link to one elsewhere.
    """
    top = os.path.abspath(root)
    for name in (case_id, image_id):
        for suffix in SUFFIXES:
            path = os.path.normpath(os.path.join(top, f"{name}{suffix}"))
            if path.startswith(os.path.join(top, "")) and os.path.isfile(path):
                return Path(path)
    return None


def read_map(path: Path, rank: int = 2) -> np.ndarray:
    """Values of a map (*spatial) of `rank` axes, float32: an array's, the only one of an archive, or a grey picture's.

    Further axes of length one are dropped, the first ones first.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or holds no map.
    """
    if path.suffix in (".npy", ".npz"):
        values = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        if not isinstance(values, np.ndarray):
            with values as archive:
                if len(archive.files) != 1:
                    raise ValueError(f"it holds {len(archive.files)} arrays instead of one")
                values = archive[archive.files[0]]
    else:
        with Image.open(path, formats=["PNG", "TIFF"]) as image:
            if len(image.getbands()) != 1 or image.mode == "P":
                raise ValueError(f"it is a picture of kind {image.mode}, not of grey values")
            pages = getattr(image, "n_frames", 1)
            if pages != 1:
                raise ValueError(f"it holds {pages} pictures instead of one")
            values = np.asarray(image)
    single = [axis for axis, side in enumerate(values.shape) if side == 1]
    values = values.squeeze(tuple(single[: max(0, values.ndim - rank)]))
    if values.ndim != rank or not values.size or values.size > LARGEST or values.dtype.kind not in "buif":
        axes = ", ".join(("depth", "height", "width")[-rank:])
        raise ValueError(f"it holds {values.dtype} {values.shape} instead of a map ({axes})")
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32)


def load_map(root: str, case_id: str, image_id: str, rank: int = 2) -> np.ndarray:
    """Find and read the map (*spatial) of a case; ValueError with the reason where it has none."""
    path = find_map(root, case_id, image_id)
    if path is None:
        raise ValueError("there is no file")
    try:
        return read_map(path, rank)
    except MemoryError:
        raise
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(" ".join(f"{path.name}: {error}".split())[:150]) from error


def outside_maps(batch: Batch, root: str, frame: str) -> Tensor:
    """Read the maps (N, *spatial) of the batch's cases from a folder, at input size.

    With `frame` ``original`` a map covers the whole picture as its file has it, in any number of positions, and goes
    the picture's own way to the input: resized linearly (averaged where it becomes smaller), cut, and 0 where `pad`
    adds a border. With ``input`` it covers the network's input. A case without a map has NaN.
    """
    size = tuple(batch.images.shape[2:])
    maps = torch.full((len(batch.ids), *size), torch.nan)
    for i, (case_id, image_id) in enumerate(zip(batch.ids, batch.image_ids, strict=True)):
        with suppress(ValueError):  # named before the run began
            values = torch.from_numpy(load_map(root, case_id, image_id, len(size)))
            if not values.isfinite().all():
                continue
            if frame == "input":
                maps[i] = upsample(values[None], size)[0]
            else:
                maps[i] = as_the_picture(values, batch.sizes[i], batch.to_input[i], size)
    return maps.to(batch.images.device)


def as_the_picture(values: Tensor, picture: Sequence[int], to_input: Sequence[float], size: Sequence[int]) -> Tensor:
    """Bring a map (*spatial) that covers a whole picture or volume, of `picture` pixels, to the input of `size`.

    `to_input` is as in `Batch`, x first.
    """
    rank, moved, inside = values.ndim, values.double(), torch.ones(tuple(size), dtype=torch.bool)
    for axis in range(rank):
        scale, shift = (float(to_input[at + rank - 1 - axis]) for at in (0, rank))
        shares, present = weights(values.shape[axis], round(picture[axis] * scale), round(-shift), size[axis])
        moved = (shares @ moved.movedim(axis, -2)).movedim(-2, axis) if axis < rank - 1 else moved @ shares.T
        inside &= present.view(-1, *[1] * (rank - 1 - axis))
    return moved.float().clamp(values.min(), values.max()).where(inside, 0)


def weights(old: int, new: int, first: int, number: int) -> tuple[Tensor, Tensor]:
    """Weights (number, old) that resample `old` positions to `new`, of `number` new ones from `first`; which exist.

    Linear between centres, averaged where there are fewer of them.
    """
    scale = old / new
    places = torch.arange(first, first + number, dtype=torch.float64)
    centres = ((places + 0.5) * scale).clamp(0.5, old - 0.5) if scale < 1 else (places + 0.5) * scale
    distance = (torch.arange(old, dtype=torch.float64) + 0.5 - centres[:, None]).abs() / max(scale, 1.0)
    shares = (1 - distance).clamp(min=0)
    total = shares.sum(1, keepdim=True)
    return shares / total.where(total > 0, 1), (places >= 0) & (places < new)
