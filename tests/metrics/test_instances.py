"""One-to-one matching of boxes cut from the map against all permutations, and its extremes."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from metrics import instances


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / sum([(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)], -common)


def parts(heatmap, threshold):
    """Boxes and sums of the 8-connected parts, by flood fill."""
    values = heatmap.double().numpy()
    values = values - values.min()
    values = values / values.max() if values.max() > 0 else values
    left = {tuple(p) for p in np.argwhere(values > threshold).tolist()}
    found = []
    while left:
        front, part = [left.pop()], []
        while front:
            y, x = front.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        ys, xs = zip(*part, strict=True)
        found.append(((min(xs), min(ys), max(xs) + 1, max(ys) + 1), sum(values[p] for p in part)))
    return found


def most_pairs(boxes, truth, at):
    """Largest one-to-one matching by trying all."""
    for size in range(min(len(boxes), len(truth)), 0, -1):
        for some in combinations(range(len(boxes)), size):
            for others in permutations(range(len(truth)), size):
                if all(iou(boxes[i], truth[j]) >= at for i, j in zip(some, others, strict=True)):
                    return size
    return 0


def average_precision(found, truth, at):
    free, hits = set(range(len(truth))), []
    for box, _ in sorted(found, key=lambda f: -f[1]):
        fits = [j for j in free if iou(box, truth[j]) >= at]
        hits.append(bool(fits))
        if fits:
            free.remove(max(fits, key=lambda j, box=box: iou(box, truth[j])))
    total = 0.0
    for i, hit in enumerate(hits):
        if hit:
            total += max(sum(hits[: k + 1]) / (k + 1) for k in range(i, len(hits)))
    return total / len(truth)


@pytest.mark.parametrize("at", [0.1, 0.5])
def test_equals_trying_all_matchings(make_batch, cams, maps, at):
    size = (18, 26)
    named = {k: v for k, v in maps(*size).items() if k not in ("mixed signs",)}
    named |= {f"cam {i}": cam for i, cam in enumerate(cams(4, *size, seed=5))}
    boxes = [[1.5, 2, 11, 9.5], [3, 1, 14, 10], [17, 8, 25, 17]]
    batch = make_batch(size, [boxes] * len(named))
    thresholds = (0.1, 0.4, 0.6, 0.9)
    result = instances.instance_boxes(
        torch.stack(list(named.values())), batch, threshold=0.4, iou=at, thresholds=thresholds
    )
    seen = set()
    for i, (name, heatmap) in enumerate(named.items()):
        for k, threshold in enumerate(thresholds):
            found = parts(heatmap, threshold)
            pairs = most_pairs([box for box, _ in found], boxes, at)
            seen.add(pairs)
            assert result["recall_curve"][i, k].item() == pytest.approx(pairs / 3), name
            assert result["precision_curve"][i, k].item() == pytest.approx(pairs / len(found) if found else 0), name
            assert result["f1_curve"][i, k].item() == pytest.approx(2 * pairs / (len(found) + 3)), name
        for key in ("recall", "precision", "f1"):
            assert result[key][i] == result[f"{key}_curve"][i, 1]
        assert result["average_precision"][i].item() == pytest.approx(
            average_precision(parts(heatmap, 0.4), boxes, at), abs=1e-6
        ), name
    assert len(seen) > 1


def test_one_blob_over_three_objects_finds_one_at_most(make_batch):
    boxes = [[2, 2, 8, 8], [9, 2, 15, 8], [16, 2, 22, 8]]
    heatmaps = torch.zeros(4, 20, 30)
    heatmaps[0, 2:8, 2:22] = 1
    for x0, y0, x1, y1 in boxes:
        heatmaps[1, y0:y1, x0:x1] = 1
    heatmaps[2] = 1 - heatmaps[1]
    result = instances.instance_boxes(heatmaps, make_batch((20, 30), [boxes] * 4), iou=0.3)
    assert result["recall"].tolist() == pytest.approx([1 / 3, 1, 0, 0])
    assert result["precision"].tolist() == pytest.approx([1, 1, 0, 0])
    assert result["average_precision"].tolist() == pytest.approx([1 / 3, 1, 0, 0])


def test_ranking_decides_average_precision(make_batch):
    heatmap = torch.zeros(1, 20, 30)
    heatmap[0, 2:8, 2:8] = 1  # the object: 36 positions of 1
    heatmap[0, 12:18, 12:20] = 0.9  # no object, more energy
    wrong_first = instances.instance_boxes(heatmap, make_batch((20, 30), [[[2, 2, 8, 8]]]))
    assert wrong_first["average_precision"].item() == pytest.approx(0.5) and wrong_first["recall"] == 1
    heatmap[0, 12:18, 12:20] = 0
    heatmap[0, 12:16, 12:18] = 0.9  # less energy
    right_first = instances.instance_boxes(heatmap, make_batch((20, 30), [[[2, 2, 8, 8]]]))
    assert right_first["average_precision"].item() == 1 and right_first["precision"].item() == 0.5


def test_no_boxes_edges_and_bad_parameters(make_batch):
    heatmaps = torch.rand(2, 10, 12, generator=torch.Generator().manual_seed(0))
    result = instances.instance_boxes(heatmaps, make_batch((10, 12), [[], [[40, 40, 50, 50]]]))
    assert all(values.isnan().all() for values in result.values())
    # Boxes are cut to the image, and have exclusive ends: off by one pixel is seen.
    heatmap = torch.zeros(1, 10, 12)
    heatmap[0, :4, :5] = 1
    for box, expected in (([-3, -3, 5, 4], 1), ([0, 0, 6, 4], 0), ([0, 0, 5, 5], 0), ([1, 0, 5, 4], 0)):
        result = instances.instance_boxes(heatmap, make_batch((10, 12), [[box]]), iou=0.9)
        assert result["recall"].item() == expected, box
    for bad in ({"threshold": 1.0}, {"iou": 0}, {"thresholds": (-0.1,)}):
        with pytest.raises(ValueError, match="instance_boxes"):
            instances.instance_boxes(heatmaps, make_batch((10, 12), n=2), **bad)
    one = instances.instance_boxes(torch.ones(1, 1, 1), make_batch((1, 1), [[[0, 0, 1, 1]]]))
    assert one["recall"].item() == 0


def test_boxes_of_equal_mass_are_ranked_by_lot(make_batch):
    """Two equal squares, the object on one of them: as often first as second, whichever of the two it is."""
    heatmap = torch.zeros(20, 20)
    heatmap[2:6, 3:9] = heatmap[12:16, 3:9] = 0.7
    for top in (2, 12):
        batch = make_batch((20, 20), [[[3.0, float(top), 9.0, float(top + 4)]]] * 60)
        batch.ids = [f"case {i}" for i in range(60)]
        values = instances.instance_boxes(heatmap.expand(60, -1, -1), batch)["average_precision"]
        assert set(values.tolist()) == {0.5, 1.0}
        assert 0.6 < values.mean() < 0.9  # .75 on average; the mean of 60 has a deviation of .03
