"""All localization metrics at once: the perfect map, its complement, chance, and ground truth of all or nothing."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from metrics import coverage, instances, localization, pointing

SIZE = (40, 60)
BOXES = [[6, 6, 18, 16], [34, 24, 46, 34]]  # of one size, so that evenness can be 1
K = 200


def truth_of(boxes, size=SIZE):
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def perfect_map(boxes, size=SIZE):
    """Zero outside of the boxes; inside 1 in the middle and hardly less around it, so that each has one peak."""
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1])[None] + 0.5
    heatmap = torch.zeros(size)
    for x0, y0, x1, y1 in boxes:
        hill = 1 - 1e-3 * ((x - (x0 + x1 + 1) / 2) ** 2 + (y - (y0 + y1 + 1) / 2) ** 2) / (x1 - x0 + y1 - y0) ** 2
        inside = truth_of([[x0, y0, x1, y1]], size)[0]
        heatmap[inside] = hill[inside]
    return heatmap


SLOW_ON_NOISE = ("boxes", "peaks", "instances")  # and without a closed form for it


def measure(heatmaps, make_batch, boxes=BOXES, size=SIZE, without=()):
    """Every localization metric's scalars, and the statistics of the whole set from its curves."""
    n = len(heatmaps)
    masks = truth_of(boxes, size)
    batch = make_batch(size, [boxes] * n, masks=[masks] * n)
    found = {}
    metrics = {
        "pointing": partial(pointing.pointing_game, tolerance=1),
        "peaks": partial(pointing.top_k_pointing, tolerance=1),
        "energy": pointing.energy_pointing_game,
        "grid": pointing.grid_pointing_game,
        "coverage": partial(coverage.box_coverage, max_area=1),
        "relevance": partial(coverage.relevance, k=K),
        "boxes": localization.max_box_acc,
        "pxap": localization.pxap,
        "instances": instances.instance_boxes,
    }
    for name, metric in metrics.items():
        if name not in without:
            found |= {f"{name}.{key}": value.double().numpy() for key, value in metric(heatmaps, batch).items()}
    means = {key: value.mean(0) for key, value in found.items()}
    if "boxes" not in without:
        found["max_box_acc_v2"] = localization.mean_of_best([means[f"boxes.correct_{p}"] for p in (30, 50, 70)])
        found["max_box_acc"] = localization.mean_of_best([means["boxes.largest_50"]])
    found["pxap"] = localization.pixel_average_precision([means["pxap.positives"], means["pxap.negatives"]])
    return {key: value for key, value in found.items() if np.ndim(value) < 2 and not key.endswith("curve")}


def test_perfect_map_and_complement(make_batch):
    perfect = perfect_map(BOXES)
    best = measure(perfect[None], make_batch)
    worst = measure((perfect == 0).float()[None], make_batch)
    share = 240 / 2400
    assert best.pop("coverage.curve_area").item() == pytest.approx(1 - share / 2, abs=1e-3)
    assert worst.pop("coverage.curve_area").item() == pytest.approx(share / 2, abs=1e-3)
    # The highest K of 240 positions; all others are 1.
    assert {key for key, value in best.items() if not np.allclose(value, 1, atol=2e-3)} == set()
    # The objects are ranked last, at the level of chance; the cells of the objects hold less than half of the rest.
    for key in ("pxap.ap", "pxap"):
        assert worst.pop(key) == pytest.approx(share, abs=1e-6)
    assert worst.pop("grid.share").item() == pytest.approx((1200 - 240) / (2400 - 240), abs=1e-6)
    # A contour runs around every hole too, one pixel further out: so wsolevaluation finds the objects of a complement.
    around = 13 * 11 / (15 * 13)
    assert worst.pop("boxes.best_iou").item() == pytest.approx(around, abs=1e-6)
    assert worst.pop("max_box_acc_v2") == 1 and around > 0.7
    assert {key for key, value in worst.items() if not np.allclose(value, 0)} == set()


def test_random_maps_score_their_expectation(make_batch):
    n, share = 300, 240 / 2400
    found = measure(torch.rand(n, *SIZE, generator=torch.Generator().manual_seed(0)), make_batch, without=SLOW_ON_NOISE)
    chance = {
        "pointing.hit": share,
        "pointing.hit_difficult": share,
        "energy.energy": share,
        "grid.share": 0.5,
        "coverage.coverage": share,
        "coverage.purity": share,
        "coverage.curve_area": 0.5,
        "relevance.mass": share,
        "relevance.rank": share,
        "relevance.top_k": share,
    }
    for key, expected in chance.items():
        values = found[key]
        assert abs(values.mean() - expected) < 3 * values.std(ddof=1) / math.sqrt(n), key
    # Of n objects among random pixels the precision at each is the share but for a term of log(positions) / positions.
    assert abs(found["pxap"] - share) < 3 * math.sqrt(share * (1 - share) / (n * 240)) + 1e-3


@pytest.mark.parametrize("size", [(12, 20), (1, 1), (30, 7)])
def test_ground_truth_is_the_whole_image_or_nothing(make_batch, maps, size):
    height, width = size
    named = {k: v for k, v in maps(*size).items() if v.max() > v.min() and v.max() > 0} or {"one": torch.ones(size)}
    whole = measure(torch.stack(list(named.values())), make_batch, [[0, 0, width, height]], size)
    for key in ("energy.energy", "relevance.mass", "relevance.rank", "relevance.top_k", "pxap.ap", "coverage.coverage"):
        assert np.allclose(whole[key], 1, atol=1e-5), key
    for key in ("pointing.hit", "peaks.recall"):
        assert np.allclose(whole[key], 1), key
    assert whole["boxes.best_iou"].max() <= 1
    empty = measure(torch.stack(list(named.values())), make_batch, [], size)
    assert all(np.isnan(value).all() for key, value in empty.items()), empty
