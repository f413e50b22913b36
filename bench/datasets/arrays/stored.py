"""Pictures and volumes with all the channels and levels that their files hold: arrays, TIFF, NIfTI, other pictures.

Nothing in a file is run, and its size is known before its values are read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from os import PathLike
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from bench.datasets.images import FORMATS, MOST_PIXELS, Picture, array_of, read_image, read_pixels, to_rgb
from bench.datasets.transforms import Unfit
from bench.types import InputSpec, UserError, printable

Span = Sequence[float] | None
MOST_VALUES = 3 * MOST_PIXELS  # of all channels together
TIFF = (".tif", ".tiff")
VOLUMES = (".npy", ".npz", ".nii", ".nii.gz")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")


def check_span(setting: str, span: Span) -> None:
    """Raise UserError unless `span` is None or two numbers, the first one smaller."""
    if span is None:
        return
    numbers = isinstance(span, list | tuple) and len(span) == 2 and all(type(end) in (int, float) for end in span)
    if not numbers or not span[0] < span[1]:
        raise UserError(f"{setting}={printable(span)} must be the values that are black and white: [LOW,HIGH]")


def shown_channels(show: Sequence[int] | int | None) -> tuple[int, ...]:
    """Channels to look at, one or three; none where that is left to the number of channels. UserError for others."""
    channels = () if show is None else tuple(show) if isinstance(show, list | tuple) else (show,)
    if len(channels) not in (0, 1, 3) or not all(type(channel) is int and channel >= 0 for channel in channels):
        raise UserError(f"dataset.show={printable(show)} must be one channel, or three for red, green and blue")
    return channels


def load_picture(path: str, span: Span) -> tuple[Tensor, None]:
    """Load a picture for a network of three channels: as viewers show it where they can and `span` is None.

    Arguments, values and errors as in `stored_picture`.
    """
    name = path.lower()
    if span is None and not name.endswith(".npy"):
        try:
            return read_image(path), None
        except (OSError, ValueError):
            if not name.endswith(TIFF):  # of which Pillow reads some kinds only
                raise
    return stored_picture(path, span, 3)


def stored_picture(path: str, span: Span, channels: int) -> tuple[Tensor, None]:
    """Read a picture with the channels that its file holds.

    Parameters
    ----------
    path : str
        A ``.npy`` file, or a picture. Transparency is a channel only where the network takes so many.
    span : two floats or None
        Values that are black and white; None for 0 and the largest of unsigned integers of 8 or 16 bits.
    channels : int
        Of the network: the axis of an array with this length, the first or the last one, is that of the channels.

    Returns
    -------
    Tensor, shape (C, H, W), and None, no masks
        C is `channels`, or 1 or 3 where the picture is grey or RGB. uint8, or float32 with black 0 and white 1.

    Raises
    ------
    OSError
        The file cannot be read, is too large, or has values that are not finite.
    Unfit
        It does not fit the network, or its type does not say what black and white are.
    """
    with named(path):
        if path.lower().endswith(".npy"):
            values = channels_first(read_npy(path), channels, 2)
        else:
            values = of_picture(path, channels)
        return in_unit(values, span), None


def given_pixels(image: Picture, spec: InputSpec) -> Tensor:
    """Pixels (C, *spatial) of a user's file or array for this input; UserError where it is none.

    Pictures for three channels are as `bench.datasets.images.read_pixels` takes them. Else an array has its channels
    first or last, and floats are from 0 to 1.
    """
    if (spec.channels, spec.rank) == (3, 2):
        return read_pixels(image)
    try:
        if isinstance(image, str | PathLike):
            if spec.rank > 2:
                return stored_volume(str(image), None, spec.channels)
            return stored_picture(str(image), None, spec.channels)[0]
        values = of_pillow(image, spec.channels) if isinstance(image, Image.Image) else array_of(image)
        return in_unit(channels_first(values, spec.channels, spec.rank), (0, 1) if values.dtype.kind == "f" else None)
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error


def stored_volume(path: str, span: Span, channels: int) -> Tensor:
    """Read a volume (C, D, H, W) of ``.npy``, ``.npz`` or NIfTI; the rest is as in `stored_picture`."""
    with named(path):
        return in_unit(channels_first(read_volume(path), channels, 3), span)


def read_volume(path: str) -> NDArray[Any]:
    """Read an array: of ``.npy``, the only one of ``.npz``, or of NIfTI, whose axes x, y, z are taken in reverse."""
    name = path.lower()
    if name.endswith(".npy"):
        return read_npy(path)
    return read_npz(path) if name.endswith(".npz") else read_nifti(path)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Raise the errors of reading a file as OSError or ValueError that name it."""
    try:
        yield
    except (UserError, FileNotFoundError, MemoryError):
        raise
    except Unfit as error:
        raise Unfit(f"{printable(path)}: {error}") from error
    except Exception as error:  # broken metadata can make tifffile, nibabel and Pillow fail in any way
        raise OSError(f"{printable(path)}: cannot be read ({error})") from error


def check_size(shape: Sequence[int]) -> None:
    """Raise ValueError for an array of too many values, or of none."""
    if prod(shape) > MOST_VALUES:
        raise ValueError(f"an array of {' x '.join(map(str, shape))} values, more than {MOST_VALUES / 1e6:.0f} million")
    if not prod(shape):
        raise ValueError(f"an array of {' x '.join(map(str, shape))} is empty")


def read_npy(path: str) -> NDArray[Any]:
    """Read an array; no pickles."""
    values = np.load(path, allow_pickle=False, mmap_mode="r")
    check_size(values.shape)
    return np.array(values)


def read_npz(path: str) -> NDArray[Any]:
    """Read the only array of an archive, whose size its header says."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise Unfit(f"it holds {len(names)} arrays instead of one")
        with archive.open(names[0]) as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            check_size(read_header(file)[0])
        with archive.open(names[0]) as file:
            return np.asarray(npy.read_array(file, allow_pickle=False))


def read_nifti(path: str) -> NDArray[Any]:
    """Read a NIfTI file as (z, y, x), or (channels, z, y, x), with its own scaling; what its affine says is left."""
    try:
        from nibabel.nifti1 import Nifti1Image
    except ImportError as error:
        raise UserError("NIfTI files need nibabel: pip install 'cam-bench[volumes]'") from error
    image = Nifti1Image.from_filename(path)
    check_size(image.shape)
    return np.asanyarray(image.dataobj).T


def of_picture(path: str, channels: int) -> NDArray[Any]:
    """Read a picture file (C, H, W): by Pillow, and by tifffile what Pillow does not read whole."""
    tiff = path.lower().endswith(TIFF)
    try:
        with Image.open(path, formats=FORMATS) as file:
            check_size((file.height, file.width, 3))
            if not tiff or not more_than_pillow(file):
                return of_pillow(ImageOps.exif_transpose(file), channels)
    except Image.UnidentifiedImageError:
        if not tiff:
            raise
    with tifffile.TiffFile(path) as pages:
        series = pages.series[0]
        check_size(series.shape)
        if series.axes not in ("YX", "YXS", "SYX", "CYX", "QYX", "IYX"):
            raise Unfit(f"a TIFF with the axes {series.axes}; save one picture a file")
        values = series.asarray()
        if series.axes == "YXS":
            return np.moveaxis(values, -1, 0)
        return values if series.axes in ("SYX", "CYX") else channels_first(values, channels, 2)


def more_than_pillow(file: Image.Image) -> bool:
    """Whether a TIFF holds more than Pillow reads of it: further channels, or pages."""
    samples = getattr(file, "tag_v2", {}).get(277, 1)
    return samples != len(file.getbands()) or samples > 3 or getattr(file, "n_frames", 1) > 1


def of_pillow(image: Image.Image, channels: int) -> NDArray[Any]:
    """Pixels (C, H, W) as they are: grey of any depth, or as many bands as the network has channels; else RGB."""
    if image.mode == "I":  # 16 bits in some releases, 32 in others
        grey = np.asarray(image)
        return (grey.astype(np.uint16) if 0 <= grey.min() and grey.max() < 2**16 else grey)[None]
    if image.mode in ("L", "F", *DEEP):
        values = np.asarray(image)
        return (values.astype(np.uint16) if image.mode in DEEP else values)[None]
    if image.mode == "1":
        return np.asarray(image.convert("L"))[None]
    whole = image.mode in ("LA", "RGB", "RGBA") and len(image.getbands()) == channels
    return np.asarray(image if whole else to_rgb(image)).transpose(2, 0, 1)


def channels_first(values: NDArray[Any], channels: int, rank: int) -> NDArray[Any]:
    """Bring an array to (C, *spatial): the axis of channels is the first or the last, whichever has their number.

    An array without it is grey; `Unfit` where both could be it, or neither. A network of one channel also takes three,
    and one of three also one.
    """
    shape = " x ".join(map(str, values.shape))
    if values.ndim == rank:
        return values[None]
    if values.ndim != rank + 1:
        raise Unfit(f"an array of {shape} has {values.ndim} axes instead of {rank}, and one of channels")
    for number in [channels, *({1: [3], 3: [1]}.get(channels, []))]:
        places = [axis for axis in (0, -1) if values.shape[axis] == number]
        if len(places) == 2:
            raise Unfit(f"in an array of {shape} the {number} channels may be the first or the last axis")
        if places:
            return np.moveaxis(values, places[0], 0)
    raise Unfit(f"in an array of {shape} neither the first nor the last axis is the network's {channels} channels")


def in_unit(values: NDArray[Any], span: Span) -> Tensor:
    """Values as uint8, or float32 with black 0 and white 1; `Unfit` where neither `span` nor the type says which."""
    if values.dtype.kind not in "buif":
        raise Unfit(f"values of type {values.dtype} are no numbers")
    if values.dtype == np.uint8 and span is None:
        return torch.from_numpy(np.ascontiguousarray(values))
    if span is None:
        known = {"b1": 1, "u2": 2**16 - 1}
        if values.dtype.str[1:] not in known:
            raise Unfit(f"values of type {values.dtype}; say which are black and white with dataset.range=[LOW,HIGH]")
        span = (0, known[values.dtype.str[1:]])
    result = np.subtract(values, span[0], dtype=np.float32)
    result /= span[1] - span[0]
    if not np.isfinite(result).all():
        raise ValueError("values that are NaN or infinite")
    return torch.from_numpy(np.ascontiguousarray(result))
