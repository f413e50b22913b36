"""One box at a threshold that no ground truth chose, and wsolevaluation's bicubic maps."""

import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from metrics import localization
from metrics.boxes import fixed

BOXES = [[2, 3, 14, 13], [3, 1, 29, 18]]


def slow_level(image, threshold):
    """Otsu by trying every cut: the largest variance between the two classes, the first of equal ones."""
    values = [int(value) for value in image.ravel()]
    if threshold == "mean":
        return sum(values) / len(values)
    if threshold != "otsu":
        return math.floor(threshold * 255)
    best, at = -1.0, max(values)
    for cut in range(min(values), max(values)):
        low, high = [v for v in values if v <= cut], [v for v in values if v > cut]
        between = len(low) * len(high) * (sum(low) / len(low) - sum(high) / len(high)) ** 2
        if between > best * (1 + 1e-12):
            best, at = between, cut
    return at


def slow_iou(heatmap, boxes, threshold):
    """Largest 8-connected part by its contour's area, wsolevaluation's whole pixels; by hand but for the contour."""
    values = heatmap.double().numpy()
    values = (values - values.min()) / (values.max() - values.min()) if values.max() > values.min() else 0 * values
    image = (values * 255).astype(np.uint8)
    mask = (image > slow_level(image, threshold)).astype(np.uint8)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not contours:
        return 0.0
    x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
    measured = [x, y, min(x + w, mask.shape[1] - 1), min(y + h, mask.shape[0] - 1)]
    shares = []
    for box in boxes:
        sides = [min(measured[i + 2], box[i + 2]) - max(measured[i], box[i]) + 1 for i in range(2)]
        common = max(sides[0], 0) * max(sides[1], 0)
        areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (measured, box)]
        shares.append(common / (sum(areas) - common))
    return max(shares)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0, "mean", "otsu"])
def test_equals_the_slow_one(make_batch, maps, cams, threshold):
    named = maps(20, 31) | {f"cam {i}": cam for i, cam in enumerate(cams(6, 20, 31, seed=7))}
    batch = make_batch((20, 31), [BOXES] * len(named))
    batch.predicted = [i % 3 if i % 2 else (i + 1) % 3 for i in range(len(named))]  # every other one is right
    result = fixed.gt_known(torch.stack(list(named.values())), batch, threshold=threshold)
    for i, (name, heatmap) in enumerate(named.items()):
        expected = slow_iou(heatmap, BOXES, threshold)
        assert result["iou"][i].item() == pytest.approx(expected, abs=1e-6), name
        assert result["gt_known"][i] == (expected >= 0.5)
        assert result["top_1_loc"][i] == (expected >= 0.5 and i % 2 == 1)
    assert set(result["gt_known"].tolist()) == {0, 1} or threshold == 0
    for name in ("zero", "constant"):
        assert result["iou"][list(named).index(name)] == 0


def test_otsu_equals_a_search(maps):
    for name, heatmap in maps(12, 17).items():
        image = localization.eight_bit(heatmap)
        measured, expected = fixed.level(image, "otsu"), slow_level(image, "otsu")
        # Cuts between two values that occur are one cut.
        assert np.array_equal(image > measured, image > expected), name
    assert fixed.level(np.full((3, 3), 7, np.uint8), "otsu") == threshold_otsu(np.full((3, 3), 7, np.uint8)) == 7


def test_a_level_of_max_box_acc_is_the_same(make_batch, cams):
    heatmaps = cams(30, 20, 31, seed=3)
    batch = make_batch((20, 31), [BOXES] * 30)
    curve = localization.max_box_acc(heatmaps, batch)["largest_50"]
    for threshold in (0, 0.2, 0.35, 0.7):
        one = fixed.gt_known(heatmaps, batch, threshold=threshold)["gt_known"]
        assert torch.equal(one, curve[:, int(threshold * 255)])
    means = [fixed.gt_known(heatmaps, batch, threshold=k / 1000)["gt_known"].mean() for k in range(0, 1000, 5)]
    assert min(means) < max(means) <= localization.mean_of_best([curve.mean(0).numpy()]) + 1e-6


@pytest.mark.parametrize("threshold", [0.2, "mean", "otsu"])
def test_perfect_shifted_scaled_and_mirrored(make_batch, threshold):
    perfect = torch.zeros(3, 24, 30)
    perfect[:, 4:12, 5:20] = 1
    boxes = [[[5, 4, 20, 12]], [[25, 20, 27, 22]], []]
    batch = make_batch((24, 30), boxes)
    result = fixed.gt_known(perfect, batch, threshold=threshold)
    assert result["iou"][:2].tolist() == [1, 0] and result["gt_known"][:2].tolist() == [1, 0]
    assert all(values[2].isnan() for values in result.values())
    same = fixed.gt_known(3 * perfect + 2, batch, threshold=threshold)
    assert all(torch.equal(same[key][:2], result[key][:2]) for key in result)
    inverted = fixed.gt_known(1 - perfect, batch, threshold=threshold)
    assert inverted["gt_known"][0] == 0


def test_power_moves_a_fixed_threshold(make_batch, cams):
    """Not invariant to monotone transforms, by design: the threshold is a value."""
    heatmaps, batch = cams(10, 20, 31), make_batch((20, 31), [BOXES] * 10)
    for threshold in (0.2, "mean", "otsu"):
        plain, squared = (fixed.gt_known(m, batch, threshold=threshold)["iou"] for m in (heatmaps, heatmaps**4))
        assert not torch.allclose(plain, squared)


def test_uniform_and_random_maps(make_batch):
    """Uniform: no box. Pixel noise above .2 of its maximum is one part that fills the image: the box is all of it."""
    size, boxes = (30, 40), [[0, 0, 40, 30]]
    batch = make_batch(size, [boxes] * 6)
    noise = torch.rand(6, *size, generator=torch.Generator().manual_seed(0))
    measured = fixed.gt_known(torch.cat([torch.ones(3, *size), noise[:3]]), batch, threshold=0.2)
    # wsolevaluation's boxes end at the last pixel, the truth one further.
    whole = 40 * 30 / (41 * 31)
    assert measured["iou"].tolist() == pytest.approx([0] * 3 + [whole] * 3, abs=1e-6)
    small = make_batch(size, [[[10, 10, 20, 20]]] * 6)
    chance = fixed.gt_known(noise, small, threshold=0.2)["iou"]
    assert chance.tolist() == pytest.approx([11 * 11 / (40 * 30)] * 6, abs=1e-6)


def test_classes_that_are_groups_or_not_known(make_batch):
    perfect = torch.zeros(4, 20, 31)
    perfect[:, 3:13, 2:14] = 1
    batch = make_batch((20, 31), [[BOXES[0]]] * 4)
    batch.targets, batch.predicted = [(1, 2), (1, 2), (0,), (0,)], [2, 3, 0, 1]
    assert fixed.gt_known(perfect, batch)["top_1_loc"].tolist() == [1, 0, 1, 0]
    batch.predicted = []
    result = fixed.gt_known(perfect, batch)
    assert result["top_1_loc"].isnan().all() and (result["gt_known"] == 1).all()
    for bad in ({"threshold": "best"}, {"threshold": 1.0}, {"threshold": -0.1}, {"iou": 0}, {"iou": 1.1}):
        with pytest.raises(ValueError, match="0 to below 1 or mean, otsu"):
            fixed.gt_known(perfect, batch, **bad)


def wsolevaluation_map(cam, size):
    """As its inference.py: cv2.resize to (width, height) with INTER_CUBIC, then minimum 0 and maximum 1."""
    resized = cv2.resize(cam.numpy(), size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float64)
    resized -= resized.min()
    return resized / resized.max()


def test_bicubic_is_wsolevaluation_s(make_batch, cams):
    """The curves are those of the map that wsolevaluation makes; linear ones differ."""
    native = torch.rand(20, 7, 7, generator=torch.Generator().manual_seed(0)) ** 3
    size = (56, 70)
    batch = make_batch(size, [[[8, 9, 40, 38]]] * 20)
    linear = torch.nn.functional.interpolate(native[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    measured = localization.max_box_acc(linear, batch, native=native, upsampling="cubic")
    expected = torch.stack([torch.from_numpy(wsolevaluation_map(one, size)) for one in native])
    same = localization.max_box_acc(expected, batch)
    for key, values in same.items():
        assert torch.equal(measured[key], values), key
    plain = localization.max_box_acc(linear, batch)
    assert any(not torch.equal(plain[key], same[key]) for key in same)
    assert all(
        torch.equal(values, plain[key])
        for key, values in localization.max_box_acc(linear, batch, native=native).items()
    )
    with pytest.raises(ValueError, match="upsampling=nearest"):
        localization.max_box_acc(linear, batch, upsampling="nearest")


def test_cubic_by_hand():
    """Keys' kernel with a = -.75, centres aligned at half pixels, borders repeated: a row of three to six."""

    def kernel(x, a=-0.75):
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    row = [0.2, 1.0, 1.0]
    expected = []
    for place in range(6):
        centre = (place + 0.5) / 2 - 0.5
        base = math.floor(centre)
        expected.append(sum(row[min(max(k, 0), 2)] * kernel(centre - k) for k in range(base - 1, base + 3)))
    measured = localization.cubic(torch.tensor([[row]]), (1, 6))
    assert measured[0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected) > 1  # beyond the values that it was made from


def test_cubic_of_maps_that_say_nothing():
    broken = torch.rand(4, 5, 5)
    broken[0], broken[1], broken[2, 1, 1] = 0, 0.7, math.nan
    larger = localization.cubic(broken, (20, 23))
    assert larger.shape == (4, 20, 23) and (larger[:3] == 0).all() and larger[3].max() > 0
    assert torch.equal(localization.cubic(broken[3:], (5, 5))[0], broken[3])


def test_a_native_map_comes_with_the_run(make_batch, cams):
    """The runner hands the map over at the layer's size."""
    from contract import part

    from bench.runs.rows import metric_columns

    native = cams(2, 6, 8)
    batch = make_batch((24, 32), [[[2, 3, 14, 13]]] * 2)
    heatmaps = torch.nn.functional.interpolate(native[:, None], (24, 32), mode="bilinear", align_corners=False)[:, 0]
    rows = metric_columns(part("metric", "max_box_acc_bicubic"), "x", heatmaps, batch, native=native)
    expected = localization.max_box_acc(heatmaps, batch, native=native, upsampling="cubic")
    assert [row["x.best_iou"] for row in rows] == expected["best_iou"].tolist()
    assert expected["best_iou"].tolist() != localization.max_box_acc(heatmaps, batch)["best_iou"].tolist()
    assert isinstance(batch, SimpleNamespace)
