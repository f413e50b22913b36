"""Intersection over union of a mask and as many of the highest positions: loops, ties, chance, ignored regions."""

import itertools
import math

import numpy as np
import pytest
import torch

from metrics import coverage


def masks_of(size):
    """A ring, a diagonal, one pixel and everything."""
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    distance = (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2
    limit = min(size) ** 2 / 6
    return {
        "ring": (distance < limit) & (distance > limit / 4),
        "diagonal": (y - x).abs() < 2,
        "pixel": (y == size[0] - 1) & (x == 0),
        "all": torch.ones(size, dtype=torch.bool),
    }


def slow_iou(heatmap, mask, counted):
    """By the definition of a random order of ties: a hypergeometric sum from factorials, position by position."""
    values = sorted(
        (
            (float(v), bool(m))
            for v, m, c in zip(heatmap.flatten(), mask.flatten(), counted.flatten(), strict=True)
            if c
        ),
        key=lambda pair: -pair[0],
    )
    budget = sum(member for _, member in values)
    edge = values[budget - 1][0]
    sure = [member for value, member in values if value > edge]
    tied = [member for value, member in values if value == edge]
    left, inside = budget - len(sure), sum(tied)
    total = math.comb(len(tied), left)
    expected = 0.0
    for hits in range(max(0, left - (len(tied) - inside)), min(inside, left) + 1):
        ways = math.comb(inside, hits) * math.comb(len(tied) - inside, left - hits)
        common = sum(sure) + hits
        expected += ways / total * common / (2 * budget - common)
    return expected


@pytest.mark.parametrize("size", [(9, 12), (20, 13)])
def test_equals_the_slow_one(make_batch, maps, size):
    named = maps(*size)
    seen = set()
    for kind, mask in masks_of(size).items():
        batch = make_batch(size, [[[0, 0, size[1], size[0]]]] * len(named), masks=[mask[None]] * len(named))
        batch.ignore = [torch.tensor([[1.0, 0, 4, 5]])] * len(named)
        counted = torch.ones(size, dtype=torch.bool)
        counted[0:5, 1:4] = False
        measured = coverage.mask_iou(torch.stack(list(named.values())), batch)["iou"]
        for i, (name, heatmap) in enumerate(named.items()):
            expected = slow_iou(heatmap.double(), mask, counted | mask)
            assert measured[i].item() == pytest.approx(expected, abs=1e-6), (kind, name)
            seen.add(round(expected, 3))
    assert len(seen) > 15


def test_is_the_mean_over_all_orders_of_the_ties(make_batch):
    """Four positions, two of them tied at the edge of the budget: every order by hand."""
    heatmap = torch.tensor([[3.0, 1, 1, 1, 0, 0]])
    mask = torch.tensor([[True, True, False, False, True, False]])
    batch = make_batch((1, 6), [[[0, 0, 6, 1]]], masks=[mask[None]])
    values = []
    for chosen in itertools.permutations([1, 2, 3], 2):
        highest = {0, *chosen}
        truth = {0, 1, 4}
        values.append(len(highest & truth) / len(highest | truth))
    assert coverage.mask_iou(heatmap[None], batch)["iou"].item() == pytest.approx(np.mean(values), abs=1e-6)


def test_extremes_and_instances(make_batch):
    """The mask itself 1, its complement 0; two instances are one mask; without masks there is no value."""
    size = (20, 30)
    first, second = torch.zeros(2, *size, dtype=torch.bool)
    first[2:8, 3:11], second[10:18, 20:29] = True, True
    union = first | second
    boxes = [[[3, 2, 11, 8], [20, 10, 29, 18]]] * 4
    batch = make_batch(size, boxes, masks=[torch.stack([first, second])] * 3 + [None])
    measured = coverage.mask_iou(torch.stack([union.float(), (~union).float(), first.float(), union.float()]), batch)[
        "iou"
    ]
    assert measured[:2].tolist() == [1, 0] and measured[3].isnan()
    share = first.sum() / union.sum()
    # The first instance, and of the tied rest a share that follows from chance: more than without any of it.
    assert share / (2 - share) < measured[2] < 0.5
    empty = make_batch(size, boxes[:1], masks=[torch.zeros(2, *size, dtype=torch.bool)])
    assert coverage.mask_iou(union[None].float(), empty)["iou"].isnan().all()


def test_follows_rank_accuracy_and_no_scale(make_batch, maps):
    size = (20, 13)
    mask = masks_of(size)["ring"]
    named = {k: v for k, v in maps(*size).items() if v.unique().numel() == v.numel()}
    heatmaps = torch.stack(list(named.values()))
    batch = make_batch(size, [[[0, 0, 13, 20]]] * len(named), masks=[mask[None]] * len(named))
    iou, rank = coverage.mask_iou(heatmaps, batch)["iou"], coverage.relevance(heatmaps, batch)["rank"]
    torch.testing.assert_close(iou, rank / (2 - rank))
    cubes = coverage.mask_iou(heatmaps.double() ** 3, batch)["iou"]
    torch.testing.assert_close(cubes, iou)
    assert len(named) > 0


def test_uniform_and_random_maps(make_batch):
    """A constant map scores the mean of random maps, near s / (2 - s)."""
    size, n = (30, 40), 400
    mask = masks_of(size)["ring"]
    batch = make_batch(size, [[[0, 0, 40, 30]]] * n, masks=[mask[None]] * n)
    drawn = coverage.mask_iou(torch.rand(n, *size, generator=torch.Generator().manual_seed(0)), batch)["iou"]
    flat = coverage.mask_iou(torch.full((n, *size), 0.4), batch)["iou"]
    assert (flat == flat[0]).all()
    assert abs(drawn.mean() - flat[0]) < 4 * drawn.std() / math.sqrt(n)
    share = mask.float().mean()
    assert flat[0].item() == pytest.approx((share / (2 - share)).item(), rel=0.02)


def test_thousands_of_tied_positions_have_the_mean_of_random_maps(make_batch):
    """A constant map of 224x224 over a mask of 48x48."""
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[0, 20:68, 30:78] = True
    batch = make_batch((224, 224), [[[30, 20, 78, 68]]], masks=[mask])
    constant = coverage.mask_iou(torch.ones(1, 224, 224), batch)["iou"].item()
    generator = torch.Generator().manual_seed(0)
    drawn = [coverage.mask_iou(torch.rand(1, 224, 224, generator=generator), batch)["iou"].item() for _ in range(100)]
    assert constant == pytest.approx(np.mean(drawn), abs=0.001)
