"""From original pixels to network input, for image, boxes and masks together; of pictures and volumes alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.datasets.arrays.windows import Window, linear, move_boxes, move_masks, placement
from bench.types import Batch, Case, InputSpec

GEOMETRIES = ("stretch", "center_crop", "pad")
MIN_VISIBLE = 0.2
STRIP = 64  # times the input's pixels: pictures that would be resized to more are cut first
PLACED = ("boxes", "other_boxes", "ignore", "parts")  # lists of a batch with boxes in input pixels
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R 601, as Pillow's grey


class Unfit(ValueError):
    """A sound file that does not fit the network, or about which the user has to say more."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One case, decoded and transformed; fields as in `Batch`."""

    case: Case
    image: Tensor
    boxes: Tensor
    other_boxes: Tensor
    masks: Tensor | None
    original_masks: Tensor | None
    size: tuple[int, ...]
    to_input: tuple[float, ...]
    ignore: Tensor
    parts: Tensor
    dropped: int = 0  # boxes of the class of which too little is left
    made_grey: bool = False  # a colour picture, for a network of one channel
    scaled: dict[float, Tensor] = field(default_factory=dict)  # the image at multiples of the input's size


def prepare(
    case: Case, spec: InputSpec, geometry: str, same: Sample | None = None, scales: Sequence[float] = ()
) -> Sample:
    """Decode a case's picture or volume and bring it, its boxes and its masks to the network's input.

    Parameters
    ----------
    case : Case
    spec : InputSpec
    geometry : {"stretch", "center_crop", "pad"}
        stretch cuts nothing away and ignores the aspect ratio; center_crop is the classifier's own
        transform; pad keeps both, with the mean colour around.
    same : Sample, optional
        Another case of the same picture, whose images then need not be made again.
    scales : sequence of float
        Multiples of the input's size at which the network is to see the picture as well. They are resampled from the
        picture itself and show the same part of it, to half a pixel where the size is not divisible.

    Returns
    -------
    Sample
        Boxes are clipped to the input; one of which under 20 % is left is dropped. Masks are resized to the nearest
        pixel, centre to centre, as everything else is.

    Raises
    ------
    OSError, ValueError
        The picture cannot be decoded; `Unfit` where it has other channels or axes than the network takes.
    """
    if spec.channels != 3 and case.load_stored:
        image, masks = case.load_stored(spec.channels)
    else:
        image, masks = case.load()
    colours = len(image)
    image = fit_channels(image, spec)
    window = placement(image.shape[1:], spec, geometry)
    if same:
        pixels, scaled = same.image, same.scaled
    else:
        pixels = input_pixels(image, window, spec)
        scaled = {scale: input_pixels(image, window.larger(scale), spec) for scale in scales}

    # All at once: what a call costs does not depend on how many boxes there are.
    together = [boxes.reshape(-1, 2 * spec.rank) for boxes in (case.boxes, case.other_boxes, case.ignore, case.parts)]
    moved, visible = move_boxes(torch.cat(together), window)
    counts = [len(boxes) for boxes in together]
    (boxes, other_boxes, ignore, parts), (seen, others_seen, ignore_seen, _) = (
        each.split(counts) for each in (moved, visible)
    )
    kept = seen >= MIN_VISIBLE
    moved_masks = None
    if masks is not None:
        moved_masks = move_masks(masks if kept.all() else masks[kept], window)
    return Sample(
        case=case,
        image=pixels,
        boxes=boxes[kept],
        other_boxes=other_boxes[others_seen >= MIN_VISIBLE],
        masks=moved_masks,
        original_masks=masks,
        size=window.old,
        to_input=window.to_input,
        ignore=ignore[ignore_seen > 0],
        parts=parts,
        dropped=int((~kept).sum()),
        made_grey=colours > spec.channels,
        scaled=scaled,
    )


def fit_channels(image: Tensor, spec: InputSpec) -> Tensor:
    """Give an image (C, *spatial) the network's channels: grey ones are repeated for three, RGB becomes grey for one.

    Raises
    ------
    Unfit
        No other numbers can be brought together, or the image has other axes than the input.
    """
    if image.ndim != spec.rank + 1:
        raise Unfit(f"an image of {image.ndim - 1} axes, but the network's input has {spec.rank}, as model.size=")
    channels, wanted = len(image), spec.channels
    if channels == wanted:
        return image
    if channels == 1 and wanted == 3:
        return image.expand(3, *image.shape[1:])
    if channels == 3 and wanted == 1:
        grey = torch.einsum("c...,c->...", image.float(), torch.tensor(LUMINANCE))[None]
        return grey.round().to(image.dtype) if image.dtype == torch.uint8 else grey
    raise Unfit(f"the picture has {channels} channels, and the network takes {wanted}, as many as model.mean=")


def input_pixels(image: Tensor, window: Window, spec: InputSpec) -> Tensor:
    """Resize an image (C, *spatial), uint8 or float32 in 0 to 1, cut the window out, and normalize it.

    What lies outside is 0, the mean. Pictures are resized by torchvision; volumes, and float32 pictures that become one
    pixel wide or high, linearly, averaged where they become smaller.
    """
    mean, std = (torch.tensor(values).view(-1, *[1] * spec.rank) for values in (spec.mean, spec.std))
    strip = prod(window.new) > STRIP * prod(window.size)
    eight_bit = image.dtype == torch.uint8
    thin = 1 in window.new and not eight_bit  # torch resizes float32 to one pixel wrongly
    if spec.rank != 2 or thin or (strip and not (eight_bit and len(image) == 3)):
        values, inside = linear(F.to_dtype(image, torch.float32, scale=True), window)
        return ((values - mean) / std).where(inside, 0)
    (height, width), (top, left), size = window.new, window.corner, window.size
    y0, x0, rows, columns = max(top, 0), max(left, 0), min(size[0], height), min(size[1], width)
    if not strip:
        resized = F.resize(image, [height, width], InterpolationMode(spec.interpolation), antialias=True)
        small = F.crop(resized, y0, x0, rows, columns)
    else:
        # A long strip would grow to gigabytes; Pillow computes the window alone, and differs by one level in 255.
        down, across = image.shape[1] / height, image.shape[2] / width
        ends = min((x0 + columns) * across, image.shape[2]), min((y0 + rows) * down, image.shape[1])
        whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        kind = Image.Resampling[spec.interpolation.upper()]
        small = torch.from_numpy(np.array(whole.resize((columns, rows), kind, (x0 * across, y0 * down, *ends))))
        small = small.permute(2, 0, 1)
    # Cut before the pixels become float32, of four times the size.
    small = (F.to_dtype(small, torch.float32, scale=True) - mean) / std
    return F.crop(small, min(top, 0), min(left, 0), *size)


def seen_batch(batch: Batch, samples: Sequence[Sample], scale: float) -> Batch:
    """Return the batch with the images of a scale, negative in the mirror, and with all that lies somewhere in them."""
    size = abs(scale)
    if size != 1:
        images = torch.stack([sample.scaled[size].to(batch.images.device, non_blocking=True) for sample in samples])
        placed: dict[str, Any] = {name: [boxes * size for boxes in getattr(batch, name)] for name in PLACED}
        shape = images.shape[2:]
        placed["masks"] = [None if one is None else _resized(one, shape) for one in batch.masks]
        placed["to_input"] = [tuple(size * number for number in numbers) for numbers in batch.to_input]
        batch = replace(batch, images=images, **placed)
    return mirrored(batch) if scale < 0 else batch


def _resized(masks: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring masks (M, H, W) to another size, to the nearest pixel."""
    return interpolate(masks[None].to(torch.uint8), list(shape), mode="nearest-exact")[0] > 0


def mirrored(batch: Batch) -> Batch:
    """Mirror a batch along its last axis: its images, what lies somewhere in them, and the original pictures too."""
    side = batch.images.shape[-1]
    moved: dict[str, Any] = {name: [_flipped(boxes, side) for boxes in getattr(batch, name)] for name in PLACED}
    for name in ("masks", "original_masks"):
        moved[name] = [None if masks is None else masks.flip(-1) for masks in getattr(batch, name)]
    moved["original_boxes"] = [
        _flipped(boxes, size[-1]) for boxes, size in zip(batch.original_boxes, batch.sizes, strict=True)
    ]
    moved["to_input"] = []
    for numbers, size in zip(batch.to_input, batch.sizes, strict=True):
        at = len(numbers) // 2
        moved["to_input"].append((*numbers[:at], side - numbers[0] * size[-1] - numbers[at], *numbers[at + 1 :]))
    return replace(batch, images=batch.images.flip(-1), **moved)


def _flipped(boxes: Tensor, side: int) -> Tensor:
    """Boxes (M, 2 * rank) in the mirror image of a picture of this width."""
    boxes, last = boxes.clone(), boxes.shape[1] // 2
    boxes[:, [0, last]] = side - boxes[:, [last, 0]]
    return boxes


def collate(samples: Sequence[Sample], spec: InputSpec, device: torch.device, show: tuple[int, ...] = ()) -> Batch:
    """Put samples into one batch on the device; targets are the cases' own, still empty where not known."""
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    cases = [sample.case for sample in samples]
    return Batch(
        images=torch.stack([sample.image.to(device, non_blocking=True) for sample in samples]),
        ids=[case.id for case in cases],
        image_ids=[case.image_id for case in cases],
        class_names=[case.class_name for case in cases],
        targets=[case.target for case in cases],
        boxes=[sample.boxes.to(device) for sample in samples],
        other_boxes=[sample.other_boxes.to(device) for sample in samples],
        masks=[None if sample.masks is None else sample.masks.to(device) for sample in samples],
        original_boxes=[case.boxes.to(device) for case in cases],
        original_masks=[None if s.original_masks is None else s.original_masks.to(device) for s in samples],
        difficult=[case.difficult.to(device) for case in cases],
        sizes=[sample.size for sample in samples],
        to_input=[sample.to_input for sample in samples],
        black=(-mean / std).to(device),
        ignore=[sample.ignore.to(device) for sample in samples],
        distractors=[len(case.other_boxes) > int(case.other_difficult.sum()) for case in cases],
        parts=[sample.parts.to(device) for sample in samples],
        values=[case.values.to(device) for case in cases],
        show=show,
    )
