"""Coherency, ADCC and ARCC with a toy method that can be asked again."""

import numpy as np
import pytest
import scipy.stats
import torch

from metrics import masking, road


def explain(images):
    """A method that looks at the image: local energy."""
    return torch.nn.functional.avg_pool2d(images.square().sum(1, keepdim=True), 3, 1, 1)[:, 0]


def slow(heatmap, image):
    mask = (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())
    again = explain((image * mask.float())[None])[0]
    return (scipy.stats.pearsonr(heatmap.flatten().numpy(), again.flatten().numpy()).statistic + 1) / 2


@pytest.mark.parametrize("size", [(9, 12), (12, 5)])
def test_coherency_equals_the_formula(make_batch, maps, size):
    named = maps(*size)
    batch = make_batch(size, n=len(named) + 2)
    heatmaps = torch.cat([torch.stack(list(named.values())), explain(batch.images[-2:])])
    result = masking.coherency(heatmaps, batch, explain=explain)["coherency"]
    for i, name in enumerate([*named, "own", "own"]):
        expected = 0 if name in ("zero", "constant") else slow(heatmaps[i].double(), batch.images[i])
        assert result[i].item() == pytest.approx(expected, abs=1e-4), name


def test_coherency_extremes(make_batch, cams):
    batch, heatmaps = make_batch((9, 12), n=3), cams(3, 9, 12)
    heatmaps[2] = 0.5
    same = masking.coherency(heatmaps, batch, explain=lambda images: 3 * heatmaps)["coherency"]
    assert same.tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    opposite = masking.coherency(heatmaps, batch, explain=lambda images: -heatmaps)["coherency"]
    assert opposite.tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    none = masking.coherency(heatmaps, batch, explain=lambda images: torch.zeros_like(heatmaps))["coherency"]
    assert none.tolist() == [0, 0, 0]


def test_harmonic_means(make_batch, make_scorer, network, cams):
    batch, heatmaps = make_batch((9, 12), n=6), cams(6, 9, 12)
    heatmaps[5] = 0
    score = make_scorer(network, batch.targets)
    coherent = masking.coherency(heatmaps, batch, explain=explain)["coherency"].numpy()
    simple = 1 - masking.complexity(heatmaps, batch)["mean"].numpy()
    kept = 1 - masking.average_drop(heatmaps, batch, score=score)["drop"].numpy()
    shares = (0.2, 0.4, 0.6, 0.8)
    removal = road.road(heatmaps, batch, score=score, shares=shares)
    removed = np.clip((removal["lerf"] - removal["morf"]).numpy(), 0, 1)
    adcc = masking.adcc(heatmaps, batch, score=score, explain=explain)["adcc"]
    arcc = masking.arcc(heatmaps, batch, score=score, explain=explain)["arcc"]
    assert (removed > 0).any() and (removed == 0).any()
    for i in range(6):
        for result, third in ((adcc, kept[i]), (arcc, removed[i])):
            parts = np.array([coherent[i], simple[i], third])
            expected = scipy.stats.hmean(parts) if (parts > 0).all() else 0
            assert result[i].item() == pytest.approx(expected, abs=1e-5)
    assert adcc[5] == 0 and arcc[5] == 0
