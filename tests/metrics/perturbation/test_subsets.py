"""Infidelity and faithfulness correlation against loops over the random sets."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from metrics import baselines, sensitivity
from metrics.perturbation.subsets import faithfulness_correlation, infidelity


class Seen:
    """A scorer that remembers which images it saw."""

    batch_size = 4
    maps = None

    def __init__(self, probability):
        self.probability, self.shared, self.seen = probability, {}, []

    def __call__(self, images, cases):
        self.seen += list(zip(cases.tolist(), images, strict=True))
        values = [self.probability(int(c), image) for c, image in zip(cases, images, strict=True)]
        return torch.tensor(values, dtype=torch.float64)

    def once(self, key, function):
        if key not in self.shared:
            self.shared[key] = function()
        return self.shared[key]


def sets_and_drops(s, score, i):
    """Places of each set that a case lost, by the images that were scored, and what it lost."""
    image, clean = s.batch.images[i], s.probability(i, s.batch.images[i])
    drawn = []
    for case, other in score.seen:
        gone = (other != image).any(0)
        if case == i and gone.any():
            drawn.append((gone, clean - s.probability(i, other)))
    return drawn


@pytest.mark.parametrize(("size", "cell"), [((8, 12), 4), ((7, 10), 3), ((5, 6), 1)])
@pytest.mark.parametrize("baseline", ["zero", "noise"])
def test_infidelity_equals_a_loop_over_sets(scene, size, cell, baseline):
    s = scene(size)
    score = Seen(s.probability)
    result = infidelity(s.maps, s.batch, score=score, subsets=20, cell=cell, baseline=baseline)
    for i, name in enumerate(s.names):
        drawn = sets_and_drops(s, score, i)
        assert len(drawn) == 20
        flat = s.maps[i].max() == s.maps[i].min()
        values = torch.ones(size).double() if flat else s.maps[i].double() / s.maps[i].double().abs().max()
        pairs = [(sum(values[y, x].item() for y, x in gone.nonzero().tolist()), drop) for gone, drop in drawn]
        square = sum(total**2 for total, _ in pairs)
        beta = max(0.0, sum(total * drop for total, drop in pairs) / square) if square else 0.0
        error = sum((beta * total - drop) ** 2 for total, drop in pairs) / len(pairs)
        assert result["infidelity"][i].item() == pytest.approx(error, abs=1e-6), name
        share = error / (sum(drop**2 for _, drop in pairs) / len(pairs))
        assert result["unexplained"][i].item() == pytest.approx(share, abs=1e-6), name
        assert 0 <= result["unexplained"][i] <= 1 + 1e-12
    assert result["unexplained"].std() > 0.01


@pytest.mark.parametrize(("size", "positions"), [((9, 12), 20), ((5, 6), 3), ((4, 3), 224)])
def test_correlation_equals_a_loop_over_sets(scene, size, positions):
    s = scene(size)
    score = Seen(s.probability)
    result = faithfulness_correlation(s.maps, s.batch, score=score, positions=positions, subsets=25)["correlation"]
    blank = baselines.baseline_images(s.batch, "minimum")
    for i, name in enumerate(s.names):
        darkest = min(s.batch.images[i].flatten().tolist())
        drawn = sets_and_drops(s, score, i)
        sums = [sum(s.maps[i].double()[y, x].item() for y, x in gone.nonzero().tolist()) for gone, _ in drawn]
        for case, other in score.seen:
            if case == i:
                gone = (other != s.batch.images[i]).any(0)
                assert gone.sum() in (0, min(positions, size[0] * size[1] - 1))
                assert (other[:, gone] == darkest).all() and (blank[i] == darkest).all()
        values = s.maps[i]
        if values.max() == values.min():
            assert result[i] == 0, name
        elif np.ptp(sums) == 0:
            assert result[i].isnan(), name
        else:
            scale = np.abs(sums).max() or 1
            expected = scipy.stats.pearsonr(np.array(sums) / scale, [drop for _, drop in drawn]).statistic
            assert result[i].item() == pytest.approx(expected, abs=1e-6), name


class Linear:
    """Score = sum of weights times pixels."""

    batch_size = 4

    def __init__(self, weights):
        self.weights, self.shared = weights, {}

    def __call__(self, images, cases):
        return (images * self.weights[cases][:, None]).sum((1, 2, 3))

    def once(self, key, function):
        if key not in self.shared:
            self.shared[key] = function()
        return self.shared[key]


@pytest.fixture
def linear(make_batch):
    """A batch, a linear score, and what each position is worth to it."""
    batch = make_batch((8, 12), n=2)
    batch.images = batch.images.double()
    weights = torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    return batch, weights, (batch.images * weights[:, None]).sum(1)


def test_what_the_model_does_is_perfect_in_any_unit(linear):
    batch, weights, truth = linear
    for factor in (1, 7, 1e-20, 1e20):
        result = infidelity(factor * truth, batch, score=Linear(weights), cell=4)
        assert result["infidelity"].max() < 1e-9 and result["unexplained"].max() < 1e-9
        assert result["infidelity"].min() >= 0
    # Upside down no positive factor helps: all of it is wrong.
    wrong = infidelity(-truth, batch, score=Linear(weights), cell=4)
    assert wrong["unexplained"].min() > 0.999
    # An added constant is an error, unlike for the correlation.
    raised = infidelity(truth + 3 * truth.std(), batch, score=Linear(weights), cell=4)
    assert raised["unexplained"].min() > 0.01
    worth = {"positions": 10, "baseline": "zero"}
    for other, expected in ((truth, 1), (-truth, -1), (5 * truth + 3, 1)):
        result = faithfulness_correlation(other, batch, score=Linear(weights), **worth)["correlation"]
        assert result.tolist() == pytest.approx([expected] * 2, abs=1e-5)


def test_maps_without_information_get_the_uniform_maps_value(scene):
    s = scene((8, 12), only=torch.tensor([0.0, 1, -3, 0.3])[:, None, None].expand(4, 8, 12).clone())
    s.batch.images, s.batch.ids, s.batch.targets = s.batch.images[:1].expand(4, -1, -1, -1), ["a"] * 4, [(0,)] * 4
    score = s.scorer()
    result = infidelity(s.maps, s.batch, score=score, cell=4)
    (drops,) = (kept[1] for key, kept in score.shared.items() if key[0] == "sensitivity_n")
    # Sets of equal size have equal sums: the best factor gives the mean drop, what is left is the variance.
    expected = drops[0].var(unbiased=False) if drops[0].mean() > 0 else drops[0].square().mean()
    assert torch.allclose(result["infidelity"], expected.expand(4), atol=1e-9) and expected > 0
    flat = faithfulness_correlation(s.maps, s.batch, score=s.scorer(), positions=10)["correlation"]
    assert flat.tolist() == [0] * 4


def test_random_maps_correlate_with_nothing(make_batch, make_scorer, network):
    n = 300
    batch = make_batch((9, 12), n=n)
    batch.images, batch.targets = batch.images[:1].expand(n, -1, -1, -1), [(0,)] * n
    random = torch.rand(n, 9, 12, generator=torch.Generator().manual_seed(0))
    score = make_scorer(network, batch.targets)
    result = faithfulness_correlation(random, batch, score=score, positions=20, subsets=10)["correlation"]
    assert abs(result.mean()) < 3.5 * result.std() / math.sqrt(n) and result.std() > 0.1


def test_sets_and_passes_are_shared(make_batch, make_scorer, network, cams):
    batch = make_batch((8, 12), n=2)
    score = make_scorer(network, batch.targets)
    sensitivity.sensitivity_n(cams(2, 8, 12), batch, score=score, subsets=10, cell=4)
    paid = score.images
    assert paid == 2 * 10 + 2
    infidelity(cams(2, 8, 12, seed=1), batch, score=score, subsets=10, cell=4)
    assert score.images == paid
    for seed in range(3):
        faithfulness_correlation(cams(2, 8, 12, seed=seed), batch, score=score, positions=5, subsets=10)
    assert score.images == paid + 2 * 10


def test_a_network_that_ignores_the_image_is_not_defined(linear):
    batch, weights, truth = linear
    result = infidelity(truth, batch, score=Linear(0 * weights), cell=4)
    assert (result["infidelity"] == 0).all() and result["unexplained"].isnan().all()
    assert faithfulness_correlation(truth, batch, score=Linear(0 * weights), positions=5)["correlation"].isnan().all()


def test_bad_parameters(linear):
    batch, weights, truth = linear
    for bad in ({"share": 1.0}, {"subsets": 2}, {"cell": 0}):
        with pytest.raises(ValueError, match="infidelity: share="):
            infidelity(truth, batch, score=Linear(weights), **bad)
    for bad in ({"positions": 0}, {"subsets": 2}):
        with pytest.raises(ValueError, match="faithfulness_correlation: positions="):
            faithfulness_correlation(truth, batch, score=Linear(weights), **bad)
