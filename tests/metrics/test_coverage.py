"""Box coverage against loops over pixels, its extremes and its chance level."""

import math

import numpy as np
import pytest
import torch

from metrics import coverage
from metrics.ranking import order

SCALARS = [
    "coverage", "min_coverage", "instance_recall_25", "instance_recall_50", "instance_recall_75", "purity",
    "evenness", "curve_area",
]  # fmt: skip


def brute(heatmap, boxes, case="case 0", max_area=0.85):
    """The definition with sets of positions; of tied positions the expectation, by counting draws."""
    height, width = heatmap.shape
    instances = []
    for x0, y0, x1, y1 in boxes:
        pixels = {(y, x) for y in range(height) for x in range(width) if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1}
        if pixels:
            instances.append(pixels)
    union = set().union(*instances)
    if not instances or len(union) > max_area * height * width:
        return None
    places = [(y, x) for y in range(height) for x in range(width)]
    values = {(y, x): value for y, row in enumerate(heatmap.tolist()) for x, value in enumerate(row)}
    levels = sorted(set(values.values()), reverse=True)
    at_level = {level: {p for p in places if values[p] == level} for level in levels}

    def split(count):
        """Positions surely among the `count` highest, those that tie for the rest, and how many of these are drawn."""
        sure = set()
        for level in levels:
            group = at_level[level]
            if len(sure) + len(group) > count:
                return sure, group, count - len(sure)
            sure |= group
        return sure, set(), 0

    def share(pixels, count):
        sure, group, drawn = split(count)
        return (len(sure & pixels) + (drawn * len(group & pixels) / len(group) if group else 0)) / len(pixels)

    def reaches(pixels, count, least):
        sure, group, drawn = split(count)
        inside, outside = len(group & pixels), len(group - pixels)
        ways = sum(
            math.comb(inside, k) * math.comb(outside, drawn - k)
            for k in range(min(inside, drawn) + 1)
            if len(sure & pixels) + k >= least * len(pixels) and drawn - k <= outside
        )
        return ways / math.comb(inside + outside, drawn)

    budget = len(union)
    ranked = [places[p] for p in order(heatmap[None], [case])[0].tolist()]
    drawn = [len(set(ranked[:budget]) & pixels) / len(pixels) for pixels in instances]
    positive = {p: max(values[p], 0) for p in places}
    if not any(positive.values()):
        positive = dict.fromkeys(places, 1.0)
    energy = [sum(positive[p] for p in pixels) for pixels in instances]
    shares = [e / sum(energy) for e in energy if e]
    several = len(instances) > 1
    counts = [i * height * width // 20 for i in range(21)]
    curve = [np.mean([share(pixels, count) for pixels in instances]) for count in counts]
    return {
        "coverage": np.mean([share(pixels, budget) for pixels in instances]),
        "min_coverage": min(drawn) if several else math.nan,
        **{
            f"instance_recall_{at}": np.mean([reaches(pixels, budget, at / 100) for pixels in instances])
            for at in (25, 50, 75)
        },
        "purity": share(union, budget),
        "evenness": -sum(s * math.log(s) for s in shares) / math.log(len(instances)) if several else math.nan,
        "coverage_curve": curve[1:],
        "curve_area": np.trapezoid(curve, np.array(counts) / (height * width)),
    }


BOXES = {
    "one": [[2, 1, 6, 5]],
    "two apart": [[0, 0, 3, 4], [8, 5, 12, 9]],
    "overlapping": [[1, 1, 7, 6], [4, 3, 11, 8], [0, 7, 2, 9]],
    "fractional and partly outside": [[-3.2, 2.5, 2.5, 5.49], [10.7, -1, 20, 3.5]],
    "wholly outside beside one inside": [[50, 50, 60, 60], [3, 3, 6, 5]],
    "whole image": [[0, 0, 13, 9]],
    "nearly whole image": [[0, 0, 12, 9]],
}


@pytest.mark.parametrize("name", BOXES)
def test_equals_brute_force(make_batch, maps, name):
    named = maps(9, 13)
    batch = make_batch((9, 13), [BOXES[name]] * len(named))
    result = coverage.box_coverage(torch.stack(list(named.values())), batch)
    assert result["coverage_curve"].shape == (len(named), 20)
    for i, (map_name, heatmap) in enumerate(named.items()):
        expected = brute(heatmap, BOXES[name], batch.ids[i])
        for key, values in result.items():
            if expected is None:
                assert values[i].isnan().all()
            else:
                assert np.allclose(values[i], expected[key], atol=1e-5, equal_nan=True), (map_name, key)


def test_random_boxes_equal_brute_force_and_composition_does_not_matter(make_batch, cams):
    random = np.random.default_rng(1)
    boxes = []
    for n in (1, 2, 3, 5, 0):
        corner = random.integers(0, 20, (n, 2))
        boxes.append(np.concatenate([corner, corner + random.integers(1, 9, (n, 2))], 1).tolist())
    heatmaps = cams(5, 22, 31)
    batch = make_batch((22, 31), boxes)
    result = coverage.box_coverage(heatmaps, batch)
    for i in range(4):
        expected = brute(heatmaps[i], boxes[i], batch.ids[i])
        one = make_batch((22, 31), boxes[i : i + 1])
        one.ids = batch.ids[i : i + 1]
        alone = coverage.box_coverage(heatmaps[i : i + 1], one)
        for key, values in result.items():
            assert np.allclose(values[i], expected[key], atol=1e-5, equal_nan=True), key
            assert torch.equal(alone[key][0].nan_to_num(9), values[i].nan_to_num(9))
    assert all(values[4].isnan().all() for values in result.values())


def test_perfect_map_and_its_complement(make_batch):
    boxes = [[2, 3, 8, 9], [12, 5, 20, 15]]
    batch = make_batch((24, 30), [boxes] * 3)
    perfect = torch.zeros(24, 30)
    for x0, y0, x1, y1 in boxes:
        perfect[y0:y1, x0:x1] = 1
    one_only = torch.zeros(24, 30)
    one_only[3:9, 2:8] = 1
    result = coverage.box_coverage(torch.stack([perfect, 1 - perfect, one_only]), batch)
    for key in SCALARS[:6]:
        assert result[key][:2].tolist() == [1, 0], key
    # Energy 36 and 80 for a map that is 1 in both boxes; none at all in the complement; all in one.
    shares = np.array([36, 80]) / 116
    assert result["evenness"].tolist() == pytest.approx([-(shares * np.log(shares)).sum() / math.log(2), 0, 0])
    # The small box is shown whole; the other gets its share of what is left, 80 positions at random out of 684.
    assert result["instance_recall_75"][2].item() == pytest.approx(0.5) and result["min_coverage"][2] < 0.25
    assert result["coverage"][2].item() == pytest.approx((1 + 80 / 684) / 2)
    balanced = perfect.clone()
    balanced[3:9, 2:8] = 80 / 36
    assert coverage.box_coverage(balanced[None], make_batch((24, 30), [boxes]))["evenness"].item() == pytest.approx(1)


def test_an_edge_off_by_one_is_seen(make_batch):
    batch = make_batch((20, 30), [[[10, 5, 20, 15]]] * 4)
    heatmaps = torch.zeros(4, 20, 30)
    heatmaps[0, 5:15, 11:21] = 1  # one column to the right
    heatmaps[1, 4:14, 10:20] = 1  # one row up
    heatmaps[2, 10:20, 5:15] = 1  # transposed
    heatmaps[3, 5:15, 10:20] = 1
    assert coverage.box_coverage(heatmaps, batch)["purity"].tolist() == pytest.approx([0.9, 0.9, 0.25, 1.0])


def test_random_maps_score_their_expectation(make_batch):
    size, n = (16, 20), 600
    boxes = [[1, 1, 6, 6], [9, 8, 19, 14]]
    heatmaps = torch.rand(n, *size, generator=torch.Generator().manual_seed(0))
    result = coverage.box_coverage(heatmaps, make_batch(size, [boxes] * n))
    share = (25 + 60) / (16 * 20)
    for key, expected in {"coverage": share, "purity": share, "curve_area": 0.5}.items():
        error = result[key].std().item() / math.sqrt(n)
        assert abs(result[key].mean().item() - expected) < 3 * error, key
    assert torch.allclose(result["coverage_curve"].mean(0), torch.arange(1, 21) / 20, atol=0.01)


def test_scale_and_shift_do_not_matter_to_ranks_but_sign_does(make_batch, cams):
    heatmaps, boxes = cams(1, 16, 20), [[[1, 1, 6, 6], [9, 8, 19, 14]]]
    plain, scaled, flipped = (
        coverage.box_coverage(h, make_batch((16, 20), boxes)) for h in (heatmaps, 8 * heatmaps + 4, -heatmaps)
    )
    for key in ("coverage", "purity", "curve_area"):
        assert torch.equal(plain[key], scaled[key]) and not torch.equal(plain[key], flipped[key])
    ninety = coverage.box_coverage(heatmaps, make_batch((16, 20), [[[0, 0, 20, 14.4]]]), max_area=0.95)
    assert ninety["coverage"].isfinite().all()
    assert coverage.box_coverage(torch.ones(1, 1, 1), make_batch((1, 1), [[[0, 0, 1, 1]]]))["purity"].isnan().all()


def test_cases_that_the_boxes_nearly_fill_are_left_out(make_batch, cams):
    # 20 x 20: 340 pixels are exactly 85 %, one pixel more is left out.
    batch = make_batch((20, 20), [[[0, 0, 20, 17]], [[0, 0, 20, 17], [0, 17, 1, 18]]])
    result = coverage.box_coverage(cams(2, 20, 20), batch)
    for name, values in result.items():
        assert values[1].isnan().all()
        assert values[0].isnan() if name in ("min_coverage", "evenness") else values[0].isfinite().all(), name
    assert coverage.box_coverage(cams(2, 20, 20), batch, max_area=1)["coverage"].isfinite().all()
