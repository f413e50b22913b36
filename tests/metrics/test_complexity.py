"""Sparseness and complexity against slow definitions and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from metrics import masking


def slow_gini(values):
    """Mean absolute difference of all pairs over twice the mean: the definition without sorting."""
    values = np.abs(np.asarray(values, np.float64))
    if values.sum() == 0:
        return 0.0
    return np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())


@pytest.mark.parametrize("size", [(9, 14), (1, 1), (1, 7)])
def test_equals_the_definitions(maps, size):
    named = maps(*size)
    heatmaps = torch.stack(list(named.values()))
    gini = masking.sparseness(heatmaps, None)["gini"]
    both = masking.complexity(heatmaps, None)
    for i, (name, heatmap) in enumerate(named.items()):
        values = heatmap.double().flatten().numpy()
        assert gini[i].item() == pytest.approx(slow_gini(values), abs=1e-5), name
        uniform = values if np.abs(values).sum() else np.ones_like(values)
        assert both["entropy"][i].item() == pytest.approx(scipy.stats.entropy(np.abs(uniform)), abs=1e-4), name
        span = values.max() - values.min()
        mean = ((values - values.min()) / span).mean() if span else 1
        assert both["mean"][i].item() == pytest.approx(mean, abs=1e-5), name


def test_closed_forms():
    one = torch.zeros(1, 10, 20)
    one[0, 3, 4] = 5
    half = torch.zeros(1, 10, 20)
    half[0, :5] = 2
    assert masking.sparseness(one, None)["gini"].item() == pytest.approx(1 - 1 / 200, abs=1e-6)
    assert masking.sparseness(half, None)["gini"].item() == pytest.approx(0.5, abs=1e-6)
    assert masking.complexity(one, None)["entropy"].item() == pytest.approx(0, abs=1e-6)
    assert masking.complexity(half, None)["entropy"].item() == pytest.approx(math.log(100), abs=1e-5)
    assert masking.complexity(half, None)["mean"].item() == pytest.approx(0.5, abs=1e-6)


def test_order_of_positions_and_scale_do_not_matter(cams):
    heatmaps = cams(4, 16, 11)
    moved = heatmaps.flatten(1)[:, torch.randperm(176, generator=torch.Generator().manual_seed(0))].view(4, 11, 16)
    for metric in (masking.sparseness, masking.complexity):
        for key, values in metric(heatmaps, None).items():
            assert torch.allclose(metric(moved, None)[key], values, atol=1e-5)
            assert torch.allclose(metric(heatmaps * 1e30, None)[key], values, atol=1e-5)
