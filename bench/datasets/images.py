"""Decode picture files and masks, for all data sets."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from os import PathLike, fspath, stat
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import ExifTags, Image, ImageOps
from pycocotools import mask as mask_utils
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
MOST_MASKS = 2**31  # bytes of a case's masks, one a pixel; an annotation file of a megabyte can ask for any number
MOST_OUTLINE = 1_000_000  # pixels; pycocotools walks along an outline and takes 40 bytes for each
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
    except FileNotFoundError:
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
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UserError(
            f"a picture is a uint8 array (height, width[, 3]), this one {pixels.dtype} {pixels.shape}; "
            "skimage.util.img_as_ubyte makes one of floats from 0 to 1"
        )
    if not pixels.size:
        raise UserError(f"the picture has no pixels: {pixels.shape}")
    colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))


def decode_masks(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """Masks (M, height, width), bool, of COCO's segmentations: polygons, or run-length codes of either kind.

    ValueError for anything else: pycocotools is C code that trusts its input.
    """
    if len(segmentations) * height * width > MOST_MASKS:
        raise ValueError(f"{len(segmentations)} masks of {width} x {height} pixels take over 2 GiB")
    codes = [_run_lengths(one, height, width) for one in segmentations]
    try:
        masks = mask_utils.decode(codes)
    except Exception as error:  # the class that pycocotools raises
        raise ValueError(str(error)) from error
    # pycocotools gives (height, width, M), column by column; a copy in another order would cost as much again.
    return torch.from_numpy(masks).permute(2, 0, 1).view(torch.bool)


def _run_lengths(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    if isinstance(segmentation, list):
        return _outline(segmentation, height, width)
    if not isinstance(segmentation, dict):
        raise ValueError("it is neither a list of polygons nor a run-length code")
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        sides = " x ".join(map(shorten, size[::-1])) if isinstance(size, list) else shorten(size)
        raise ValueError(f"it is made for {shorten(sides)} pixels")
    if isinstance(counts, str | bytes):
        counts = _runs(counts.encode(errors="replace") if isinstance(counts, str) else counts)
    if not isinstance(counts, list) or not all(isinstance(one, int) and one >= 0 for one in counts):
        raise ValueError("its run lengths are no numbers of pixels")
    if sum(counts) != height * width:  # pycocotools would leave what is missing as it finds the memory
        raise ValueError(f"its run lengths add up to {sum(counts)} and not to {height * width}")
    return mask_utils.frPyObjects({"size": size, "counts": counts}, height, width)


def _runs(letters: bytes) -> list[int]:
    """Run lengths of COCO's code: six bits a letter, of which the highest says that the number goes on."""
    runs: list[int] = []
    value = shift = 0
    for letter in letters:
        bits = letter - 48
        value, shift = value | (bits & 31) << shift, shift + 5
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError("its run lengths are not in COCO's code")
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _outline(polygons: list[Any], height: int, width: int) -> dict[str, Any]:
    """Run-length code of the union of polygons; nothing where none has three corners."""
    length = 0.0
    for polygon in polygons:
        if not isinstance(polygon, list) or not all(map(is_number, polygon)) or len(polygon) % 2:
            raise ValueError("a polygon is no list of x and y")
        corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        if not (np.abs(corners - (width / 2, height / 2)) <= (1.5 * width, 1.5 * height)).all():
            raise ValueError("a polygon lies far outside the picture")
        length += np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum()
    if length > MOST_OUTLINE:
        raise ValueError(f"its polygons are {length:.0f} pixels long, more than {MOST_OUTLINE:,}")
    drawn = [polygon for polygon in polygons if len(polygon) >= 6]
    if not drawn:
        return mask_utils.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    return mask_utils.merge(mask_utils.frPyObjects(drawn, height, width))


def is_number(value: Any) -> bool:
    """Whether a value of a json file is a number that Python can compute with; true and "2" are none."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def shorten(value: Any) -> str:
    """Begin to show a value that may be of any kind and length."""
    text = printable(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
