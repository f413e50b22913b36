"""Objects and backgrounds for `collage`, cut from the photographs in scikit-image's wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask

from bench.datasets.images import read_image

# Outlines in pixels of the photograph, (x, y), drawn by hand; the blur in `cutout` rounds them.
_CAT = (
    [(40, 0), (60, 0), (84, 0), (110, 5), (160, 8), (210, 9), (260, 8), (300, 5), (322, 0)]
    + [(360, 0), (400, 0), (381, 30), (374, 54), (360, 71), (357, 84), (363, 115), (364, 130), (358, 158)]
    + [(342, 192), (322, 214), (317, 232), (307, 260), (287, 279), (255, 288), (214, 294), (172, 284), (127, 264)]
    + [(84, 232), (54, 189), (38, 148), (32, 110), (32, 84), (35, 40)]
)
_SAUCER = (
    [(76, 215), (79, 185), (86, 160), (100, 134), (120, 111), (145, 91), (165, 78), (179, 70), (350, 80)]
    + [(398, 80), (400, 71), (406, 67), (413, 66), (421, 69), (424, 76), (419, 103), (435, 120), (452, 145)]
    + [(465, 167), (474, 190), (479, 215), (478, 240), (472, 267), (460, 295), (442, 319), (420, 340), (395, 357)]
    + [(365, 372), (330, 384), (300, 389), (275, 389), (245, 385), (215, 378), (185, 367), (155, 351), (132, 335)]
    + [(112, 314), (95, 287), (84, 260), (78, 235)]
)
_CUP = (
    [(173, 105), (177, 82), (190, 58), (212, 38), (244, 23), (285, 18), (325, 23), (360, 38), (385, 58)]
    + [(402, 84), (408, 112), (404, 135), (398, 165), (385, 198), (372, 230), (358, 252), (340, 268), (318, 279)]
    + [(300, 284), (270, 281), (256, 279), (240, 296), (228, 305), (214, 305), (202, 298), (197, 285), (198, 270)]
    + [(206, 250), (216, 234), (203, 222), (188, 195), (178, 160)]
)


DATA = Path(skimage.__file__).parent / "data"


_SHUTTLE = (
    [(406, 0), (424, 0), (430, 8), (435, 20), (437, 34), (438, 53), (442, 42), (444, 40), (448, 47)]
    + [(453, 58), (454, 70), (454, 180), (454, 207), (456, 222), (456, 233), (456, 242), (458, 254), (437, 254)]
    + [(406, 254), (390, 253), (369, 259), (378, 243), (380, 234), (356, 226), (355, 213), (364, 200), (378, 183)]
    + [(379, 140), (379, 112), (382, 96), (380, 64), (383, 52), (388, 43), (392, 51), (396, 62), (397, 40)]
    + [(399, 24), (402, 10)]
)
# Cut-out -> photograph, softness of the edge (sigma of a Gaussian in pixels), outlines that it unites.
_OUTLINES = {
    "cat": ("chelsea.png", 3.0, [_CAT]),
    "cup": ("coffee.png", 2.0, [_CUP]),
    "cup_saucer": ("coffee.png", 2.0, [_SAUCER, _CUP]),
    "shuttle": ("astronaut.png", 1.2, [_SHUTTLE]),
}
# Grey textures get two tones, (dark RGB, light RGB); the others are coloured parts of photographs:
# (file, box of the part as left, top, right, bottom).
_TONES = {
    "brick": ("brick.png", [((66, 34, 26), (226, 178, 146)), ((60, 52, 46), (236, 224, 200))]),
    "grass": ("grass.png", [((18, 34, 8), (196, 214, 126)), ((52, 44, 14), (228, 212, 140))]),
    "gravel": ("gravel.png", [((44, 40, 36), (232, 222, 204)), ((58, 42, 28), (236, 206, 164))]),
    "plaster": ("moon.png", [((70, 90, 110), (226, 236, 240)), ((120, 90, 60), (250, 236, 206))]),
}
_PARTS = {
    "wood": ("coffee.png", (486, 20, 600, 400)),
    "concrete": ("motorcycle_left.png", (0, 330, 105, 500)),
    "garage": ("motorcycle_left.png", (0, 0, 330, 110)),
    "shelf": ("motorcycle_left.png", (585, 0, 741, 255)),
    "sky": ("rocket.jpg", (96, 0, 545, 118)),
    "towers": ("rocket.jpg", (0, 120, 300, 427)),
    "stars": ("hubble_deep_field.jpg", (0, 0, 1000, 872)),
    "blur": ("chelsea.png", (374, 72, 451, 300)),
}
BACKGROUNDS = (*_TONES, *_PARTS)


def photograph(name: str) -> np.ndarray:
    """Return a photograph of scikit-image's wheel, uint8 (H, W, 3). No download."""
    return read_image(DATA / name).permute(1, 2, 0).numpy()


@cache
def cutout(name: str) -> Image.Image:
    """Cut an object (cat, cup, cup_saucer, shuttle, moped) from its photograph: RGBA, cropped, alpha soft at its edge.

    Shared between callers: never draw on it.
    """
    if name == "moped":
        picture, softness, mask = photograph("motorcycle_left.png"), 0.7, _moped()
    else:
        file, softness, outlines = _OUTLINES[name]
        picture = photograph(file)
        masks = [polygon2mask(picture.shape[:2], np.array(outline)[:, ::-1]) for outline in outlines]
        mask = np.logical_or.reduce(masks)
    # The edge of the blurred mask, moved inwards a little, so that no rim of the old background stays.
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), softness, mode="constant")
    alpha = np.clip(2 * blurred - 0.6, 0, 1)
    pixels = np.dstack([picture, np.round(255 * alpha).astype(np.uint8)])
    return Image.fromarray(pixels).crop(Image.fromarray(pixels[..., 3]).getbbox())


def _moped() -> np.ndarray:
    """Everything that stands nearer than the garage behind it and above the floor plane."""
    with np.load(DATA / "motorcycle_disp.npz") as file:
        disparity = file["arr_0"]
    disparity = np.where(np.isfinite(disparity), disparity, 0)
    rows, columns = np.mgrid[: disparity.shape[0], : disparity.shape[1]]
    # Disparity is linear on a plane; the floor is seen left and right of the moped and in front of it.
    floor = (disparity > 0) & (((rows > 330) & ((columns < 110) | (columns > 700))) | (rows > 455))
    terms = np.stack([columns, rows, np.ones_like(rows)], -1).astype(np.float64)
    plane = terms @ np.linalg.lstsq(terms[floor], disparity[floor], rcond=None)[0]
    near = disparity > np.maximum(plane + 1, 33)
    near[:88] = False  # a mirror on a stalk too thin for a small copy, which would raise the box by a fifth
    # Unmatched pixels (disparity 0) are speckle inside the moped: closed where they are small.
    near = ndimage.binary_closing(near, np.ones((3, 3)), iterations=2) & ((disparity == 0) | near)
    labels, _ = ndimage.label(near, np.ones((3, 3)))
    return labels == np.bincount(labels[near]).argmax()


@cache
def background(name: str, tone: int = 0) -> Image.Image:
    """Return one of `BACKGROUNDS` to paste on, RGB, at least 288 pixels high and wide; never draw on it, it is shared.

    `tone` 0 or 1 chooses a pair of tones for a grey texture; photographs have their own colours.
    """
    if name in _TONES:
        file, tones = _TONES[name]
        grey = photograph(file)[..., :1] / 255.0
        low, high = np.percentile(grey, [1, 99])
        dark, light = np.array(tones[tone % len(tones)])
        pixels = dark + (light - dark) * np.clip((grey - low) / (high - low), 0, 1)
        return Image.fromarray(np.round(pixels).astype(np.uint8))
    file, (left, top, right, bottom) = _PARTS[name]
    part = Image.fromarray(photograph(file)[top:bottom, left:right])
    scale = 288 / min(part.size)
    return part.resize([round(scale * side) for side in part.size], Image.Resampling.BICUBIC)
