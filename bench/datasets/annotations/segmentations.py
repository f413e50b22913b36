"""Masks from COCO's segmentations, which are checked before pycocotools, C code that trusts its input, sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor

from bench.datasets.images import is_number, shorten

MOST_MASKS = 2**31  # bytes of a case's masks, one a pixel; an annotation file of a megabyte can ask for any number
MOST_OUTLINE = 1_000_000  # pixels; pycocotools walks along an outline and takes 40 bytes for each


def decode_masks(segmentations: Sequence[Any], height: int, width: int) -> Tensor:
    """Masks (M, height, width), bool, of COCO's segmentations: polygons, or run-length codes of either kind.

    ValueError for anything else: pycocotools is C code that trusts its input.
    """
    if len(segmentations) * height * width > MOST_MASKS:
        raise ValueError(f"{len(segmentations)} masks of {width} x {height} pixels take over 2 GiB")
    codes = [_run_lengths(one, height, width) for one in segmentations]
    try:
        masks = mask_utils.decode(codes)
    except MemoryError:
        raise
    except Exception as error:  # pycocotools raises no other class
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
