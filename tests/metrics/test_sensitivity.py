"""Sensitivity-n against a loop over its random sets, and on a linear model; planted truth against a slow one."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from torch.profiler import ProfilerActivity, profile

from metrics import sensitivity


class Linear:
    """Score = sum of weights times pixels; remembers which positions were replaced by zeros."""

    batch_size = 4

    def __init__(self, weights):
        self.weights, self.shared, self.seen = weights, {}, []

    def __call__(self, images, cases):
        self.seen += [(int(c), (image == 0).all(0)) for image, c in zip(images, cases, strict=True)]
        return (images * self.weights[cases][:, None]).sum((1, 2, 3))

    def once(self, key, function):
        if key not in self.shared:
            self.shared[key] = function()
        return self.shared[key]


@pytest.mark.parametrize(("size", "cell"), [((8, 12), 4), ((7, 10), 3), ((5, 6), 1)])
def test_equals_a_loop_over_the_drawn_sets(make_batch, maps, size, cell):
    named = maps(*size)
    n = len(named)
    batch, heatmaps = make_batch(size, n=n), torch.stack(list(named.values()))
    weights = torch.randn(n, *size, generator=torch.Generator().manual_seed(0))
    score = Linear(weights)
    result = sensitivity.sensitivity_n(heatmaps, batch, score=score, subsets=20, cell=cell)["correlation"]
    for i, name in enumerate(named):
        sets = [gone for case, gone in score.seen if case == i and gone.any()]
        assert len(sets) == 20
        values = heatmaps[i].double() / heatmaps[i].double().abs().max().clamp(min=1e-300)
        sums = [values[gone].sum().item() for gone in sets]
        drops = [(batch.images[i] * weights[i])[:, gone].sum().item() for gone in sets]
        if np.ptp(values.numpy()) == 0 or np.ptp(sums) < 1e-9:  # the map tells no set from another
            assert result[i] == 0, name
        else:
            assert result[i].item() == pytest.approx(scipy.stats.pearsonr(sums, drops).statistic, abs=1e-3), name
        # Sets are unions of whole cells, a quarter of them.
        cells = (np.arange(size[0]) // cell)[:, None] * 100 + np.arange(size[1]) // cell
        for gone in sets:
            chosen = np.unique(cells[gone.numpy()])
            assert np.isin(cells, chosen).sum() == gone.sum()
            assert len(chosen) == round(0.25 * len(np.unique(cells)))


def test_true_attribution_of_a_linear_model_is_perfect(make_batch):
    batch = make_batch((8, 12), n=2)
    weights = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    truth = (batch.images * weights[:, None]).sum(1)
    for heatmaps, expected in ((truth, 1), (-truth, -1), (5 * truth + 3, 1)):
        result = sensitivity.sensitivity_n(heatmaps, batch, score=Linear(weights), cell=4)["correlation"]
        assert result.tolist() == pytest.approx([expected] * 2, abs=1e-3)


def test_all_methods_share_the_passes_and_sets_depend_on_the_case_only(make_batch, cams):
    batch, weights = make_batch((8, 12), n=2), torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0))
    score = Linear(weights)
    first = sensitivity.sensitivity_n(cams(2, 8, 12), batch, score=score, subsets=10, cell=4)["correlation"]
    paid = len(score.seen)
    assert paid == 2 * 10 + 2
    sensitivity.sensitivity_n(cams(2, 8, 12, seed=1), batch, score=score, subsets=10, cell=4)
    assert len(score.seen) == paid
    alone = make_batch((8, 12), n=1)
    alone.images, alone.ids = batch.images[1:], batch.ids[1:]
    single = sensitivity.sensitivity_n(cams(2, 8, 12)[1:], alone, score=Linear(weights[1:]), subsets=10, cell=4)
    assert single["correlation"][0].item() == pytest.approx(first[1].item(), abs=1e-5)


def test_undefined_and_bad_parameters(make_batch, cams):
    batch, weights = make_batch((8, 12), n=1), torch.zeros(1, 8, 12)
    assert sensitivity.sensitivity_n(cams(1, 8, 12), batch, score=Linear(weights), cell=4)["correlation"].isnan().all()
    flat = torch.ones(1, 8, 12)
    assert sensitivity.sensitivity_n(flat, batch, score=Linear(weights + 1), cell=4)["correlation"] == 0
    one = make_batch((1, 1), n=1)  # a single set: no drop differs
    result = sensitivity.sensitivity_n(torch.ones(1, 1, 1), one, score=Linear(torch.ones(1, 1, 1)))
    assert result["correlation"].isnan()
    for bad in ({"share": 1.0}, {"subsets": 2}, {"cell": 0}):
        with pytest.raises(ValueError, match="sensitivity_n"):
            sensitivity.sensitivity_n(cams(1, 8, 12), batch, score=Linear(weights), **bad)


@pytest.mark.parametrize("cell", [1, 5])
def test_single_pixels_of_a_whole_picture_take_little_memory(make_batch, cams, cell):
    """A matrix of all pixels by all cells would be 20 GB."""
    batch, heatmaps = make_batch((224, 224), n=2), cams(2, 224, 224)
    score = Linear(torch.ones(2, 224, 224))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = sensitivity.sensitivity_n(heatmaps, batch, score=score, subsets=5, cell=cell)["correlation"]
    assert result.isfinite().all()
    largest = max(event.self_cpu_memory_usage for event in profiled.events())
    assert 0 < largest < 100 * 2**20


TRUTH_PARTS = [[2, 2, 10, 10], [20, 4, 28, 12], [36, 20, 44, 28], [4, 24, 12, 32]]


def slow_truth(heatmap, parts, values, margin, least):
    """`planted_truth` of one map, pixel by pixel and pair by pair."""
    energy, anywhere, total = [0.0] * len(parts), 0.0, 0.0
    for y, row in enumerate(heatmap.tolist()):
        for x, value in enumerate(row):
            value = max(value, 0.0)
            total += value
            inside = [
                x0 - margin <= x + 0.5 < x1 + margin and y0 - margin <= y + 0.5 < y1 + margin
                for x0, y0, x1, y1 in parts
            ]
            anywhere += value * any(inside)
            energy = [e + value * i for e, i in zip(energy, inside, strict=True)]
    top = max(map(abs, values))
    pairs = [(i, j) for i, a in enumerate(values) for j, b in enumerate(values) if a - b > 0.05 * top]
    speaks = [i for i, v in enumerate(values) if v > 1e-3 * top]
    shown, worth = sum(energy[i] for i in speaks), sum(values[i] for i in speaks)
    shares = {i: (energy[i] / shown, values[i] / worth) for i in speaks}
    return {
        "rank": sum((energy[i] > energy[j]) + 0.5 * (energy[i] == energy[j]) for i, j in pairs) / len(pairs),
        "match": 1 - sum(abs(e - v) for e, v in shares.values()) / 2,
        "leak": sum(e for e, v in zip(energy, values, strict=True) if abs(v) <= 1e-3 * top) / sum(energy),
        "against": sum(e for e, v in zip(energy, values, strict=True) if v < -1e-3 * top) / sum(energy),
        "missed": sum(e < least * v for e, v in shares.values()) / len(speaks),
        "outside": 1 - anywhere / total,
    }


def truth_batch(parts, values, n=1):
    return SimpleNamespace(parts=[torch.tensor(parts).float()] * n, values=[torch.tensor(values).float()] * n)


@pytest.mark.parametrize("margin", [0, 2.5])
def test_planted_truth_equals_a_slow_one(margin):
    values = [2.0, 1.0, -0.7, 0.0]
    maps = torch.randn(6, 40, 52, generator=torch.Generator().manual_seed(1)) ** 3
    maps[0, 2:10, 2:10] = 0  # a part that is missed
    result = sensitivity.planted_truth(maps, truth_batch(TRUTH_PARTS, values, 6), margin=margin)
    for i, heatmap in enumerate(maps):
        expected = slow_truth(heatmap, TRUTH_PARTS, values, margin, 0.25)
        assert {name: result[name][i].item() for name in result} == pytest.approx(expected, abs=1e-5)
    assert result["missed"][0] > 0 or margin


def test_planted_truth_of_the_truth_and_of_faults():
    values = [2.0, 1.0, -0.7, 0.0]
    batch, right = truth_batch(TRUTH_PARTS, values), torch.zeros(40, 52)
    for (x0, y0, x1, y1), value in zip(TRUTH_PARTS, values, strict=True):
        right[y0:y1, x0:x1] = value
    best = {"rank": 1, "match": 1, "leak": 0, "against": 0, "missed": 0, "outside": 0}

    def measured(heatmap):
        return {name: value[0].item() for name, value in sensitivity.planted_truth(heatmap[None], batch).items()}

    assert measured(right) == pytest.approx(best | {"rank": 5.5 / 6})  # energy is never negative: the last two tie
    assert measured(7 * right) == pytest.approx(measured(right))
    flipped = measured(-right)
    assert flipped["against"] == 1 and flipped["match"] == 0 and flipped["missed"] == 1 and flipped["rank"] < 0.5
    assert measured(right.flip(1))["match"] < 0.9  # left is not right
    leaking = right.clone()
    leaking[24:32, 4:12] = 3.0
    assert measured(leaking)["leak"] == pytest.approx(0.5)
    blind = right.clone()
    blind[4:12, 20:28] = 0
    assert measured(blind)["missed"] == 0.5 and measured(blind)["match"] == pytest.approx(2 / 3)
    uniform = measured(torch.ones(40, 52))
    assert uniform["outside"] == pytest.approx(1 - 4 * 16 * 16 / 40 / 52, abs=0.1)
    assert measured(torch.zeros(40, 52)) == uniform  # a map that says nothing


def test_planted_truth_in_a_volume():
    """A box is x, y, z first; the map's axes are z, y, x."""
    batch = truth_batch([[1, 2, 3, 4, 6, 9], [10, 9, 8, 12, 11, 10]], [1.0, 0.0])
    right = torch.zeros(1, 12, 13, 14)
    right[0, 3:9, 2:6, 1:4] = 1
    result = sensitivity.planted_truth(right, batch, margin=0)
    assert result["match"] == 1 and result["leak"] == 0 and result["outside"] == 0 and result["rank"] == 1
    right[0, 3:9, 2:6, 4:7] = 1
    assert sensitivity.planted_truth(right, batch, margin=0)["outside"] == 0.5


def test_planted_truth_without_parts_is_not_defined():
    batch = SimpleNamespace(parts=[torch.zeros(0, 4)], values=[torch.zeros(0)])
    for one in (batch, SimpleNamespace(parts=[], values=[])):
        result = sensitivity.planted_truth(torch.rand(1, 8, 8), one)
        assert all(value.isnan().all() for value in result.values())
