"""Smooth and efficient parameter randomization: against plain loops and Quantus, noise, extremes, degenerate maps."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from small_networks import network, registered

from metrics import ranking, sanity, similarity
from metrics.randomization import efficient, smooth

NAMES = ("spearman", "ssim", "hog")


class Ask:
    """The class's gradient times input, of a changed network or of perturbed images; counts the questions."""

    layers = ("1",)

    def __init__(self, module, batch):
        self.module, self.batch, self.questions = module, batch, Counter()
        self.running = registered(module)

    def __call__(self, change=None, perturb=None):
        self.questions[change, perturb] += 1
        module = change(self.module) if change else self.module
        images = self.batch.images if perturb is None else perturb(self.batch.images, self.batch.image_ids)
        return gradient_times_input(module, images, self.batch.targets)


def gradient_times_input(module, images, targets):
    images = images.clone().requires_grad_()
    score = sum(module(images)[i, list(group)].logsumexp(0) for i, group in enumerate(targets))
    return (torch.autograd.grad(score, images)[0] * images).sum(1).detach().clamp(min=0)


@pytest.mark.parametrize("order", sanity.ORDERS)
def test_smooth_compares_means_stage_by_stage(make_batch, order):
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch)
    options = {"stages": 3, "samples": 3, "share": 0.2, "seed": 5}
    result = smooth.smooth_mprt(explain(), batch, explain=explain, order=order, **options)
    changes = [sanity.Randomized(names, 5) for names in sanity.random_parts(explain.module, explain.running, order, 3)]
    for case in range(2):
        image, alike = batch.images[case].double().numpy(), []
        pictures = [image]
        for sample in (1, 2):
            drawn = torch.randn(image.shape, generator=ranking.generator(f"grain:5:{sample}:{batch.image_ids[case]}"))
            pictures.append(image + 0.2 * (image.max() - image.min()) * drawn.double().numpy())
        means = []
        for change in (None, *changes):
            module = change(explain.module) if change else explain.module
            whole = np.zeros(image.shape[1:])
            for picture in pictures:
                one = gradient_times_input(module.double(), torch.from_numpy(picture)[None], [batch.targets[case]])
                whole += one[0].numpy() / 3
            explain.module.float()
            means.append(similarity.describe(whole))
        alike = [similarity.compare(means[0], mean) for mean in means[1:]]
        for name in NAMES:
            measured = result[f"{name}_curve"][case].tolist()
            assert measured == pytest.approx([one[name] for one in alike], abs=1e-4 if name == "hog" else 1e-5)
            assert result[name][case].item() == pytest.approx(np.mean(measured), abs=1e-6)
    # As its yaml says: samples * (stages + 1) - 1 questions beside the map at hand.
    assert sum(explain.questions.values()) - 1 == 3 * 4 - 1


def test_one_sample_is_the_plain_test(make_batch):
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch)
    plain = sanity.parameter_randomization(explain(), batch, explain=explain, order="bottom_up", stages=3)
    same = smooth.smooth_mprt(explain(), batch, explain=explain, stages=3, samples=1)
    assert plain.keys() == same.keys() and all(torch.allclose(plain[key], same[key], atol=1e-6) for key in plain)
    for bad in ({"samples": 0}, {"share": -0.1}, {"order": "up"}, {"stages": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}"):
            smooth.smooth_mprt(explain(), batch, explain=explain, **bad)


def test_means_of_noise_are_alike_where_single_maps_are_not(make_batch):
    """The reason for the variant: a map with noise of its own keeps its shape through a mean of many."""
    shape = torch.linspace(0, 1, 48)[:, None].expand(48, 48)
    batch = make_batch((48, 48), n=2)
    explain = Ask(network(), batch)
    calls = []

    def noisy(change=None, perturb=None):
        calls.append(1)
        noise = torch.randn(2, 48, 48, generator=torch.Generator().manual_seed(len(calls)))
        return shape + 0.5 * noise

    noisy.module, noisy.running = explain.module, explain.running
    measured = [smooth.smooth_mprt(noisy(), batch, explain=noisy, stages=1, samples=n)["spearman"] for n in (1, 40)]
    assert (measured[0] < 0.45).all() and (measured[1] > 0.85).all()


def test_grain_is_normal_and_follows_the_picture():
    images = torch.stack([torch.linspace(-1, 3, 3 * 60 * 50).reshape(3, 60, 50), torch.zeros(3, 60, 50)])
    made = smooth.Grain(0.1, 0, 1)(images, ["a", "b"])
    noise = (made - images)[0].flatten().double()
    assert noise.std().item() == pytest.approx(0.4, rel=0.03) and abs(noise.mean()) < 4 * 0.4 / math.sqrt(len(noise))
    assert scipy.stats.kstest(noise[:5000].numpy() / 0.4, "norm").pvalue > 0.001
    assert torch.equal(made[1], images[1])  # a picture of one colour has no range
    assert torch.equal(smooth.Grain(0.1, 0, 1)(images[:1], ["a"])[0], made[0])
    assert not torch.equal(smooth.Grain(0.1, 0, 2)(images[:1], ["a"])[0], made[0])
    assert not torch.equal(smooth.Grain(0.1, 0, 1)(images[:1], ["b"])[0], made[0])


def test_constant_maps_are_the_worst(make_batch):
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch)
    heatmaps = explain()

    def empty(change=None, perturb=None):
        return torch.zeros_like(heatmaps)

    empty.module, empty.running = explain.module, explain.running
    nothing = smooth.smooth_mprt(empty(), batch, explain=empty, stages=2, samples=2)
    assert all((values == 1).all() for values in nothing.values())
    # Neither an empty map at first nor one at last passes the test of complexity.
    for before, ask in ((empty(), explain), (0 * heatmaps + 0.7, explain), (heatmaps, empty), (empty(), empty)):
        assert efficient.efficient_mprt(before, batch, explain=ask)["rise"].tolist() == [-1, -1]


def slow_entropy(heatmap, bins):
    """Counts value by value; the last bin holds the maximum."""
    values = [float(value) for value in heatmap.double().flatten()]
    low, high = min(values), max(values)
    if low == high:
        return 0.0
    counts = Counter(min(int((value - low) / (high - low) * bins), bins - 1) for value in values)
    return -math.fsum(count / len(values) * math.log(count / len(values)) for count in counts.values())


@pytest.mark.parametrize("size", [(9, 12), (48, 64)])
@pytest.mark.parametrize("bins", [2, 100])
def test_histogram_entropy_equals_the_slow_one(maps, size, bins):
    for name, heatmap in maps(*size).items():
        measured = efficient.histogram_entropy(heatmap.numpy(), bins)
        assert measured == pytest.approx(slow_entropy(heatmap, bins), abs=1e-6), name
        if name not in ("tiny", "huge", "zero", "constant"):
            assert measured == pytest.approx(scipy.stats.entropy(np.histogram(heatmap.double(), bins)[0]), abs=1e-6), (
                name
            )
        # Scale, shift and mirror change nothing; the order of the values counts.
        assert efficient.histogram_entropy(8 * heatmap.flip(1).numpy(), bins) == pytest.approx(measured, abs=1e-12)
    assert efficient.histogram_entropy(np.full((3, 4), 2.5), bins) == 0
    assert efficient.histogram_entropy(np.arange(200.0).reshape(10, 20), bins) == pytest.approx(math.log(bins))


def test_efficient_is_the_relative_rise_after_full_randomization(make_batch):
    batch = make_batch((24, 16), n=3)
    explain = Ask(network(), batch)
    heatmaps = explain()
    measured = efficient.efficient_mprt(heatmaps, batch, explain=explain, seed=4)["rise"]
    ((change, _),) = [key for key in explain.questions if key[0]]
    assert set(change.names) == {"0", "1", "2", "4.0", "4.1", "7"} and change.seed == 4
    after = explain(change=change)
    for i in range(3):
        before, random = slow_entropy(heatmaps[i], 100), slow_entropy(after[i], 100)
        assert measured[i].item() == pytest.approx((random - before) / before, abs=1e-6)
    with pytest.raises(ValueError, match="bins of at least 2"):
        efficient.efficient_mprt(heatmaps, batch, explain=explain, bins=1)


def test_uniform_values_after_a_ramp_do_not_rise(make_batch):
    """A random map of values 0 to 1 fills all bins alike, as a ramp does: log(bins), no rise."""
    batch = make_batch((60, 50), n=1)
    ramp = torch.linspace(0, 1, 3000).reshape(1, 60, 50)
    random = torch.rand(1, 60, 50, generator=torch.Generator().manual_seed(0))

    def explain(change=None):
        return random

    explain.module = network()
    explain.running = registered(explain.module)
    assert efficient.efficient_mprt(ramp, batch, explain=explain, bins=10)["rise"].item() == pytest.approx(0, abs=2e-3)
    half = (ramp > 0.5).float()
    expected = math.log(10) / math.log(2) - 1
    assert efficient.efficient_mprt(half, batch, explain=explain, bins=10)["rise"].item() == pytest.approx(
        expected, abs=4e-3
    )


@pytest.fixture
def peer(monkeypatch):
    """Quantus 0.6, made to draw the layers as this program does; ``peer(name, batch, maps, options)`` -> scores."""
    quantus = pytest.importorskip("quantus")
    from quantus.helpers.model.pytorch_model import PyTorchModel

    def run(name, module, batch, heatmaps, order, **options):
        parts = sanity.random_parts(module, registered(module), order, 3)
        monkeypatch.setattr(
            PyTorchModel,
            "get_random_layer_generator",
            lambda self, order, seed: (("-".join(names), sanity.Randomized(names, 0)(module)) for names in parts),
        )
        monkeypatch.setattr(PyTorchModel, "random_layer_generator_length", property(lambda self: len(parts)))

        def explain(model, inputs, targets, **_):
            return gradient_times_input(model, torch.as_tensor(inputs).float(), batch.targets).numpy()[:, None]

        monkeypatch.setattr(quantus, "explain", explain)
        metric = getattr(quantus, name)(disable_warnings=True, **options)
        metric(
            model=module, x_batch=batch.images.numpy(), y_batch=np.zeros(len(batch.ids), int), channel_first=True,
            a_batch=heatmaps, explain_func=explain, explain_func_kwargs={},
        )  # fmt: skip
        return metric.evaluation_scores

    return run


@pytest.mark.filterwarnings("ignore")
def test_quantus_smooth_mprt(make_batch, peer, monkeypatch):
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch)
    measured = smooth.smooth_mprt(explain(), batch, explain=explain, order="bottom_up", stages=3, samples=3)
    calls = iter(range(100))

    def drawn(*shape):
        sample = next(calls) % 2 + 1  # the third image of each three is the clean one
        keys = [f"grain:0:{sample}:{name}" for name in batch.image_ids]
        return torch.stack([torch.randn(shape[1:], generator=ranking.generator(key)) for key in keys]).numpy()

    monkeypatch.setattr(np.random, "randn", drawn)
    scores = peer("SmoothMPRT", explain.module, batch, None, "bottom_up", nr_samples=3, noise_magnitude=0.1)
    curve = np.array([values for name, values in scores.items() if name != "original"]).T
    assert curve.shape == (2, 3)
    np.testing.assert_allclose(measured["spearman_curve"].numpy(), curve, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_quantus_efficient_mprt(make_batch, peer):
    batch = make_batch((24, 16), n=3)
    explain = Ask(network(), batch)
    heatmaps = explain()
    measured = efficient.efficient_mprt(heatmaps, batch, explain=explain)["rise"]
    scores = peer(
        "EfficientMPRT", explain.module, batch, heatmaps.numpy()[:, None], "bottom_up",
        complexity_func_kwargs={"n_bins": 100},
    )  # fmt: skip
    assert measured.tolist() == pytest.approx(scores, abs=1e-4)
