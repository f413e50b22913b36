"""Inputs of any sides and axes: no axis is taken for another, pictures and volumes alike."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from bench.datasets.arrays.windows import Window, linear, move_boxes, placement
from bench.datasets.transforms import GEOMETRIES, Sample, prepare
from bench.types import Case, InputSpec

FLAT = InputSpec((20, 33), 24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SOLID = InputSpec((10, 14, 19), 12, (0.5, 0.4), (0.2, 0.3))


def scene(spec: InputSpec, size: tuple[int, ...], seed: int = 0) -> Case:
    """Noise with two boxes and their masks."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(spec.channels, *size, generator=generator)
    boxes, masks = [], torch.zeros(2, *size, dtype=torch.bool)
    for mask in masks:
        low = [int(torch.randint(0, side // 2, (), generator=generator)) for side in size]
        high = [
            int(torch.randint(first + 1, side + 1, (), generator=generator))
            for first, side in zip(low, size, strict=True)
        ]
        mask[tuple(slice(first, end) for first, end in zip(low, high, strict=True))] = True
        boxes.append([*reversed(low), *reversed(high)])
    return Case(
        "a", "a", "", (), lambda: (image, masks), torch.tensor(boxes).float(), torch.zeros(0, 2 * spec.rank),
        torch.zeros(2, dtype=torch.bool), parts=torch.tensor(boxes).float(),
    )  # fmt: skip


def turned(case: Case, axes: tuple[int, ...]) -> Case:
    """The case with its spatial axes in another order."""
    order = [0, *(axis + 1 for axis in axes)]
    image, masks = case.load()
    assert masks is not None
    moved = image.permute(order), masks.permute(order)
    boxes = turned_boxes(case.boxes, axes)
    return replace(case, load=lambda: moved, boxes=boxes, parts=boxes)


def turned_boxes(boxes: Tensor, axes: tuple[int, ...]) -> Tensor:
    rank = len(axes)
    columns = [rank - 1 - axes[rank - 1 - column] for column in range(rank)]  # x is the last axis
    return boxes[:, [*columns, *(rank + column for column in columns)]]


def same(one: Sample, other: Sample, axes: tuple[int, ...]) -> None:
    """Whether `other` is `one` with its axes in this order."""
    order = [0, *(axis + 1 for axis in axes)]
    assert one.masks is not None and other.masks is not None
    torch.testing.assert_close(one.image.permute(order), other.image, rtol=0, atol=2e-5)
    assert torch.equal(one.masks.permute(order), other.masks)
    torch.testing.assert_close(turned_boxes(one.boxes, axes), other.boxes)
    torch.testing.assert_close(turned_boxes(one.parts, axes), other.parts)
    both = turned_boxes(torch.tensor([one.to_input], dtype=torch.float64), axes)[0].tolist()
    assert both == list(other.to_input) and tuple(one.size[axis] for axis in axes) == other.size


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.sampled_from(GEOMETRIES), st.tuples(*[st.integers(4, 60)] * 2))
@example(0, "pad", (41, 4))  # one pixel wide in the input, where torch differs from Pillow by 72 of 255 levels
def test_a_transposed_picture_gives_the_transposed_input(seed: int, geometry: str, size: tuple[int, int]) -> None:
    case = scene(FLAT, size, seed)
    across = replace(FLAT, size=FLAT.sides[::-1])
    same(prepare(case, FLAT, geometry), prepare(turned(case, (1, 0)), across, geometry), (1, 0))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("axes", [(2, 0, 1), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("size", [(7, 30, 16), (20, 9, 25)])
def test_a_turned_volume_gives_the_turned_input(geometry: str, axes: tuple[int, ...], size: tuple[int, ...]) -> None:
    case = scene(SOLID, size)
    spec = replace(SOLID, size=tuple(SOLID.sides[axis] for axis in axes))
    same(prepare(case, SOLID, geometry), prepare(turned(case, axes), spec, geometry), axes)


def mirrored_pair(image: Tensor, masks: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    return image.flip(axis), masks.flip(axis)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("spec", "size"), [(FLAT, (40, 50)), (SOLID, (16, 22, 30))])
def test_a_mirrored_image_gives_the_mirrored_input(geometry: str, spec: InputSpec, size: tuple[int, ...]) -> None:
    """Along every axis; sizes are such that a crop lies in the middle exactly."""
    case = scene(spec, size)
    image, masks = case.load()
    assert masks is not None
    plain = prepare(case, spec, geometry)
    for axis in range(1, spec.rank + 1):
        mirrored = prepare(replace(case, load=partial(mirrored_pair, image, masks, axis)), spec, geometry)
        window = placement(size, spec, geometry)
        if (window.new[axis - 1] - window.size[axis - 1]) % 2 == 0:
            torch.testing.assert_close(mirrored.image.flip(axis), plain.image, rtol=0, atol=2e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(300, 200), (192, 320), (50, 400), (320, 192)])
def test_320_x_192(geometry: str, size: tuple[int, int]) -> None:
    """stretch fills, pad shows all of the picture, center_crop fills without a stretch."""
    spec = InputSpec((320, 192), 200, (0.0,) * 3, (1.0,) * 3)
    window = placement(size, spec, geometry)
    assert all(new >= own for new, own in zip(window.new, window.size, strict=True)) or geometry == "pad"
    assert all(new <= own for new, own in zip(window.new, window.size, strict=True)) or geometry == "center_crop"
    if geometry != "stretch":
        assert abs(window.scales[0] / window.scales[1] - 1) < 0.02 * max(size) / min(size)
    if geometry == "center_crop":
        assert min(window.new) >= 200
    image = prepare(Case("a", "a", "", (), lambda: (torch.ones(3, *size), None)), spec, geometry).image
    assert image.shape == (3, 320, 192) and ((image > 0.999).all() or geometry == "pad")
    inside = torch.zeros(320, 192, dtype=torch.bool)
    inside[tuple(slice(max(0, -c), max(0, -c) + n) for c, n in zip(window.corner, window.new, strict=True))] = True
    assert torch.equal(image[0] > 0.999, inside)


def test_boxes_move_as_torchvision_moves_them() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(500, 4, generator=generator) * torch.tensor([300.0, 200, 300, 200])
    boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], 1)
    for geometry in GEOMETRIES:
        window = placement((200, 300), FLAT, geometry)
        whole = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(200, 300))
        by_torch = v2.functional.crop(v2.functional.resize(whole, list(window.new)), *window.corner, *window.size)
        assert torch.equal(move_boxes(boxes, window)[0], by_torch.as_subclass(torch.Tensor)), geometry


@pytest.mark.parametrize("size", [(7, 9, 40), (30, 31, 12)])
def test_volumes_are_resized_linearly(size: tuple[int, ...]) -> None:
    """SciPy's interpolation at the centres where no axis becomes smaller; else torch's antialias, in the plane."""
    volume = torch.rand(2, *size, generator=torch.Generator().manual_seed(1))
    larger = tuple(side + 5 * i + 1 for i, side in enumerate(size))
    values, inside = linear(volume, Window(size, larger, (0, 0, 0), larger))
    centres = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(size, larger, strict=True)]
    expected = ndimage.map_coordinates(volume[1].numpy(), np.meshgrid(*centres, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(values[1], expected, atol=1e-5)
    assert inside.all()
    flat, _ = linear(volume, Window(size, (size[0], 5, 6), (0, 0, 0), (size[0], 5, 6)))
    smaller = torch.nn.functional.interpolate(volume, (5, 6), mode="bilinear", antialias=True)
    torch.testing.assert_close(flat, smaller, rtol=0, atol=1e-5)
    untouched, _ = linear(volume, Window(size, size, (0, 0, 0), size))
    assert torch.equal(untouched, volume)


def test_an_input_of_one_number_is_square() -> None:
    """So are those that older results name; a number for every axis says how many there are."""
    assert InputSpec(8, 8, (0.5,), (0.5,)).sides == (8, 8)
    assert InputSpec(8, 8, [0.5] * 4, [0.5] * 4, rank=3).shape == (4, 8, 8, 8)  # type: ignore[arg-type]
    assert InputSpec([4, 5, 6], 8, (0.5,), (0.5,)).rank == 3  # type: ignore[arg-type]
