"""The window of a picture or volume that the network sees: pixels, masks and boxes resized and cut, along any axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from bench.types import InputSpec


@dataclass(frozen=True)
class Window:
    """Where the input lies in the resized picture: sizes and place along each axis, in pixels.

    `old` is the picture's size, `new` that after resizing; the window of `size` begins at `corner`, which is negative
    where a border is added.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    corner: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def scales(self) -> tuple[float, ...]:
        """Input pixels in an original one, along each axis."""
        return tuple(new / old for old, new in zip(self.old, self.new, strict=True))

    @property
    def to_input(self) -> tuple[float, ...]:
        """As in `Batch`, x first."""
        return (*reversed(self.scales), *(-float(first) for first in reversed(self.corner)))

    def larger(self, scale: float) -> Window:
        """Return the same window at a multiple of the input's size, rounded to whole pixels."""
        new = tuple(max(1, round(scale * side)) for side in self.new)
        corner, size = (tuple(round(scale * number) for number in one) for one in (self.corner, self.size))
        return Window(self.old, new, corner, size)


def placement(old: Sequence[int], spec: InputSpec, geometry: str) -> Window:
    """Place the input in a picture of this size.

    center_crop cuts and never pads: a picture becomes at least as large as the input, also where the network's size
    was raised above its ``resize``.
    """
    old, size = tuple(old), spec.sides
    if geometry == "stretch":
        return Window(old, size, (0,) * len(size), size)
    # Rounded as torchvision's Resize and CenterCrop do, so that center_crop equals the weights' own transform.
    fits = list(zip(size, old, strict=True))
    if geometry == "center_crop":
        wanted, known = max([*fits, (spec.resize, min(old))], key=lambda pair: Fraction(*pair))
    else:
        wanted, known = min(fits, key=lambda pair: Fraction(*pair))
    new = tuple(max(1, int(wanted * side / known)) for side in old)
    return Window(old, new, tuple(round((side - own) / 2) for side, own in zip(new, size, strict=True)), size)


def linear(values: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Resize an image (C, *spatial) linearly between centres and cut the window out; and which positions (*size) exist.

    Where there are fewer new positions than old ones these are averaged, as torchvision's ``antialias`` does.
    """
    exists = torch.ones(1, dtype=torch.bool)
    for axis, (old, new, first, number) in enumerate(
        zip(window.old, window.new, window.corner, window.size, strict=True)
    ):
        places, inside = torch.arange(first, first + number), torch.ones(number, dtype=torch.bool)
        if (old, first) != (new, 0) or number != old:
            inside = (places >= 0) & (places < new)
            scale = old / new
            centres = (places.double() + 0.5) * scale
            centres = centres.clamp(0.5, old - 0.5) if scale < 1 else centres
            distance = (torch.arange(old) + 0.5 - centres[:, None]).abs() / max(scale, 1.0)
            shares = (1 - distance).clamp(min=0)
            shares = (shares / shares.sum(1, keepdim=True).clamp(min=1e-12)).float()
            values = torch.tensordot(values, shares, dims=([axis + 1], [1])).movedim(-1, axis + 1)
        exists = exists[..., None] & inside
    return values.contiguous(), exists[0]


def move_masks(masks: Tensor, window: Window) -> Tensor:
    """Masks (M, *spatial), bool, in input pixels: each takes the original pixel its centre lies in (NEAREST_EXACT).

    Torch's plain "nearest" takes the pixel of its corner, which shifts masks by up to half a pixel.
    """
    # Masks lie side by side in memory, pixel by pixel, as pycocotools decodes them.
    taken, exists = masks.movedim(0, -1), torch.ones(1, dtype=torch.bool)
    for axis, sides in enumerate(zip(window.old, window.new, window.corner, window.size, strict=True)):
        places, inside = nearest(*sides)
        taken, exists = taken.index_select(axis, places), exists[..., None] & inside
    return taken.movedim(-1, 0) & exists


def nearest(old: int, new: int, first: int, number: int) -> tuple[Tensor, Tensor]:
    """Which of `old` pixels the centres of `number` out of `new` pixels lie in, and whether they lie in the picture.

    In whole numbers, since a centre may fall on the border of two pixels.
    """
    places = torch.arange(first, first + number)
    return ((2 * places + 1) * old // (2 * new)).clamp(0, old - 1), (places >= 0) & (places < new)


def move_boxes(boxes: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Boxes (M, 2 * rank) in input pixels, clipped, and the share of each that is inside (0 to 1)."""
    rank = len(window.size)
    scales, shifts = (torch.tensor(half * 2) for half in (window.to_input[:rank], window.to_input[rank:]))
    whole = boxes.float() * scales + shifts
    inside = whole.clamp(min=0).minimum(torch.tensor(window.size[::-1] * 2))
    area, left_over = ((each[:, rank:] - each[:, :rank]).clamp(min=0).prod(1) for each in (whole, inside))
    return inside, left_over / area
