"""Sensitivity-n against a loop over its random sets, and on a linear model."""

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
        if np.ptp(values.numpy()) == 0:
            assert result[i] == 0, name
        elif np.ptp(sums) < 1e-9:
            assert result[i].isnan(), name
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
    one = make_batch((1, 1), n=1)
    result = sensitivity.sensitivity_n(torch.ones(1, 1, 1), one, score=Linear(torch.ones(1, 1, 1)))
    assert result["correlation"] == 0
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
