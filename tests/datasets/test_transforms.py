"""Geometry: boxes, masks and pixels move together, and back."""

from __future__ import annotations

import resource
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.datasets import transforms
from bench.datasets.arrays.windows import Window, move_masks, placement
from bench.datasets.transforms import GEOMETRIES, collate, prepare
from bench.types import Case, InputSpec

SPEC = InputSpec(224, 256, (0.0,) * 3, (1.0,) * 3)


def scene(height: int, width: int, boxes: list[list[int]]) -> Case:
    """Black picture with white boxes; the masks are the boxes."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    image = (masks.any(0) * 255).to(torch.uint8).expand(3, -1, -1)
    tensor = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    flags = torch.zeros(len(boxes), dtype=torch.bool)
    return Case("a", "a", "x", (0,), lambda: (image, masks), tensor, torch.zeros(0, 4), flags)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (224, 224), (100, 640), (37, 41)])
def test_boxes_land_on_the_object_and_return(geometry: str, size: tuple[int, int]) -> None:
    height, width = size
    box = [width // 2 - width // 10, height // 2 - height // 8, width // 2 + width // 9, height // 2 + height // 7]
    sample = prepare(scene(height, width, [box]), SPEC, geometry)
    assert sample.image.shape == (3, 224, 224)
    x0, y0, x1, y1 = sample.boxes[0].tolist()
    sx, sy, tx, ty = sample.to_input
    back = [(x0 - tx) / sx, (y0 - ty) / sy, (x1 - tx) / sx, (y1 - ty) / sy]
    clipped = [0.0 < x0, 0.0 < y0, x1 < 224, y1 < 224]
    for value, original, inside in zip(back, box, clipped, strict=True):
        assert not inside or abs(value - original) < 0.5
    bright = (sample.image[0] > 0.5).nonzero()
    tolerance = 0.5 + max(sx, sy)
    assert abs(bright[:, 1].min() - x0) <= tolerance and abs(bright[:, 1].max() + 1 - x1) <= tolerance
    assert abs(bright[:, 0].min() - y0) <= tolerance and abs(bright[:, 0].max() + 1 - y1) <= tolerance
    assert sample.masks is not None
    mask = sample.masks[0].nonzero()
    assert abs(mask[:, 1].min() - x0) <= tolerance and abs(mask[:, 0].max() + 1 - y1) <= tolerance


def test_stretch_keeps_everything_and_pad_keeps_the_aspect() -> None:
    case = scene(100, 200, [[0, 0, 200, 100]])
    assert prepare(case, SPEC, "stretch").boxes.tolist() == [[0, 0, 224, 224]]
    assert prepare(case, SPEC, "pad").boxes.tolist() == [[0, 56, 224, 168]]


def test_a_box_cropped_to_under_a_fifth_is_dropped() -> None:
    case = scene(256, 512, [[0, 0, 140, 256], [0, 0, 190, 256], [200, 50, 300, 150]])
    sample = prepare(case, SPEC, "center_crop")  # the window is x 144 to 368
    assert len(sample.boxes) == 2
    assert sample.boxes[0].tolist() == [0, 0, 46, 224]
    assert sample.masks is not None and len(sample.masks) == 2
    assert sample.dropped == 1 and prepare(case, SPEC, "stretch").dropped == 0


def test_what_is_dropped_is_counted_for_the_class_only() -> None:
    case = scene(256, 512, [[0, 0, 140, 256], [200, 50, 300, 150]])
    away = torch.tensor([[0.0, 0, 100, 256], [150, 0, 160, 20]])
    sample = prepare(replace(case, other_boxes=away, ignore=away), SPEC, "center_crop")
    assert (len(sample.boxes), sample.dropped) == (1, 1)
    assert sample.other_boxes.tolist() == sample.ignore.tolist() == [[6, 0, 16, 4]]
    # of a crowd the least piece counts
    crowd = replace(case, ignore=torch.tensor([[0.0, 0, 145, 256]]))
    assert prepare(crowd, SPEC, "center_crop").ignore.tolist() == [[0, 0, 1, 224]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    """A box mapped to the input and back is itself, up to half a pixel, wherever nothing of it is cut away."""
    height, width = data.draw(st.integers(20, 700)), data.draw(st.integers(20, 700))
    edge = st.floats(0, 1, width=32)
    x, y = sorted((data.draw(edge), data.draw(edge))), sorted((data.draw(edge), data.draw(edge)))
    box = [x[0] * width, y[0] * height, x[1] * width, y[1] * height]
    spec = InputSpec(data.draw(st.sampled_from([64, 224])), 256, (0.0,) * 3, (1.0,) * 3)
    case = Case(
        "a", "a", "x", (0,), lambda: (torch.zeros(3, height, width, dtype=torch.uint8), None),
        torch.tensor([box]), torch.zeros(0, 4), torch.zeros(1, dtype=torch.bool),
    )  # fmt: skip
    for geometry in GEOMETRIES:
        sample = prepare(case, spec, geometry)
        assert len(sample.boxes) + sample.dropped == 1
        sx, sy, tx, ty = sample.to_input
        there = [sx * box[0] + tx, sy * box[1] + ty, sx * box[2] + tx, sy * box[3] + ty]
        clipped = [min(max(value, 0.0), spec.sides[0]) for value in there]
        for got in sample.boxes.tolist():
            back = [(got[0] - tx) / sx, (got[1] - ty) / sy, (got[2] - tx) / sx, (got[3] - ty) / sy]
            # half a pixel of the original or of the input, whichever is larger, for what was not cut
            assert all(abs(a - b) < 0.5 for a, b, c, t in zip(back, box, clipped, there, strict=True) if c == t)
            assert all(abs(a - c) < 0.01 for a, c in zip(got, clipped, strict=True))
        if geometry != "center_crop" and x[1] - x[0] > 0.01 and y[1] - y[0] > 0.01:
            assert sample.dropped == 0 and all(abs(c - t) < 1e-3 for c, t in zip(clipped, there, strict=True))


def test_normalization_and_black() -> None:
    spec = InputSpec(8, 8, (0.5, 0.25, 0.1), (0.5, 0.5, 0.2))
    case = scene(8, 8, [[0, 0, 4, 8]])
    sample = prepare(case, spec, "stretch")
    torch.testing.assert_close(sample.image[:, 0, 0], torch.tensor([1.0, 1.5, 4.5]))
    batch = collate([sample], spec, torch.device("cpu"))
    torch.testing.assert_close(batch.black, sample.image[:, 0, 7])


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(30, 50), (41, 37), (9, 64), (300, 451)])
def test_masks_take_the_pixel_that_their_centre_lies_in(geometry: str, size: tuple[int, int]) -> None:
    """Against a loop over pixels, in exact fractions; nothing lies outside the picture."""
    from fractions import Fraction

    height, width = size
    masks = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0)) < 0.4
    spec = replace(SPEC, size=24, resize=28)
    window = placement((height, width), spec, geometry)
    resized, (top, left) = window.new, window.corner
    moved = move_masks(masks, window)
    for row in range(24):
        for column in range(24):
            y = Fraction(2 * (row + top) + 1, 2) * height / resized[0]
            x = Fraction(2 * (column + left) + 1, 2) * width / resized[1]
            inside = 0 <= y < height and 0 <= x < width
            expected = masks[:, int(y), int(x)] if inside else torch.zeros(2, dtype=torch.bool)
            assert torch.equal(moved[:, row, column], expected), (row, column)


def test_masks_are_torchs_nearest_exact_and_not_its_nearest() -> None:
    masks = torch.rand(3, 300, 451, generator=torch.Generator().manual_seed(0)) < 0.4
    moved = move_masks(masks, Window((300, 451), (224, 224), (0, 0), (224, 224)))
    by_torch = {
        mode: torch.nn.functional.interpolate(masks[None].float(), (224, 224), mode=mode)[0] > 0.5
        for mode in ("nearest-exact", "nearest")
    }
    assert torch.equal(moved, by_torch["nearest-exact"]) and not torch.equal(moved, by_torch["nearest"])


def test_a_mask_keeps_its_centre() -> None:
    """Of a square with soft edges nothing moves: torch's nearest moves it half a pixel to the lower right."""
    case = scene(100, 100, [[20, 20, 80, 80]])
    sample = prepare(case, replace(SPEC, size=32, resize=32), "stretch")
    assert sample.masks is not None
    rows, columns = sample.masks[0].nonzero().double().add(0.5).mean(0).tolist()
    assert rows == pytest.approx(16) and columns == pytest.approx(16)


@pytest.mark.parametrize("resize", [16, 32, 48])
def test_center_crop_never_pads(resize: int) -> None:
    """Also where ``model.size`` is above ``resize``."""
    spec = replace(SPEC, size=32, resize=resize)
    for height, width in ((20, 30), (33, 31), (32, 32), (100, 40)):
        pixels = torch.full((3, height, width), 200, dtype=torch.uint8)
        case = Case("a", "a", "", (), lambda pixels=pixels: (pixels, None))
        assert (prepare(case, spec, "center_crop").image > 0.5).all()
    assert placement((60, 80), replace(SPEC, size=224, resize=256), "center_crop").new == (256, 341)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(3, 400), (500, 7), (4, 4)])
def test_a_strip_is_cut_before_it_grows(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], interpolation: str
) -> None:
    """Pillow's window of the resized picture is torchvision's, up to one level of 255."""
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    case = Case("a", "a", "", (), lambda: (pixels, None))
    spec = InputSpec(24, 32, (0.5,) * 3, (0.25,) * 3, interpolation)
    whole = prepare(case, spec, "center_crop").image
    monkeypatch.setattr(transforms, "STRIP", 0)
    monkeypatch.setattr(transforms.F, "resize", None)  # must not be called
    cut = transforms.input_pixels(pixels, placement(size, spec, "center_crop"), spec)
    assert (whole - cut).abs().max() <= 1.01 / 255 / 0.25


@pytest.mark.parametrize("size", [(2, 10_000), (10_000, 2), (1, 60_000)])
def test_a_strip_takes_little_memory(size: tuple[int, int]) -> None:
    """It would be resized to 256 x 1,280,000 pixels: 8 GB in float32."""
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    masks = torch.ones(2, *size, dtype=torch.bool)
    box = torch.tensor([[0.0, 0, size[1], size[0]]] * 2)
    case = Case("a", "a", "", (), lambda: (pixels, masks), box, difficult=torch.zeros(2, dtype=torch.bool))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sample = prepare(case, SPEC, "center_crop")
    assert sample.image.shape == (3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_what_lies_outside_a_padded_picture_is_the_mean_colour() -> None:
    pixels = torch.full((3, 10, 40), 255, dtype=torch.uint8)
    image = prepare(
        Case("a", "a", "", (), lambda: (pixels, None)), InputSpec(8, 8, (0.5,) * 3, (0.5,) * 3), "pad"
    ).image
    assert image[0, :, 4].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
