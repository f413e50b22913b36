"""From original pixels to network input, for image, boxes and masks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.types import Batch, Case, InputSpec

GEOMETRIES = ("stretch", "center_crop", "pad")
MIN_VISIBLE = 0.2
STRIP = 64  # times the input's pixels: pictures that would be resized to more are cut first


@dataclass(frozen=True, eq=False)
class Sample:
    """One case, decoded and transformed; fields as in `Batch`."""

    case: Case
    image: Tensor
    boxes: Tensor
    other_boxes: Tensor
    masks: Tensor | None
    original_masks: Tensor | None
    size: tuple[int, int]
    to_input: tuple[float, float, float, float]
    ignore: Tensor
    parts: Tensor
    dropped: int = 0  # boxes of the class of which too little is left
    scaled: dict[float, Tensor] = field(default_factory=dict)  # the image at multiples of the input's size


def placement(height: int, width: int, spec: InputSpec, geometry: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size to resize to, and the (top, left) of the input window in it (negative where `pad` adds a border).

    center_crop cuts and never pads: a picture becomes at least as large as the input, also where the network's size
    was raised above its ``resize``.
    """
    size = spec.size
    if geometry == "stretch":
        return (size, size), (0, 0)
    # Rounded as torchvision's Resize and CenterCrop do, so that center_crop equals the weights' own transform.
    shortest, longest = min(height, width), max(height, width)
    wanted, known = (max(spec.resize, size), shortest) if geometry == "center_crop" else (size, longest)
    resized = (max(1, int(wanted * height / known)), max(1, int(wanted * width / known)))
    return resized, (round((resized[0] - size) / 2), round((resized[1] - size) / 2))


def prepare(
    case: Case, spec: InputSpec, geometry: str, same: Sample | None = None, scales: Sequence[float] = ()
) -> Sample:
    """Decode a case's picture and bring it, its boxes and its masks to the network's input.

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
        The picture cannot be decoded.
    """
    image, masks = case.load()
    if image.ndim != spec.rank + 1 or (spec.rank > 2 and image.shape != spec.shape):
        raise ValueError(f"{tuple(image.shape)} is no input of shape {spec.shape}; only pictures are resized")
    height, width = image.shape[-2:]
    (new_height, new_width), (top, left) = placement(height, width, spec, geometry)
    scale_x, scale_y = new_width / width, new_height / height
    new_size, window = (new_height, new_width), (top, left, spec.size, spec.size)
    pixels, scaled = (same.image, same.scaled) if same else (input_pixels(image, new_size, window, spec), {})
    for scale in scales if same is None else ():
        size, y, x = (round(scale * length) for length in (spec.size, top, left))
        larger = max(1, round(scale * new_height)), max(1, round(scale * new_width))
        scaled[scale] = input_pixels(image, larger, (y, x, size, size), replace(spec, size=size))

    # All at once: what a call of torchvision's costs does not depend on how many boxes there are.
    flat_parts = case.parts if spec.rank == 2 else case.parts[:0, :4]  # those of volumes stay as they are
    together = [case.boxes, case.other_boxes, case.ignore, flat_parts]
    moved, visible = move_boxes(torch.cat(together), (height, width), new_size, window)
    counts = [len(boxes) for boxes in together]
    (boxes, other_boxes, ignore, parts), (seen, others_seen, ignore_seen, _) = (
        each.split(counts) for each in (moved, visible)
    )
    kept = seen >= MIN_VISIBLE
    moved_masks = None
    if masks is not None:
        moved_masks = move_masks(masks if kept.all() else masks[kept], new_size, window)
    return Sample(
        case, pixels, boxes[kept], other_boxes[others_seen >= MIN_VISIBLE], moved_masks, masks,
        (height, width), (scale_x, scale_y, -float(left), -float(top)), ignore[ignore_seen > 0],
        parts if spec.rank == 2 else case.parts, int((~kept).sum()), scaled,
    )  # fmt: skip


def input_pixels(
    image: Tensor, new_size: tuple[int, int], window: tuple[int, int, int, int], spec: InputSpec
) -> Tensor:
    """Resize a picture (3, H, W), uint8, cut the window out, and normalize it; what lies outside is 0, the mean."""
    (height, width), (top, left, size, _) = new_size, window
    y0, x0, rows, columns = max(top, 0), max(left, 0), min(size, height), min(size, width)
    if height * width <= STRIP * size**2:
        resized = F.resize(image, list(new_size), InterpolationMode(spec.interpolation), antialias=True)
        small = F.crop(resized, y0, x0, rows, columns)
    else:
        # A long strip would grow to gigabytes; Pillow computes the window alone, and differs by one level in 255.
        down, across = image.shape[1] / height, image.shape[2] / width
        ends = min((x0 + columns) * across, image.shape[2]), min((y0 + rows) * down, image.shape[1])
        whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        kind = Image.Resampling[spec.interpolation.upper()]
        small = torch.from_numpy(np.array(whole.resize((columns, rows), kind, (x0 * across, y0 * down, *ends))))
        small = small.permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(-1, *[1] * spec.rank) for values in (spec.mean, spec.std))
    # Cut before the pixels become float32, of four times the size.
    return F.crop((F.to_dtype(small, torch.float32, scale=True) - mean) / std, min(top, 0), min(left, 0), size, size)


def move_masks(masks: Tensor, new_size: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """Masks (M, H, W), bool, in input pixels: each takes the original pixel that its centre lies in (NEAREST_EXACT).

    Torch's plain "nearest" takes the pixel of its corner, which shifts masks by up to half a pixel.
    """
    top, left, height, width = window
    rows, inside_rows = nearest(masks.shape[1], new_size[0], top, height)
    columns, inside_columns = nearest(masks.shape[2], new_size[1], left, width)
    # Masks lie side by side in memory, pixel by pixel, as pycocotools decodes them.
    taken = masks.permute(1, 2, 0).index_select(0, rows).index_select(1, columns).permute(2, 0, 1)
    return taken & inside_rows[:, None] & inside_columns


def nearest(old: int, new: int, first: int, number: int) -> tuple[Tensor, Tensor]:
    """Which of `old` pixels the centres of `number` out of `new` pixels lie in, and whether they lie in the picture.

    In whole numbers, since a centre may fall on the border of two pixels.
    """
    places = torch.arange(first, first + number)
    return ((2 * places + 1) * old // (2 * new)).clamp(0, old - 1), (places >= 0) & (places < new)


def move_boxes(
    boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int], window: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Boxes in input pixels, clipped, and the share of each that is inside (0 to 1)."""
    if not len(boxes):
        return boxes.new_zeros((0, 4)), torch.zeros(0)
    whole = F.resize(tv_tensors.BoundingBoxes(boxes.float(), format="XYXY", canvas_size=size), list(new_size))
    inside = F.crop(whole, *window).as_subclass(Tensor)
    whole = whole.as_subclass(Tensor)
    area = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    left_over = (inside[:, 2] - inside[:, 0]).clamp(min=0) * (inside[:, 3] - inside[:, 1]).clamp(min=0)
    return inside, left_over / area


def scaled_batch(batch: Batch, samples: Sequence[Sample], scale: float) -> Batch:
    """Return the batch with the images of a scale, and what was planted in them; the rest is in plain input pixels."""
    images = torch.stack([sample.scaled[scale].to(batch.images.device, non_blocking=True) for sample in samples])
    return replace(batch, images=images, parts=[parts * scale for parts in batch.parts])


def collate(samples: Sequence[Sample], spec: InputSpec, device: torch.device) -> Batch:
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
    )
