"""The same maps through Quantus 0.6.0 and captum 0.9.0; and where they are wrong, how."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metrics import masking
from metrics.perturbation import curves, subsets, superpixels

CLASSES = [0, 1, 2, 0]
SIZE = (20, 24)


@pytest.fixture
def batch(make_batch):
    batch = make_batch(SIZE, n=4)
    batch.targets = [(c,) for c in CLASSES]
    return batch


@pytest.fixture
def heatmaps(maps):
    """Real maps without ties, since peers break ties in another order; 0 to 1, as peers expect them."""
    real = torch.stack([m for name, m in maps(*SIZE).items() if name.startswith("real")])
    grain = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    return masking.unit_range(real / real.amax((1, 2), keepdim=True) + 1e-3 * grain)


@pytest.fixture
def quantus(batch, heatmaps, network, monkeypatch):
    """``quantus(name, **options)``: what a metric of Quantus gives, on numpy 2, which has no trapz any more."""
    module = pytest.importorskip("quantus")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)

    def measure(name, module_=network, **options):
        metric = getattr(module, name)(disable_warnings=True, display_progressbar=False, **options)
        data = {"x_batch": batch.images.numpy(), "a_batch": heatmaps[:, None].numpy()}
        classes = np.array([group[0] for group in batch.targets])
        return metric(model=module_, y_batch=classes, device="cpu", softmax=True, **data)

    return measure


def test_golden_values_of_quantus(make_batch, make_scorer, network):
    """Recorded where Quantus is not installed: `test_quantus_...` below on these maps; quantus 0.6.0, November 2026."""
    batch = make_batch(SIZE, n=4)
    batch.targets = [(c,) for c in CLASSES]
    heatmaps = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(0))
    score = make_scorer(network, batch.targets)
    areas = curves.pixel_flipping(heatmaps, batch, score=score, steps=24)["auc"] * 23
    assert areas.tolist() == pytest.approx([0.168083, 22.767628, 0.011131, 0.109217], abs=1e-4)
    result = subsets.faithfulness_correlation(heatmaps, batch, score=score, positions=12, subsets=30)["correlation"]
    assert result.tolist() == pytest.approx([0.064928, 0.075593, -0.079967, 0.30049], abs=1e-4)


@pytest.mark.parametrize("steps", [6, 24])
def test_quantus_pixel_flipping(quantus, batch, heatmaps, make_scorer, network, steps):
    ours = curves.pixel_flipping(heatmaps, batch, score=make_scorer(network, batch.targets), steps=steps)
    features = 3 * SIZE[0] * SIZE[1] // steps
    assert np.allclose(ours["curve"], quantus("PixelFlipping", features_in_step=features), atol=1e-4)
    areas = quantus("PixelFlipping", features_in_step=features, return_auc_per_sample=True)
    assert np.allclose(ours["auc"] * (steps - 1), areas, atol=1e-4) and ours["auc"].std() > 1e-3


class Falling(torch.nn.Module):
    """Whatever stands where the image has its highest values speaks against class 0, and nothing else matters."""

    def forward(self, images):
        return torch.stack([-images.clamp(min=0).sum((1, 2, 3)) / 50, images.new_zeros(len(images))], 1)


def test_quantus_monotonicity_never_puts_the_image_back(quantus, batch, heatmaps, make_scorer):
    """Its picture stays the baseline, since positions are "perturbed" with the baseline: every map is monotone."""
    batch.targets = [(0,)] * 4
    network = Falling().eval()
    assert quantus("Monotonicity", network, features_in_step=60) == [True] * 4
    # By Arya et al. the probability of class 0 falls with every part of the image that is added.
    ours = curves.monotonicity(heatmaps, batch, score=make_scorer(network, batch.targets), steps=24, baseline="minimum")
    assert ours["monotone"].tolist() == [0] * 4 and ours["share"].max() < 0.1


def test_quantus_faithfulness_correlation(quantus, batch, heatmaps, make_scorer, network, monkeypatch):
    """On the sets that are drawn here; its features are channels, so a position is three of them."""
    score = make_scorer(network, batch.targets)
    ours = subsets.faithfulness_correlation(heatmaps, batch, score=score, positions=12, subsets=30)["correlation"]
    ((drawn, _),) = (kept for key, kept in score.shared.items() if key[0] == "sensitivity_n")
    pending = [drawn[case, run].nonzero()[:, 0].numpy() for run in range(30) for case in range(4)]

    def choice(features, size, replace):
        positions, count = pending.pop(0), features // 3
        return np.concatenate([positions + channel * count for channel in range(3)])

    monkeypatch.setattr(np.random, "choice", choice)
    theirs = quantus("FaithfulnessCorrelation", nr_runs=30, subset_size=36, return_aggregate=False, normalise=False)
    assert np.allclose(ours, theirs, atol=1e-4) and not pending and ours.std() > 0.01


def test_captum_infidelity(batch, heatmaps, make_scorer, network):
    """With its best factor, where this is not negative; with a negative one it takes a map for its opposite."""
    metrics = pytest.importorskip("captum.metrics")
    score = make_scorer(network, batch.targets)
    ours = subsets.infidelity(heatmaps, batch, score=score, subsets=12, cell=5)["infidelity"]
    opposite = subsets.infidelity(-heatmaps, batch, score=score, subsets=12, cell=5)["infidelity"]
    ((drawn, drops),) = (kept for key, kept in score.shared.items() if key[0] == "sensitivity_n")
    cells = (torch.arange(SIZE[0]) // 5)[:, None] * 5 + torch.arange(SIZE[1]) // 5
    sets, signs = drawn[:, :, cells].float(), set()
    for i, heatmap in enumerate(heatmaps):
        image = batch.images[i : i + 1]

        def theirs(heatmap, i=i, image=image):
            numbers = iter(range(12))

            def perturb(inputs):
                gone = torch.stack([sets[i, next(numbers)] for _ in inputs])[:, None].expand_as(inputs)
                return gone, inputs * (1 - gone)

            # A third in each channel, so that the sum over a set is the map's.
            return metrics.infidelity(lambda images: network(images).softmax(1), perturb, image,
                                      (heatmap / 3).expand_as(image), target=CLASSES[i], n_perturb_samples=12,
                                      max_examples_per_batch=1, normalize=True).item()  # fmt: skip

        helped = bool(((sets[i] * heatmap).sum((1, 2)) * drops[i]).sum() > 0)
        right, wrong = (ours, opposite) if helped else (opposite, ours)
        assert right[i].item() == pytest.approx(theirs(heatmap), rel=1e-4, abs=1e-7)
        assert theirs(-heatmap) == pytest.approx(theirs(heatmap), rel=1e-4)
        # Here the map that points the wrong way is worth as little as zeros.
        assert wrong[i].item() == pytest.approx(drops[i].square().mean().item(), rel=1e-4)
        assert wrong[i] > right[i]
        signs.add(helped)
    assert True in signs


class Grey(torch.nn.Module):
    """Two classes of grey pictures; with `deaf` the picture does not matter."""

    def __init__(self, deaf=False):
        super().__init__()
        weights = torch.randn(2, SIZE[0] * SIZE[1], generator=torch.Generator().manual_seed(2)) / 20
        self.weights = 0 * weights if deaf else weights

    def forward(self, images):
        return images.flatten(1) @ self.weights.T


def test_quantus_irof_leaves_out_the_first_interval(make_batch, heatmaps, make_scorer, monkeypatch):
    """It subtracts the area of L - 1 intervals from L, so that a network which ignores the picture scores 1, not 0."""
    module = pytest.importorskip("quantus")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    metric = module.IROF(disable_warnings=True, display_progressbar=False, return_aggregate=False, perturb_baseline=0)
    batch = make_batch(SIZE, n=1, channels=1)
    low = torch.randn(1, 1, 4, 5, generator=torch.Generator().manual_seed(5))
    batch.images = torch.nn.functional.interpolate(low, SIZE, mode="bicubic")
    count = int(superpixels.superpixels(batch.images[0], 100).max()) + 1
    assert count > 20
    for network in (Grey().eval(), Grey(deaf=True).eval()):
        score = make_scorer(network, batch.targets)
        ours = superpixels.irof(heatmaps[:1], batch, score=score, steps=count, baseline="zero")
        (theirs,) = metric(
            model=network, x_batch=batch.images.numpy(), y_batch=np.array([0]), a_batch=heatmaps[:1, None].numpy(),
            device="cpu",
        )  # fmt: skip
        kept = ours["curve"][0] / ours["curve"][0, 0]
        assert theirs == pytest.approx((ours["aoc"] * count + (kept[0] + kept[1]) / 2).item(), abs=1e-4)
    assert theirs == pytest.approx(1, abs=1e-4) and abs(ours["aoc"].item()) < 1e-6


def test_quantus_irof_crashes_on_colour(quantus):
    with pytest.raises(AssertionError, match="shape of arr must be the same as the mask shape"):
        quantus("IROF")
