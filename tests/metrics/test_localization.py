"""MaxBoxAcc and PxAP against wsolevaluation's definition, threshold by threshold."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from bench.datasets.arrays.windows import Window, move_boxes
from metrics import localization

THRESHOLDS = np.arange(0, 1, 0.001)


def normalize(heatmap):
    values = heatmap.double().numpy()
    values = values - values.min()
    return values / values.max() if values.max() > 0 else values


def iou(a, b):
    """wsolevaluation's, with inclusive ends."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return common / (sum(areas) - common)


def slow_curves(heatmap, boxes):
    """Every one of the thousand thresholds through OpenCV as wsolevaluation calls it."""
    height, width = heatmap.shape
    image = (normalize(heatmap) * 255).astype(np.uint8)
    truth = [[int(c) for c in box] for box in boxes]
    all_contours, largest_only = [], []
    for t in THRESHOLDS:
        _, mask = cv2.threshold(image, int(t * image.max()), 255, cv2.THRESH_BINARY)
        contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        found = []
        for contour in contours:
            x, y, w, h = cv2.boundingRect(contour)
            found.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
        biggest = found[int(np.argmax([cv2.contourArea(c) for c in contours]))] if found else [0, 0, 0, 0]
        found = found or [[0, 0, 0, 0]]
        all_contours.append(max(iou(f, b) for f in found for b in truth))
        largest_only.append(max(iou(biggest, b) for b in truth))
    return np.array(all_contours), np.array(largest_only)


def wsolevaluation_box(box, size):
    """Whole pixels of a box at 224 x 224 as wsolevaluation's resize_bbox rounds them; size is (width, height)."""
    return [int(float(c) * 224.0 / float(side)) for c, side in zip(box, size * 2, strict=True)]


def test_curves_of_all_voc_boxes_equal_wsolevaluation(make_batch, shared_data):
    truth = json.loads((shared_data / "voc07_test_annotations" / "instances_test2007.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    rows = {((x, y, x + w, y + h), sizes[a["image_id"]]) for a in truth["annotations"] for x, y, w, h in [a["bbox"]]}
    assert len(rows) > 4500
    heatmap = torch.zeros(224, 224)
    for level, (x0, y0, x1, y1) in enumerate([(3, 9, 221, 220), (20, 30, 180, 200), (60, 50, 150, 140)], start=1):
        heatmap[y0:y1, x0:x1] = level
    moved, whole = [], []
    for box, (width, height) in sorted(rows):
        window = Window((height, width), (224, 224), (0, 0), (224, 224))
        moved.append(move_boxes(torch.tensor([box]), window)[0][0])
        whole.append(wsolevaluation_box(box, (width, height)))
    assert np.array_equal(localization.whole_boxes(torch.stack(moved), heatmap), whole)
    # Boxes that float32 alone would round down to another pixel decide: their curves.
    chosen = [i for i, box in enumerate(moved) if box.floor().tolist() != whole[i]]
    assert len(chosen) > 400
    image = localization.eight_bit(heatmap)
    parts = [localization.contour_boxes((image > cut).astype(np.uint8))[0][0] for cut in (0, 85, 170)]
    expected = np.array([[iou(part, whole[i]) for part in parts] for i in chosen])
    batch = make_batch((224, 224), [[moved[i].tolist()] for i in chosen])
    result = localization.max_box_acc(heatmap.expand(len(chosen), 224, 224), batch)
    for percent in (30, 50, 70):  # each mask at one of its thresholds: 0 to 84, to 169, to 254
        assert np.array_equal(result[f"correct_{percent}"][:, [0, 100, 200]].numpy(), expected >= percent / 100)
    np.testing.assert_allclose(result["best_iou"].numpy(), expected.max(1), atol=1e-6)


@pytest.mark.parametrize("size", [(20, 31), (1, 1)])
def test_curves_equal_a_thousand_thresholds(make_batch, maps, cams, size):
    named = maps(*size) | {f"cam {i}": cam for i, cam in enumerate(cams(3, *size, seed=7))}
    boxes = [[2, 3, 12, 11], [18, 8, 30, 19]] if size != (1, 1) else [[0, 0, 1, 1]]
    batch = make_batch(size, [boxes] * len(named))
    result = localization.max_box_acc(torch.stack(list(named.values())), batch)
    seen = set()
    for i, (name, heatmap) in enumerate(named.items()):
        every, largest = slow_curves(heatmap, boxes)
        level = (THRESHOLDS * 255).astype(int)  # the published threshold each level stands for
        for percent in (30, 50, 70):
            expected = every >= percent / 100
            assert np.array_equal(result[f"correct_{percent}"][i].numpy()[level], expected), (name, percent)
            seen |= set(expected.tolist())
        assert np.array_equal(result["largest_50"][i].numpy()[level], largest >= 0.5), name
        assert result["best_iou"][i].item() == pytest.approx(every.max(), abs=1e-6), name
    assert set(level) == set(range(255))
    if size != (1, 1):
        assert seen == {True, False}


def test_data_set_statistic_from_chunks_in_any_order(make_batch, cams):
    heatmaps = cams(12, 24, 32, seed=3)
    random = np.random.default_rng(0)
    boxes = []
    for n in random.integers(0, 3, 12):
        corner = random.integers(0, 16, (n, 2))
        boxes.append(np.concatenate([corner, corner + random.integers(6, 15, (n, 2))], 1).clip(0, 24).tolist())
    kept = [i for i in range(12) if boxes[i]]
    assert 0 < len(kept) < 12
    slow = np.array([slow_curves(heatmaps[i], boxes[i]) for i in kept])
    v2 = np.mean([(slow[:, 0] >= t).mean(0).max() for t in (0.3, 0.5, 0.7)])
    v1 = (slow[:, 1] >= 0.5).mean(0).max()

    chunks = []
    for part in ([7, 3, 11], [0, 1, 2, 4, 5], [10, 6, 8, 9]):
        result = localization.max_box_acc(heatmaps[part], make_batch((24, 32), [boxes[i] for i in part]))
        chunks.append({key: value.numpy() for key, value in result.items()})
    means = {key: np.nanmean(np.concatenate([chunk[key] for chunk in chunks]), 0) for key in chunks[0]}
    assert localization.mean_of_best([means[f"correct_{p}"] for p in (30, 50, 70)]) == pytest.approx(v2, abs=1e-6)
    assert localization.mean_of_best([means["largest_50"]]) == pytest.approx(v1, abs=1e-6)
    # The best threshold for all is not the best threshold for each.
    assert v1 < np.nanmean(np.concatenate([chunk["largest_50"].max(1) for chunk in chunks]))
    resamples = np.stack([means["correct_50"], means["correct_70"]])
    assert np.array_equal(localization.mean_of_best([resamples]), resamples.max(1))


def test_perfect_map_complement_and_no_boxes(make_batch):
    perfect = torch.zeros(3, 24, 30)
    perfect[:, 4:12, 5:20] = 1
    perfect[1] = 1 - perfect[1]
    batch = make_batch((24, 30), [[[5, 4, 20, 12]], [[25, 20, 27, 22]], []])
    result = localization.max_box_acc(perfect, batch)
    for key in ("correct_30", "correct_50", "correct_70", "largest_50"):
        assert (result[key][0] == 1).all() and (result[key][1] == 0).all() and result[key][2].isnan().all()
    assert result["best_iou"][0] == 1
    # The hole of the complement is a contour too: its outline is one pixel wider on each side.
    inside = localization.max_box_acc(1 - perfect[:1], make_batch((24, 30), [[[5, 4, 20, 12]]]))
    assert (inside["correct_70"] == 1).all() and (inside["largest_50"] == 0).all()
    assert inside["best_iou"].item() == pytest.approx(16 * 9 / (18 * 11), abs=1e-6)


def test_boxes_are_cut_to_the_input_and_rounded_down():
    heatmap = torch.zeros(20, 30)
    boxes = torch.tensor([[-4.0, 2.6, 7.9, 30.0], [40.0, 2.0, 50.0, 8.0], [28.5, 18.5, 31.0, 20.0]])
    assert localization.whole_boxes(boxes, heatmap).tolist() == [[0, 2, 7, 20], [28, 18, 30, 20]]
    assert localization.whole_boxes(torch.zeros(0, 4), heatmap).shape == (0, 4)


def test_transposed_map_misses(make_batch):
    heatmap = torch.zeros(1, 30, 30)
    heatmap[0, 2:8, 12:28] = 1
    hit = localization.max_box_acc(heatmap, make_batch((30, 30), [[[12, 2, 28, 8]]]))
    miss = localization.max_box_acc(heatmap.transpose(1, 2), make_batch((30, 30), [[[12, 2, 28, 8]]]))
    assert hit["best_iou"] == 1 and miss["best_iou"] < 0.3


@pytest.mark.parametrize("size", [(30, 50), (300, 451), (37, 41), (224, 224), (7, 500), (1, 1)])
def test_masks_of_pxap_are_those_of_cv2(size):
    """As wsolevaluation's ``cv2.resize(mask, (224, 224), interpolation=cv2.INTER_NEAREST)``, also in a window of it."""
    import cv2

    height, width = size
    mask = np.random.default_rng(0).random(size) < 0.4
    for new in ((224, 224), (224, 300), (13, 224)):
        expected = cv2.resize(mask.astype(np.float32), new[::-1], interpolation=cv2.INTER_NEAREST) > 0.5
        scale = (new[1] / width, new[0] / height)
        assert np.array_equal(localization.corner_mask(mask, (*scale, 0.0, 0.0), new), expected)
        top, left = new[0] // 5, -4  # cut above, padded on the left
        window = localization.corner_mask(mask, (*scale, -float(left), -float(top)), (new[0] - top + 3, new[1] + 4))
        assert np.array_equal(window[:-3, 4:], expected[top:])
        assert not window[:, :4].any() and not window[-3:].any()


def test_pxap_looks_at_original_masks(make_batch):
    """Of a mask of twice the size, cv2 takes the even pixels."""
    mask = torch.rand(1, 48, 60, generator=torch.Generator().manual_seed(0)) < 0.4
    batch = make_batch((24, 30), [[[0, 0, 1, 1]]], to_input=(0.5, 0.5, 0.0, 0.0), masks=[mask])
    batch.masks = [torch.zeros(1, 24, 30, dtype=torch.bool)]
    heatmap = mask[0, ::2, ::2].float()
    assert localization.pxap(heatmap[None], batch)["ap"].item() == 1
    assert localization.pxap(mask[0, 1::2, 1::2].float()[None], batch)["ap"].item() < 0.8


def slow_pxap(score_maps, truths, ignored):
    """All pixels of all images through wsolevaluation's histograms and sum."""
    edges = np.append(list(THRESHOLDS), [1.0, 2.0, 3.0])
    positive = negative = 0
    for values, truth, ignore in zip(score_maps, truths, ignored, strict=True):
        positive = positive + np.histogram(values[truth], bins=edges)[0].astype(float)
        negative = negative + np.histogram(values[~truth & ~ignore], bins=edges)[0].astype(float)
    tp, fp = positive[::-1].cumsum(), negative[::-1].cumsum()
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / positive.sum()
    used = (tp + fp) != 0
    return (precision[1:] * np.diff(recall))[used[1:]].sum()


@pytest.mark.parametrize("size", [(20, 31), (1, 1)])
@pytest.mark.parametrize("with_ignored", [False, True])
def test_pxap_equals_the_definition(make_batch, maps, cams, size, with_ignored):
    named = maps(*size) | {f"cam {i}": cam for i, cam in enumerate(cams(3, *size, seed=7))}
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(2, *size, generator=generator) < 0.3 for _ in named]
    for mask in masks:
        mask[0, 0, 0] = True
    height, width = size
    regions = [
        [0, height // 2, width // 3, height],
        [width // 2, -1, width + 4, height // 3],
    ]  # one is cut by the border
    ignored = torch.zeros(size, dtype=torch.bool)
    if with_ignored:
        ignored[height // 2 :, : width // 3] = ignored[: height // 3, width // 2 :] = True
        assert size == (1, 1) or any((~mask.any(0) & ignored).any() for mask in masks)
    batch = make_batch(size, [[[0, 0, 1, 1]]] * len(named), masks=masks)
    if with_ignored:
        batch.ignore = [torch.tensor(regions, dtype=torch.float32)] * len(named)
    heatmaps = torch.stack(list(named.values()))
    result = localization.pxap(heatmaps, batch)
    values = [normalize(heatmap) for heatmap in heatmaps]
    truths = [mask.any(0).numpy() for mask in masks]
    skip = [ignored.numpy()] * len(named)
    for i, name in enumerate(named):
        expected = slow_pxap(values[i : i + 1], truths[i : i + 1], skip[i : i + 1])
        assert result["ap"][i].item() == pytest.approx(expected, abs=1e-5), name
    means = [result[key].double().mean(0).numpy() for key in ("positives", "negatives")]
    assert localization.pixel_average_precision(means) == pytest.approx(slow_pxap(values, truths, skip), abs=1e-6)


def test_pxap_extremes(make_batch):
    size = (20, 30)
    masks = [torch.zeros(1, *size, dtype=torch.bool) for _ in range(4)]
    for mask in masks[:3]:
        mask[0, 4:9, 3:20] = True
    batch = make_batch(size, [[[3, 4, 20, 9]]] * 5, masks=[*masks, None])
    heatmaps = torch.stack([masks[0][0].float(), 1 - masks[0][0].float(), torch.full(size, 0.5)])
    result = localization.pxap(torch.cat([heatmaps, heatmaps[:2]]), batch)
    share = 85 / 600
    # Perfect; complement, which finds the object last; constant, which is chance; nothing to find; no masks.
    assert result["ap"][:3].tolist() == pytest.approx([1, share, share], abs=1e-6)
    assert result["ap"][3:].isnan().all() and result["positives"][3:].isnan().all()


def test_pxap_of_random_maps_is_chance(make_batch):
    heatmaps = torch.rand(200, 20, 30, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[0, 4:14, 3:20] = True
    batch = make_batch((20, 30), [[[3, 4, 20, 14]]] * 200, masks=[mask] * 200)
    result = localization.pxap(heatmaps, batch)
    pooled = localization.pixel_average_precision([result[k].numpy().sum(0) for k in ("positives", "negatives")])
    share = 170 / 600
    assert abs(float(pooled) - share) < 3 * math.sqrt(share * (1 - share) / (200 * 170))
