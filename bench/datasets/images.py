"""Decode picture files, for all data sets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from os import PathLike, fspath, stat

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.io import decode_jpeg, read_file
from torchvision.ops import masks_to_boxes

from bench.types import UserError

Picture = str | PathLike[str] | ArrayLike

# Pillow also opens films and documents, which are no pictures here (and need Ghostscript or ffmpeg).
_NO_PICTURES = {".eps", ".ps", ".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf"}
# Pillow keeps 16-bit grey in its own modes, and "I" (32-bit) for 16-bit PNGs in older releases.
_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def picture_extensions() -> frozenset[str]:
    """Extensions, in lower case with the dot, of the picture formats this Pillow can decode."""
    names = Image.registered_extensions().items()
    return frozenset(extension for extension, name in names if name in Image.OPEN) - _NO_PICTURES


def read_image(path: str | PathLike[str]) -> Tensor:
    """Decode a picture to RGB as a viewer shows it.

    The EXIF orientation is applied; grey, palette, CMYK and other modes become RGB; 16-bit grey is
    scaled by 1 / 257, so that 65535 becomes 255; transparency is laid over white.

    Parameters
    ----------
    path : path
        Any file that Pillow reads; of an animation the first frame.

    Returns
    -------
    Tensor, shape (3, H, W), uint8

    Raises
    ------
    OSError
        The file is missing, truncated or no picture. The message names it.
    ValueError
        The picture decodes but has values that have no 8-bit meaning (float, or integers beyond 16 bits).
    """
    return _decode(fspath(path), stat(path).st_mtime_ns).clone()


@lru_cache(maxsize=2)
def _decode(path: str, _changed: int) -> Tensor:
    """Decode a file once for all cases of it, which follow one another."""
    try:
        with Image.open(path) as file:
            if _is_plain_jpeg(file):
                try:
                    # The same pixels from the same library, in little more than half the time.
                    pixels = decode_jpeg(read_file(path))
                    return pixels.expand(3, -1, -1)
                except RuntimeError:  # Pillow says better what is wrong with the file
                    pass
            # Orientation first: converting may drop the EXIF block. Both calls load the pixels.
            image = _to_rgb(ImageOps.exif_transpose(file))
    except FileNotFoundError:
        raise
    except _BadValues as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # OSError mostly, but broken metadata can make Pillow's plug-ins fail in any way
        raise OSError(f"{path}: cannot be decoded as a picture ({error})") from error
    # Channels stay last in memory, as decoders write and torchvision's 8-bit resize reads them.
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _is_plain_jpeg(file: Image.Image) -> bool:
    """Whether a JPEG is grey or RGB and upright, so that its stored pixels are the picture."""
    if file.format != "JPEG" or file.mode not in ("L", "RGB"):
        return False
    return file.getexif().get(ExifTags.Base.Orientation, 1) == 1


class _BadValues(ValueError):
    """Pixel values that cannot be mapped to 8 bits."""


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_GREY:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise _BadValues("integer pixels outside 0..65535, save it with 8 or 16 bits")
        # Pillow's own conversion clips at 255 and would show white.
        eight = ((grey + 128) // 257).astype(np.uint8)
        return Image.fromarray(eight).convert("RGB")
    if image.mode == "F":
        raise _BadValues("floating point pixels, save it with 8 or 16 bits")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        # Through RGBA, which also resolves a palette's or a PNG's transparent colour.
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def read_boxes(boxes: Sequence[Sequence[float]]) -> Tensor:
    """Boxes as float32 (M, 4)."""
    try:
        outlines = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError):  # rows of different lengths, or no numbers
        outlines = np.zeros(1, np.float32)
    if outlines.size and (outlines.ndim != 2 or outlines.shape[1] != 4):
        raise UserError(f"boxes are rows of four numbers (x0, y0, x1, y1), not {boxes}")
    return torch.from_numpy(outlines.reshape(-1, 4).copy())


def read_instances(
    boxes: Sequence[Sequence[float]], masks: ArrayLike | None, height: int, width: int
) -> tuple[Tensor, Tensor | None]:
    """Boxes (M, 4), those around the masks where there are masks only, and masks (M, height, width), bool, or None."""
    outlines = read_boxes(boxes)
    if masks is None:
        return outlines, None
    shapes = torch.from_numpy(np.asarray(masks) != 0)
    if shapes.ndim != 3 or tuple(shapes.shape[1:]) != (height, width) or len(outlines) not in (0, len(shapes)):
        number = f"{len(outlines)} boxes" if len(outlines) else "instances"
        raise UserError(f"masks are ({number}, {height}, {width}), as the picture is, not {tuple(shapes.shape)}")
    if not shapes.flatten(1).any(1).all():
        raise UserError("a mask is empty; leave it out, and its box")
    around = masks_to_boxes(shapes) + torch.tensor([0, 0, 1, 1])  # whose last row and column are inside
    return outlines if len(outlines) else around, shapes


def read_pixels(image: Picture) -> Tensor:
    """Pixels of a file or an array as uint8 (3, H, W)."""
    if isinstance(image, str | PathLike):
        try:
            return read_image(image)
        except (OSError, ValueError) as error:
            raise UserError(f"{image} cannot be read as a picture: {error}") from error
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UserError(
            f"a picture is a uint8 array (height, width[, 3]), this one {pixels.dtype} {pixels.shape}; "
            "skimage.util.img_as_ubyte makes one of floats from 0 to 1"
        )
    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))
