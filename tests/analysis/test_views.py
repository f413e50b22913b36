"""What the galleries show of a volume: three slices through the map's maximum, and where boxes cut them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bench.analysis.kept_maps import upsample
from bench.analysis.views import slice_boxes, three_slices, view_of
from bench.maps.heatmaps import upsample as upsample_with_torch

SIZE = (4, 6, 9)
RNG = np.random.default_rng(0)


def about(boxes: list[float]) -> dict[str, Any]:
    return {"boxes": boxes, "other_boxes": None, "height": 6, "width": 9}


def test_slices_lie_where_they_should() -> None:
    """Every voxel of a slice is where its two coordinates say; the corner is empty."""
    values = RNG.random(SIZE)
    z, y, x = 2, 4, 7
    picture = three_slices(values, (z, y, x), -1)
    assert picture.shape == (10, 13)
    for i, j, k in np.ndindex(SIZE):
        assert picture[j, k] == values[z, j, k]
        assert picture[j, 9 + i] == values[i, j, x]
        assert picture[6 + i, k] == values[i, y, k]
    assert (picture[6:, 9:] == -1).all()


def test_boxes_cover_the_same_voxels_of_the_slices() -> None:
    """A mask's slices are the slices' boxes, for every voxel that they may go through."""
    boxes = np.array([[1, 2, 1, 5, 4, 3], [0, 0, 0, 9, 1, 4], [6, 3, 2, 8, 6, 4]], dtype=float)
    mask = np.zeros(SIZE, bool)
    for x0, y0, z0, x1, y1, z1 in boxes.astype(int):
        mask[z0:z1, y0:y1, x0:x1] = True
    for at in np.ndindex(SIZE):
        drawn = np.zeros((10, 13), bool)
        for x0, y0, x1, y1 in slice_boxes(boxes, at, SIZE).astype(int):
            drawn[y0:y1, x0:x1] = True
        assert np.array_equal(drawn, three_slices(mask, at, 0).astype(bool)), at


def test_a_volume_is_shown_through_the_maps_maximum() -> None:
    volume = RNG.random((*SIZE, 3))
    heat = np.zeros((2, 3, 3))
    heat[1, 0, 2] = 1
    view = view_of(volume.reshape(-1, SIZE[2], 3), about([6, 0, 3, 9, 2, 4]), SIZE, heat)
    whole = upsample(heat, *SIZE)
    at = np.unravel_index(whole.argmax(), SIZE)
    assert view.heat is not None and np.array_equal(view.image, three_slices(volume, at, 1))
    assert view.heat.max() == whole.max() and view.heat.min() == whole.min() and len(view.boxes) == 3
    plain = view_of(volume.reshape(-1, SIZE[2], 3), about([6, 0, 3, 9, 2, 4]), SIZE)
    assert plain.heat is None and np.array_equal(plain.image, three_slices(volume, (3, 1, 7), 1))
    assert view_of(volume[0], about([]), SIZE[1:], heat[0]).image is not None


def test_a_picture_is_shown_as_it_is() -> None:
    picture, heat = RNG.random((6, 9, 3)), RNG.random((2, 3))
    view = view_of(picture, about([1, 2, 3, 4]), (6, 9), heat)
    assert (
        view.image is picture and view.heat is heat and view.boxes.tolist() == [[1, 2, 3, 4]] and not len(view.others)
    )


def test_volumes_are_upsampled_as_in_the_benchmark() -> None:
    heat = RNG.random((2, 3, 4))
    expected = upsample_with_torch(torch.from_numpy(heat)[None].float(), (7, 9, 11))[0].numpy()
    np.testing.assert_allclose(upsample(heat, 7, 9, 11), expected, atol=1e-6)
