"""The order of positions: by value, ties at random but always alike; and expectations over all orders of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from metrics import coverage, pointing, ranking

SIZES = [(1, 1), (1, 7), (5, 3), (6, 11)]


@pytest.mark.parametrize("size", SIZES)
def test_positions_stand_by_value(maps, size):
    for name, heatmap in maps(*size).items():
        (positions,) = ranking.order(heatmap[None], ["a"])
        assert sorted(positions.tolist()) == list(range(heatmap.numel())), name
        values = heatmap.flatten()[positions]
        assert bool((values[1:] <= values[:-1]).all()), name
        rank = ranking.ranks(positions[None])[0]
        assert rank[positions].tolist() == list(range(heatmap.numel())), name


def test_ties_follow_from_the_case_alone(cams):
    heatmaps = cams(3, 12, 15)
    ids = ["a", "b", "c"]
    together = ranking.order(heatmaps, ids)
    for i, case in enumerate(ids):
        assert torch.equal(ranking.order(heatmaps[i : i + 1], [case])[0], together[i])
    assert torch.equal(ranking.order(heatmaps * 8, ids), together)
    # Positions that tie in two maps of a case stand in the same order in both.
    zeros = ranking.order(torch.zeros(1, 12, 15), ["a"])[0].tolist()
    tied = (heatmaps[0].flatten() == 0).nonzero()[:, 0].tolist()
    assert [p for p in together[0].tolist() if p in tied] == [p for p in zeros if p in tied]
    assert not torch.equal(ranking.order(heatmaps[:1], ["b"])[0], together[0])


def test_no_place_of_the_picture_is_preferred_among_ties():
    size, n = (6, 8), 3000
    ranks = ranking.ranks(ranking.order(torch.zeros(n, *size), [f"case {i}" for i in range(n)])).double()
    positions = size[0] * size[1]
    error = np.sqrt((positions**2 - 1) / 12 / n)  # of the mean of a uniform rank
    assert float((ranks.mean(0) - (positions - 1) / 2).abs().max()) < 4.5 * error


def test_expected_counts_equal_the_mean_over_all_orders_of_ties():
    heatmap = np.array([3.0, 1, 1, 2, 1, 1, 0])
    members = np.array([[1, 1, 0, 0, 1, 0, 0], [0, 0, 1, 1, 0, 0, 1]], dtype=bool)
    counts = list(range(8))
    orders = {
        tuple(sorted(range(7), key=lambda p, order=order: (-heatmap[p], order.index(p))))
        for order in permutations(range(7))
    }
    brute = np.mean([[[sum(row[list(o[:k])]) for k in counts] for row in members] for o in orders], axis=0)
    ranked = torch.sort(torch.tensor(heatmap), descending=True, stable=True)
    own = ranking.expected_counts(ranked.values, torch.from_numpy(members)[:, ranked.indices], counts)
    np.testing.assert_allclose(own.numpy(), brute, atol=1e-12)


def orders_of_ties(heatmap, number, seed=0):
    """Maps of the same order whose ties are broken at random."""
    generator = torch.Generator().manual_seed(seed)
    levels = heatmap.flatten().unique(return_inverse=True)[1].view(heatmap.shape).double()
    return levels + torch.rand(number, *heatmap.shape, generator=generator, dtype=torch.float64) / 2


@pytest.mark.parametrize("kind", ["zero", "half zero", "three levels"])
def test_closed_forms_equal_the_mean_over_random_orders_of_ties(make_batch, cams, kind):
    size, n = (14, 17), 1500
    boxes = [[1, 1, 6, 7], [9, 6, 16, 13], [5, 2, 8, 9]]
    heatmap = {
        "zero": torch.zeros(size),
        "half zero": cams(1, *size)[0],
        "three levels": (cams(1, *size)[0] * 4).floor().clamp(max=2),
    }[kind]
    mixed = orders_of_ties(heatmap, n)
    one, many = make_batch(size, [boxes]), make_batch(size, [boxes] * n)
    for metric, names in (
        (coverage.box_coverage, ["coverage", "purity", "curve_area", "instance_recall_25", "instance_recall_50"]),
        (coverage.relevance, ["rank", "top_k"]),
        (pointing.pointing_game, ["hit"]),
    ):
        options = {"k": 40} if metric is coverage.relevance else {"tolerance": 2} if "hit" in names else {}
        exact, drawn = metric(heatmap[None], one, **options), metric(mixed, many, **options)
        for name in names:
            error = drawn[name].double().std().item() / np.sqrt(n)
            assert abs(drawn[name].double().mean().item() - exact[name].item()) < 4 * error + 1e-9, name
