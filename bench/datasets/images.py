"""Decode picture files, for all data sets."""

from __future__ import annotations

import warnings
from functools import lru_cache
from os import PathLike, fspath, stat
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.io import decode_jpeg

from bench.types import UserError, printable

Picture = str | PathLike[str] | Image.Image | ArrayLike

# Pillow goes by the content, whatever a file is called, and opens documents and films too: EPS starts Ghostscript.
# Those it knows without loading all its plug-ins come first.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
# Where Pillow suspects a decompression bomb. A picture takes 3 bytes a pixel, and while it is turned, laid over white
# or brought from 16 bits to 8 up to 20: 1.8 GB, in each process.
MOST_PIXELS = 89_478_485
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # such a picture is refused below
# Pillow keeps 16-bit grey in its own modes, and "I" (32-bit) for 16-bit PNGs in older releases.
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def picture_extensions() -> frozenset[str]:
    """Extensions, in lower case with the dot, of the picture formats that are read."""
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in FORMATS)


def read_image(path: str | PathLike[str], *, upright: bool = True) -> Tensor:
    """Decode a picture to RGB as a viewer shows it.

    Grey, palette, CMYK and other modes become RGB; 16-bit grey is scaled by 1 / 257, so that 65535 becomes 255;
    transparency is laid over white.

    Parameters
    ----------
    path : path
        A file of one of `FORMATS`, whatever its name; of an animation the first frame.
    upright : bool
        Whether the EXIF orientation is applied; otherwise pixels stay as they are stored. (A TIFF is always upright.)

    Returns
    -------
    Tensor, shape (3, H, W), uint8

    Raises
    ------
    OSError
        The file is missing, truncated or no picture. The message names it.
    ValueError
        The picture has over `MOST_PIXELS` pixels, or values that have no 8-bit meaning (float, or integers beyond 16
        bits).
    """
    return _decode(fspath(path), stat(path).st_mtime_ns, upright).clone()


def read_file(path: str) -> Tensor:
    """Bytes of a file, uint8 (length,); torchvision's own reader refuses names that are not UTF-8."""
    return torch.from_numpy(np.fromfile(path, np.uint8))


@lru_cache(maxsize=2)
def _decode(path: str, _changed: int, upright: bool) -> Tensor:
    """Decode a file once for all cases of it, which follow one another."""
    try:
        with Image.open(path, formats=FORMATS) as file:
            if file.width * file.height > MOST_PIXELS:
                raise _Unusable(
                    f"the picture has {file.width} x {file.height} pixels, more than {MOST_PIXELS / 1e6:.0f} million; "
                    "save it smaller"
                )
            if _is_plain_jpeg(file, upright):
                try:
                    # The same pixels from the same library, in little more than half the time.
                    pixels = decode_jpeg(read_file(path))
                    return pixels.expand(3, -1, -1)
                except RuntimeError:  # Pillow says better what is wrong with the file
                    pass
            # Orientation first: converting may drop the EXIF block. Both calls load the pixels.
            image = to_rgb(ImageOps.exif_transpose(file) if upright else file)
    except (FileNotFoundError, MemoryError):  # the second says nothing about the picture
        raise
    except _Unusable as error:
        raise ValueError(f"{printable(path)}: {error}") from error
    except Exception as error:  # OSError mostly, but broken metadata can make Pillow's plug-ins fail in any way
        raise OSError(f"{printable(path)}: cannot be decoded as a picture ({error})") from error
    # Channels stay last in memory, as decoders write and torchvision's 8-bit resize reads them.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _is_plain_jpeg(file: Image.Image, upright: bool) -> bool:
    """Whether a JPEG is grey or RGB, and upright where it has to be, so that its stored pixels are the picture."""
    if file.format != "JPEG" or file.mode not in ("L", "RGB"):
        return False
    return not upright or file.getexif().get(ExifTags.Base.Orientation, 1) == 1


class _Unusable(ValueError):
    """A sound picture of too many pixels, or with values that cannot be mapped to 8 bits."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring a picture of any mode to RGB, see `read_image`."""
    if image.mode in _DEEP_GREY:
        grey = np.asarray(image).astype(np.int32)
        if grey.min() < 0 or grey.max() > 65535:
            raise _Unusable("integer pixels outside 0..65535, save it with 8 or 16 bits")
        # Pillow's own conversion clips at 255 and would show white.
        eight = ((grey + 128) // 257).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if image.mode == "F":
        raise _Unusable("floating point pixels, save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        # Through RGBA, which also resolves a palette's or a PNG's transparent colour.
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def read_pixels(image: Picture) -> Tensor:
    """Pixels of a file, an array or a picture that Pillow has opened, as uint8 (3, H, W)."""
    try:
        if isinstance(image, str | PathLike):
            return read_image(image)
        if isinstance(image, Image.Image):  # as an array, one with a palette would be the numbers of its colours
            image = np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(image)} cannot be read as a picture: {error}") from error
    pixels = array_of(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UserError(
            f"a picture is a uint8 array (height, width[, 3]), this one {pixels.dtype} {pixels.shape}; "
            "skimage.util.img_as_ubyte makes one of floats from 0 to 1"
        )
    if not pixels.size:
        raise UserError(f"the picture has no pixels: {pixels.shape}")
    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))


def array_of(values: Any) -> NDArray[Any]:
    """Numbers of a user's as an array: of lists, pictures, tensors of any kind and place; else an array of objects."""
    if isinstance(values, Tensor):
        values = values.detach().to_dense().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths
        return np.empty((), dtype=object)
    return array if array.dtype.kind in "biuf" else np.empty(array.shape, dtype=object)


def is_number(value: Any) -> bool:
    """Whether a value of a json file is a number that Python can compute with; true and "2" are none."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def shorten(value: Any) -> str:
    """Begin to show a value that may be of any kind and length."""
    text = printable(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
