"""From original pixels to network input, for image, boxes and masks together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.types import Batch, Case, InputSpec

GEOMETRIES = ("stretch", "center_crop", "pad")
MIN_VISIBLE = 0.2


@dataclass(frozen=True, eq=False)
class Sample:
    """One case, decoded and transformed; fields as in `Batch`."""

    case: Case
    image: Tensor
    boxes: Tensor
    other_boxes: Tensor
    masks: Tensor | None
    original_masks: Tensor | None
    difficult: Tensor
    size: tuple[int, int]
    to_input: tuple[float, float, float, float]
    ignore: Tensor
    parts: Tensor
    dropped: int = 0  # boxes of the class of which too little is left


def placement(height: int, width: int, spec: InputSpec, geometry: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size to resize to, and the (top, left) of the input window in it (negative where it is padded)."""
    size = spec.size
    if geometry == "stretch":
        return (size, size), (0, 0)
    # Rounded as torchvision's Resize and CenterCrop do, so that center_crop equals the weights' own transform.
    shortest, longest = min(height, width), max(height, width)
    wanted, known = (spec.resize, shortest) if geometry == "center_crop" else (size, longest)
    resized = (max(1, int(wanted * height / known)), max(1, int(wanted * width / known)))
    return resized, (round((resized[0] - size) / 2), round((resized[1] - size) / 2))


def prepare(case: Case, spec: InputSpec, geometry: str, pixels: Tensor | None = None) -> Sample:
    """Decode a case's picture and bring it, its boxes and its masks to the network's input.

    Parameters
    ----------
    case : Case
    spec : InputSpec
    geometry : {"stretch", "center_crop", "pad"}
        stretch cuts nothing away and ignores the aspect ratio; center_crop is the classifier's own
        transform; pad keeps both, with the mean colour around.
    pixels : Tensor, optional
        The ``image`` of another case of the same picture, which then need not be made again.

    Returns
    -------
    Sample
        Boxes are clipped to the input; one of which under 20 % is left is dropped.

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
    new_size, window = [new_height, new_width], (top, left, spec.size, spec.size)
    if pixels is None:
        small = F.resize(image, new_size, InterpolationMode(spec.interpolation), antialias=True)
        mean, std = (torch.tensor(values).view(-1, *[1] * spec.rank) for values in (spec.mean, spec.std))
        pixels = F.crop((F.to_dtype(small, torch.float32, scale=True) - mean) / std, *window)

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
        # As bytes: torchvision resizes bool through float32.
        chosen = tv_tensors.Mask((masks if kept.all() else masks[kept]).view(torch.uint8))
        moved_masks = F.crop(F.resize(chosen, new_size), *window).as_subclass(Tensor).view(torch.bool)
    return Sample(
        case, pixels, boxes[kept], other_boxes[others_seen >= MIN_VISIBLE], moved_masks, masks, case.difficult[kept],
        (height, width), (scale_x, scale_y, -float(left), -float(top)), ignore[ignore_seen > 0],
        parts if spec.rank == 2 else case.parts,
        int((~kept).sum()),
    )  # fmt: skip


def move_boxes(
    boxes: Tensor, size: tuple[int, int], new_size: Sequence[int], window: Sequence[int]
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
        difficult=[sample.difficult.to(device) for sample in samples],
        sizes=[sample.size for sample in samples],
        to_input=[sample.to_input for sample in samples],
        black=(-mean / std).to(device),
        ignore=[sample.ignore.to(device) for sample in samples],
        distractors=[len(case.other_boxes) > int(case.other_difficult.sum()) for case in cases],
        parts=[sample.parts.to(device) for sample in samples],
        values=[case.values.to(device) for case in cases],
    )
