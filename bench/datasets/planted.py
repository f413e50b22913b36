"""Pictures of planted glyphs for the network set by hand, with what each glyph is worth to it.

The network (`bench.networks.planted`) says what a mechanism's pictures hold. Glyphs stand at seeded places of the grid
of tiles, on low-contrast noise. Their truth is asked of the network, not taken from the plan: its score of the picture
with every subset of the glyphs gives their exact Shapley values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from bench.datasets.files import check_names, need_number
from bench.datasets.records import box_tensor
from bench.types import Case, Dataset, Network, UserError

NOISE = 4.0  # standard deviation in grey levels
PASS = 32  # pictures scored at a time


@dataclass(frozen=True, eq=False)
class Scene:
    """How a picture is drawn.

    `noise` seeds the background, `shape` is that of the picture without colours; `stamps` are what each glyph adds to
    it, (3, *glyph) in 0 to 1, at `corners` (P, rank), rows first; `objects` (P,) are those that have a mask.
    """

    noise: tuple[int, ...]
    shape: tuple[int, ...]
    stamps: tuple[Tensor, ...]
    corners: tuple[tuple[int, ...], ...]
    objects: tuple[bool, ...]

    def draw(self) -> tuple[Tensor, Tensor]:
        """Background alone, and with all glyphs on it; uint8 (3, *shape)."""
        generator = np.random.default_rng(self.noise)
        cloud = ndimage.gaussian_filter(generator.standard_normal(self.shape, np.float32), 2)
        grain = generator.standard_normal((3, *self.shape), np.float32)
        values = 128 + NOISE * (0.8 * cloud / cloud.std() + 0.6 * grain).clip(-3, 3)
        whole = values.copy()
        for i, stamp in enumerate(self.stamps):
            whole[self.window(i)] += 255 * stamp.numpy()
        empty, whole = (torch.from_numpy(np.round(one).clip(0, 255).astype(np.uint8)) for one in (values, whole))
        return empty, whole

    def window(self, i: int) -> tuple[slice, ...]:
        """Where a glyph lies in the picture, all colours."""
        sides = self.stamps[i].shape[1:]
        return (slice(None), *(slice(at, at + side) for at, side in zip(self.corners[i], sides, strict=True)))

    def load(self) -> tuple[Tensor, Tensor]:
        """Whole picture, and one mask for each object."""
        masks = torch.zeros(sum(self.objects), *self.shape, dtype=torch.bool)
        for mask, i in zip(masks, [i for i, is_object in enumerate(self.objects) if is_object], strict=True):
            mask[self.window(i)[1:]] = True
        return self.draw()[1], masks


def planted(*, network: Network, mechanisms: Sequence[str] | None = None, pictures: int = 20, seed: int = 0) -> Dataset:
    """Plant glyphs for every mechanism of the network, and ask it what each is worth.

    Parameters
    ----------
    network : Network
        Of ``model=planted``; the runner passes it.
    mechanisms : sequence of str, optional
        Only pictures of these; all of the network's by default.
    pictures : int
        For each mechanism, one case a picture. A case's class is the mechanism, its boxes and masks are the glyphs
        that an annotator would call objects.
    seed : int

    Returns
    -------
    Dataset
        Cases with `parts` and `values`.

    Raises
    ------
    UserError
        A parameter out of range, a mechanism that the network does not have, or another network.
    """
    need_number("pictures", pictures, 1, 100_000)
    need_number("seed", seed, 0, 2**63)
    module: Any = network.module
    if not hasattr(module, "mechanisms"):
        raise UserError(f"dataset=planted is made for model=planted, whose evidence is known, not for {network.name}")
    check_names("mechanisms", mechanisms or (), module.mechanisms)
    cases = [
        _case(network, name, output, index, seed)
        for index in range(pictures)
        for output, name in enumerate(module.mechanisms)
        if mechanisms is None or name in mechanisms
    ]
    return Dataset(cases, outputs=len(module.mechanisms))


def _case(network: Network, name: str, output: int, index: int, seed: int) -> Case:
    scene = _scene(network.module, name, output, index, seed)
    corners = [tuple(reversed(corner)) for corner in scene.corners]  # x first
    sides = [tuple(reversed(stamp.shape[1:])) for stamp in scene.stamps]
    boxes = [
        (*at, *(a + side for a, side in zip(at, size, strict=True))) for at, size in zip(corners, sides, strict=True)
    ]
    objects = [box for box, is_object in zip(boxes, scene.objects, strict=True) if is_object]
    others = [box for box, is_object in zip(boxes, scene.objects, strict=True) if not is_object]
    image_id = f"planted-{seed}-{name}-{index:04d}"
    return Case(
        id=f"{image_id}/{name}",
        image_id=image_id,
        class_name=name,
        target=(output,),
        load=scene.load,
        boxes=box_tensor(objects, len(scene.shape)),
        other_boxes=box_tensor(others, len(scene.shape)),
        difficult=torch.zeros(len(objects), dtype=torch.bool),
        parts=torch.tensor(boxes, dtype=torch.float32),
        values=shapley(subset_scores(network, scene, output)).float(),
    )


def _scene(module: Any, name: str, output: int, index: int, seed: int) -> Scene:
    """Put a mechanism's glyphs at random slots of the grid, each moved at random within its slot."""
    generator = np.random.default_rng([seed, output, index, 0])
    pitch = module.cells // module.slots
    grid = np.stack(np.meshgrid(*[np.arange(module.slots)] * module.rank, indexing="ij"), -1).reshape(-1, module.rank)
    free = [tuple(slot) for slot in generator.permutation(grid).tolist()]
    stamps, corners, objects = [], [], []
    for kind, glyph in module.mechanisms[name].glyphs.items():
        for i, strength in enumerate(glyph.strengths):
            unseen = i >= len(glyph.strengths) - glyph.blind
            # A mechanism with a blind region has its other instances where the weights are.
            allowed = [slot for slot in free if not glyph.blind or (slot[0] * pitch >= module.blind_from) == unseen]
            free.remove(allowed[0])
            moved = 1 + generator.integers(0, pitch - 4, module.rank)
            corners.append(tuple(int(module.tile * (pitch * s + m)) for s, m in zip(allowed[0], moved, strict=True)))
            stamps.append(module.contrast(strength) * module.patterns[name, kind])
            objects.append(bool(glyph.object))
    return Scene((seed, output, index, 1), (module.size,) * module.rank, tuple(stamps), tuple(corners), tuple(objects))


def subset_scores(network: Network, scene: Scene, output: int) -> Tensor:
    """Ask the network for its score of an output, of the picture with every subset of its P glyphs: (2 ** P,), float64.

    Entry s has the glyphs whose bits are set in s.
    """
    count, spec = len(scene.stamps), network.spec
    device = next(network.module.parameters()).device
    mean, std = (torch.tensor(values).view(-1, *[1] * len(scene.shape)) for values in (spec.mean, spec.std))
    empty, whole = ((picture / 255 - mean) / std for picture in scene.draw())
    scores = []
    for subsets in torch.arange(2**count).split(PASS):
        pictures = empty.repeat(len(subsets), *[1] * empty.ndim)
        for picture, subset in zip(pictures, subsets.tolist(), strict=True):
            for i in range(count):
                if subset >> i & 1:
                    picture[scene.window(i)] = whole[scene.window(i)]
        with torch.inference_mode():
            scores.append(network.module(pictures.to(device))[:, output].double().cpu())
    return torch.cat(scores)


def shapley(scores: Tensor) -> Tensor:
    """Shapley value of each of P parts from the score of every subset, by the subset formula.

    phi_i = sum over subsets S without i of |S|! (P - |S| - 1)! / P! times (score(S and i) - score(S)).

    Parameters
    ----------
    scores : Tensor, shape (2 ** P,)
        Entry s is the score of the parts whose bits are set in s.

    Returns
    -------
    Tensor, shape (P,), float64
        They sum to score(all) - score(none).
    """
    count = len(scores).bit_length() - 1
    values = torch.zeros(count, dtype=torch.float64)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for size in range(count):
            for members in combinations(others, size):
                subset = sum(1 << j for j in members)
                gain = scores[subset | 1 << i] - scores[subset]
                values[i] += gain / (count * comb(count - 1, size))
    return values
