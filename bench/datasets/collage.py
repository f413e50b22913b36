"""The embedded data set: scenes with several instances of one class, exact boxes and masks.

Objects cut from the photographs in scikit-image's wheel are pasted on its textures and photographs.
Nothing is downloaded, and every scene follows from its number and the seed alone.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from torch import Tensor

from bench.datasets.cutouts import BACKGROUNDS, background, cutout
from bench.datasets.files import need_number
from bench.datasets.records import box_tensor
from bench.types import Case

SIZE = 224

# Class -> the ImageNet classes that mean it.
CLASSES = {
    "cat": (281, 282, 285),  # tabby, tiger cat, Egyptian cat
    "cup": (504, 967, 968),  # coffee mug, espresso, cup
    "space shuttle": (812,),
}
# What is pasted as "another class", with the moped, which networks recognize only when it is large.
_OTHERS = {"cat": "cat", "cup": "cup", "space shuttle": "shuttle", "moped": "moped"}

# Instances per scene: every class goes through the four counts in turn, so that scenes 0 to 11, 12 to 23, ...
# each hold every class with every count once, and 3 of 4 scenes have several instances.
_COUNTS = (2, 3, 1, 4)

# Range of sqrt(box area) in pixels by number of instances, and of an object of another class.
_SIZES = {1: (76, 116), 2: (70, 104), 3: (64, 90), 4: (60, 84)}
_OTHER_SIZES = (36, 60)
_MOST_OTHERS = 8
# Beta(a, a) of a position between the two sides. Placed evenly (a = 1), boxes would cover the centre in half
# of the scenes; with 0.5 about as often as an average pixel, so that always pointing there wins nothing.
_SIDEWAYS = 0.5
_GAP = 3  # pixels between two boxes, so that nothing hides anything


class _Pasted(NamedTuple):
    """One object in a scene: class, RGBA pixels (h, w, 4), left and top of these in the scene."""

    name: str
    pixels: np.ndarray
    left: int
    top: int

    def mask(self) -> np.ndarray:
        """Where the object covers more than half of a pixel, (SIZE, SIZE) bool."""
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        height, width = self.pixels.shape[:2]
        mask[self.top : self.top + height, self.left : self.left + width] = self.pixels[..., 3] >= 128
        return mask


def collage(*, scenes: int = 48, seed: int = 0, others: int = 2) -> list[Case]:
    """Make `scenes` scenes of 224 x 224 pixels with 1 to 4 instances of the asked class.

    Scene i is the same for every value of `scenes`. Classes take turns, and each class has as many
    scenes with one, two, three and four instances. No object hides another and none is cut off.

    Parameters
    ----------
    scenes : int
        Number of scenes, at least 1; one case per scene.
    seed : int
        Other seeds give other scenes of the same kind.
    others : int
        Each scene has 0 to `others` objects of other classes; at most 8, more would shrink everything.

    Returns
    -------
    list of Case
        Boxes are the tight boxes of the masks (pixels that the object covers by more than half).

    Raises
    ------
    UserError
        A parameter is no whole number or out of range.
    """
    need_number("scenes", scenes, 1, 1_000_000)
    need_number("seed", seed, 0, 2**63)
    need_number("others", others, 0, _MOST_OTHERS)
    return [_case(index, seed, others) for index in range(scenes)]


def _case(index: int, seed: int, others: int) -> Case:
    name, objects = _layout(index, seed, others)
    boxes = box_tensor(_box(one) for one in objects if one.name == name)
    image_id = f"collage-{seed}-{index:04d}"
    return Case(
        id=f"{image_id}/{name}",
        image_id=image_id,
        class_name=name,
        target=CLASSES[name],
        load=partial(_load, index, seed, others),
        boxes=boxes,
        other_boxes=box_tensor(_box(one) for one in objects if one.name != name),
        difficult=torch.zeros(len(boxes), dtype=torch.bool),
    )


def _load(index: int, seed: int, others: int) -> tuple[Tensor, Tensor]:
    name, objects = _layout(index, seed, others)
    image = _backdrop(_generator(index, seed, part=1))
    # All shadows lie under all objects: a shadow on a neighbour would look like a dent in it.
    for pasted in objects:
        image *= 1 - 0.45 * _shadow(pasted)[..., None]
    for pasted in objects:
        height, width = pasted.pixels.shape[:2]
        window = image[pasted.top : pasted.top + height, pasted.left : pasted.left + width]
        alpha = pasted.pixels[..., 3:] / 255.0
        window += alpha * (pasted.pixels[..., :3] - window)
    pixels = torch.from_numpy(np.round(image).clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()
    return pixels, torch.from_numpy(np.stack([pasted.mask() for pasted in objects if pasted.name == name]))


def _generator(index: int, seed: int, part: int) -> np.random.Generator:
    # Layout and backdrop draw from streams of their own: a change of one leaves the other as it is.
    return np.random.default_rng([seed, index, part])


def _layout(index: int, seed: int, others: int) -> tuple[str, list[_Pasted]]:
    """Choose and place the objects of a scene; returns the asked class and the objects."""
    generator = _generator(index, seed, part=0)
    names = list(CLASSES)
    name = names[index % len(names)]
    count = _COUNTS[(index // len(names) + index % len(names)) % len(_COUNTS)]
    wanted = [(name, _cutout_of(name, count, generator), generator.uniform(*_SIZES[count])) for _ in range(count)]
    rest = [other for other in _OTHERS if other != name]
    for _ in range(generator.integers(others + 1)):
        other = rest[generator.integers(len(rest))]
        wanted.append((other, _OTHERS[other], generator.uniform(*_OTHER_SIZES)))
    shrink = 1.0
    while True:
        placed = _place([(n, kind, shrink * size) for n, kind, size in wanted], generator)
        if placed is not None:
            return name, placed
        shrink *= 0.95


def _cutout_of(name: str, count: int, generator: np.random.Generator) -> str:
    saucer = generator.random() < 0.5
    # The saucer doubles a cup's area: only where few instances leave the room.
    return "cup_saucer" if name == "cup" and saucer and count <= 2 else _OTHERS[name]


def _place(wanted: list[tuple[str, str, float]], generator: np.random.Generator) -> list[_Pasted] | None:
    """Put the objects at random positions without overlap; None where they do not fit."""
    taken = np.zeros((SIZE, SIZE), dtype=bool)
    placed = []
    for name, kind, size in sorted(wanted, key=lambda one: -one[2]):
        pixels = _variant(kind, size, generator)
        height, width = pixels.shape[:2]
        if max(height, width) > SIZE - 2:
            return None
        for _ in range(40):
            left = 1 + int(generator.beta(_SIDEWAYS, _SIDEWAYS) * (SIZE - 1 - width))
            top = 1 + int(generator.beta(_SIDEWAYS, _SIDEWAYS) * (SIZE - 1 - height))
            around = np.s_[max(0, top - _GAP) : top + height + _GAP, max(0, left - _GAP) : left + width + _GAP]
            if not taken[around].any():
                taken[top : top + height, left : left + width] = True
                placed.append(_Pasted(name, pixels, left, top))
                break
        else:
            return None
    return placed


def _variant(kind: str, size: float, generator: np.random.Generator) -> np.ndarray:
    """Scale, mirror, turn and light one cut-out; RGBA uint8 (h, w, 4), cropped to its mask's box."""
    image = cutout(kind)
    scale = size / (image.width * image.height) ** 0.5
    image = _scaled(image, round(scale * image.width), round(scale * image.height))
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(generator.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
    pixels = np.array(image)
    light = generator.uniform(0.85, 1.15) * generator.uniform(0.96, 1.04, 3)  # brightness times a colour cast
    pixels[..., :3] = np.clip(np.round(pixels[..., :3] * light), 0, 255)
    rows, columns = np.nonzero(pixels[..., 3] >= 128)
    return pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _scaled(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize in two steps whose order is ours: Pillow's own depends on its version, and rounds differently."""
    tall = image.height > 2 * image.width and height < image.height  # as Pillow 13 has it
    steps = [(image.width, height) if tall else (width, image.height), (width, height)]
    image = image.convert("RGBa")  # colours times opacity, as Pillow resizes RGBA
    for step in steps:
        image = image.resize(step, Image.Resampling.LANCZOS)
    return image.convert("RGBA")


def _box(pasted: _Pasted) -> tuple[int, int, int, int]:
    # `_variant` crops to the mask, so that the pixels' frame is the tight box.
    height, width = pasted.pixels.shape[:2]
    return pasted.left, pasted.top, pasted.left + width, pasted.top + height


def _backdrop(generator: np.random.Generator) -> np.ndarray:
    """Draw a background, float (SIZE, SIZE, 3) in 0..255."""
    surface = background(BACKGROUNDS[generator.integers(len(BACKGROUNDS))], int(generator.integers(2)))
    side = int(generator.integers(200, 289))
    left, top = (int(generator.integers(length - side + 1)) for length in surface.size)
    part = surface.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    # Out of focus, like the ground behind a photographed object.
    part = part.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 1.5)))
    if generator.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Light that falls off towards a random side.
    angle = generator.uniform(0, 2 * np.pi)
    ramp = np.linspace(-1, 1, SIZE)
    light = 1 + 0.15 * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
    return np.asarray(part, dtype=np.float64) * (generator.uniform(0.85, 1.05) * light)[..., None]


def _shadow(pasted: _Pasted) -> np.ndarray:
    """Soft shadow below the object, (SIZE, SIZE) in 0..1."""
    drop = max(2, round(0.05 * max(pasted.pixels.shape)))
    shifted = ndimage.shift(pasted.mask().astype(np.float32), (drop, drop / 2), order=0)
    return ndimage.gaussian_filter(shifted, drop)
