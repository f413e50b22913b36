"""The pixels of boxes, against loops over pixels."""

import numpy as np
import torch

from metrics import geometry


def pixels(box, height, width):
    """The definition, pixel by pixel: centres in the half-open box; a thin side gets the pixel of its middle."""
    x0, y0, x1, y1 = box

    def side(low, high):
        inside = [i for i in range(-50, 50) if low <= i + 0.5 < high]
        return inside or [int(np.floor((low + high) / 2))]

    mask = np.zeros((height, width), bool)
    for y in side(y0, y1):
        for x in side(x0, x1):
            if 0 <= y < height and 0 <= x < width:
                mask[y, x] = True
    return mask


def test_box_masks_equal_the_definition():
    random = np.random.default_rng(0)
    corner = random.uniform(-4, 12, (300, 2))
    boxes = np.concatenate([corner, corner + random.exponential(3, (300, 2))], 1)
    boxes[:150] = np.round(boxes[:150] * 2) / 2  # corners exactly on pixel borders and centres
    boxes[:20, 2:] = boxes[:20, :2]  # empty boxes
    boxes = boxes.astype(np.float32)
    masks = geometry.box_masks(torch.from_numpy(boxes), (7, 10)).numpy()
    for box, mask in zip(boxes, masks, strict=True):
        assert (mask == pixels(box, 7, 10)).all(), box


def test_whole_number_boxes_are_slices():
    mask = geometry.box_masks(torch.tensor([[2.0, 1.0, 5.0, 3.0]]), (6, 9))[0]
    expected = torch.zeros(6, 9, dtype=torch.bool)
    expected[1:3, 2:5] = True
    assert torch.equal(mask, expected)
    assert geometry.pixel_ranges(torch.tensor([[2, 1, 5, 3]])).tolist() == [[2, 1, 4, 2]]


def test_box_outside_the_image_and_no_boxes():
    assert not geometry.box_masks(torch.tensor([[20.0, 1.0, 25.0, 3.0]]), (6, 9)).any()
    heatmap = torch.zeros(6, 9)
    assert geometry.instance_masks(torch.tensor([[20.0, 1, 25, 3], [0, 0, 1, 1]]), heatmap).sum() == 1
    assert geometry.instance_masks(torch.zeros(0, 4), heatmap).shape == (0, 6, 9)


def test_union_area_counts_pixels_once():
    random = np.random.default_rng(0)
    for n in (0, 1, 2, 5, 9):
        corner = random.integers(0, 8, (n, 2))
        boxes = torch.from_numpy(np.concatenate([corner, corner + random.integers(0, 7, (n, 2))], 1)).float()
        covered = {(y, x) for x0, y0, x1, y1 in boxes.int().tolist() for y in range(y0, y1) for x in range(x0, x1)}
        assert geometry.union_area(boxes) == len(covered)
        assert geometry.union_area(boxes / 4) == len(covered) / 16


def test_to_original_undoes_resize_and_crop():
    # Original 10 wide, 20 high; resized by 2 and 0.5; crop moved by 3 and 1 input pixels.
    x, y = geometry.to_original((4, 6), (2.0, 0.5, -3.0, -1.0))
    assert (x, y) == ((6.5 + 3) / 2 - 0.5, (4.5 + 1) / 0.5 - 0.5)
    assert geometry.to_original((4, 6), (1.0, 1.0, 0.0, 0.0)) == (6.0, 4.0)


def test_energy_does_not_overflow_or_vanish(cams):
    heatmap = cams(1, 40, 30)[0]
    expected = heatmap / heatmap.max()
    for scale in (1.0, 1e-30, 1e37):
        assert torch.allclose(geometry.positive_energy(heatmap * scale), expected, atol=1e-6)
    # Without positive values a map counts as uniform.
    assert bool((geometry.positive_energy(-heatmap) == 1).all())
