"""Box coverage against loops over pixels, its extremes and its chance level."""

import math

import numpy as np
import pytest
import torch

from metrics import coverage

SCALARS = [
    "coverage", "min_coverage", "instance_recall_25", "instance_recall_50", "instance_recall_75", "purity",
    "evenness", "curve_area",
]  # fmt: skip


def brute(heatmap, boxes, max_area=0.85):
    """DESIGN section 6, with sets of positions."""
    height, width = heatmap.shape
    instances = []
    for x0, y0, x1, y1 in boxes:
        pixels = {(y, x) for y in range(height) for x in range(width) if x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1}
        if pixels:
            instances.append(pixels)
    union = set().union(*instances)
    if not instances or len(union) > max_area * height * width:
        return None
    ranked = sorted(((y, x) for y in range(height) for x in range(width)), key=lambda p: (-float(heatmap[p]), *p))

    def covered(count):
        top = set(ranked[:count])
        return [len(top & pixels) / len(pixels) for pixels in instances]

    values = covered(len(union))
    energy = [sum(max(float(heatmap[p]), 0) for p in sorted(pixels)) for pixels in instances]
    if len(instances) == 1:
        evenness = 1.0
    elif sum(energy) == 0:
        evenness = 0.0
    else:
        shares = [e / sum(energy) for e in energy]
        evenness = -sum(s * math.log(s) for s in shares if s) / math.log(len(instances))
    counts = [i * height * width // 20 for i in range(21)]
    curve = [np.mean(covered(count)) for count in counts]
    area = np.trapezoid(curve, np.array(counts) / (height * width))
    return {
        "coverage": np.mean(values),
        "min_coverage": min(values),
        "instance_recall_25": np.mean([v >= 0.25 for v in values]),
        "instance_recall_50": np.mean([v >= 0.5 for v in values]),
        "instance_recall_75": np.mean([v >= 0.75 for v in values]),
        "purity": len(set(ranked[: len(union)]) & union) / len(union),
        "evenness": evenness,
        "coverage_curve": curve[1:],
        "curve_area": area,
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
        expected = brute(heatmap, BOXES[name])
        for key, values in result.items():
            if expected is None:
                assert values[i].isnan().all()
            else:
                assert np.allclose(values[i], expected[key], atol=1e-5), (map_name, key)


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
        expected = brute(heatmaps[i], boxes[i])
        alone = coverage.box_coverage(heatmaps[i : i + 1], make_batch((22, 31), boxes[i : i + 1]))
        for key, values in result.items():
            assert np.allclose(values[i], expected[key], atol=1e-5), key
            assert torch.equal(alone[key][0], values[i])
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
    # The small box is shown whole; the other gets what the tie order leaves: rows 0 to 2 and more, above or beside it.
    assert result["instance_recall_75"][2] == 0.5 and result["min_coverage"][2] < 0.25
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
    for values in result.values():
        assert values[0].isfinite().all() and values[1].isnan().all()
    assert coverage.box_coverage(cams(2, 20, 20), batch, max_area=1)["coverage"].isfinite().all()
