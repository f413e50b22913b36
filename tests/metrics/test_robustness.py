"""Robustness: against plain loops, captum and Quantus; noise, scale, degenerate maps, and who is right about zeros."""

import math

import numpy as np
import pytest
import torch

from metrics.robustness import noise, sensitivity, stability

SENSITIVITIES = (sensitivity.max_sensitivity, sensitivity.avg_sensitivity)
SAMPLES, RADIUS = 4, 0.2


class Ask:
    """A method asked again: ``maps_of(images) -> (N, H, W)``, a network, and its squared features as the layer."""

    def __init__(self, batch, network, maps_of, layered=True):
        self.batch, self.network, self.maps_of, self.layered = batch, network, maps_of, layered
        self.logits = network(batch.images).detach()

    def perturbed(self, perturb):
        return perturb(self.batch.images, self.batch.image_ids)

    def __call__(self, perturb):
        return self.maps_of(self.perturbed(perturb))

    def effect(self, perturb):
        images = self.perturbed(perturb)
        shift = (images - self.batch.images).double().flatten(1).norm(dim=1)
        layer = None
        if self.layered:
            before, after = (self.network.layers(x).detach().double().flatten(1) for x in (self.batch.images, images))
            layer = (after - before).norm(dim=1) / before.norm(dim=1)
        return shift, self.network(images).detach(), layer


class Rolled(Ask):
    """Answers with prepared maps, by the number of the sample."""

    def __call__(self, perturb):
        return self.maps_of[perturb.sample]


def energy(images):
    """A map that follows the picture: local energy, with zeros as a rectified map has them."""
    local = torch.nn.functional.avg_pool2d(images.square().sum(1, keepdim=True), 3, 1, 1)[:, 0]
    return (local - local.flatten(1).median(1).values.view(-1, 1, 1)).clamp(min=0)


def slow_distance(one, other):
    """Two maps as lists of floats, by loops."""
    one, other = ([float(value) for value in values.double().flatten()] for values in (one, other))
    if max(one) == min(one) or max(other) == min(other):
        return math.sqrt(2)
    n = len(one)
    scale_one = math.sqrt(math.fsum(value * value for value in one) / n)
    scale_other = math.sqrt(math.fsum(value * value for value in other) / n)
    apart = math.fsum((a / scale_one - b / scale_other) ** 2 for a, b in zip(one, other, strict=True))
    whole = math.fsum((a / scale_one) ** 2 for a in one)
    return math.sqrt(apart / whole)


def slow_norm(values):
    return math.sqrt(math.fsum(float(value) ** 2 for value in values.double().flatten()))


@pytest.mark.parametrize("size", [(9, 12), (12, 5)])
def test_equal_to_plain_loops(make_batch, network, maps, size):
    """Adversarial and real maps; what the method answers are other maps of the list, and the same ones."""
    named = list(maps(*size).items())
    heatmaps = torch.stack([heatmap for _, heatmap in named])
    batch = make_batch(size, n=len(named))
    shifts = {sample: torch.roll(heatmaps, sample, 0) for sample in range(SAMPLES)}
    explain = Rolled(batch, network, shifts)
    options = {"explain": explain, "samples": SAMPLES, "radius": RADIUS, "seed": 3}
    largest = sensitivity.max_sensitivity(heatmaps, batch, **options)["distance"]
    average = sensitivity.avg_sensitivity(heatmaps, batch, **options)["distance"]
    lipschitz = sensitivity.local_lipschitz(heatmaps, batch, **options)["estimate"]
    relative = stability.relative_stability(heatmaps, batch, **options)
    for i, (name, heatmap) in enumerate(named):
        distances, slopes, ratios = [], [], {"input": [], "output": [], "representation": []}
        for sample in range(SAMPLES):
            distance = slow_distance(heatmap, shifts[sample][i])
            distances.append(distance)
            perturbation = noise.Noise(RADIUS, 3, sample)
            images = (batch.images, perturbation(batch.images, batch.image_ids))
            clean, image = (some[i] for some in images)
            slopes.append(distance * math.sqrt(heatmap.numel()) / slow_norm(image - clean))
            answers = [network(some)[i].detach() for some in images]
            if int(answers[0].argmax()) != int(answers[1].argmax()):
                continue
            layers = [network.layers(some)[i].detach() for some in images]
            pairs = {"input": (clean, image), "output": answers, "representation": layers}
            for key, (before, after) in pairs.items():
                ratios[key].append(distance / (slow_norm(after.double() - before.double()) / slow_norm(before)))
        assert largest[i].item() == pytest.approx(max(distances), rel=1e-6, abs=1e-6), name
        assert average[i].item() == pytest.approx(sum(distances) / SAMPLES, rel=1e-6, abs=1e-6), name
        assert lipschitz[i].item() == pytest.approx(max(slopes), rel=1e-6, abs=1e-6), name
        for key, values in ratios.items():
            expected = max(values) if values else math.nan
            assert relative[key][i].item() == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), (name, key)
        if name in ("zero", "constant"):
            assert largest[i].item() == average[i].item() == pytest.approx(math.sqrt(2), abs=1e-6)


class Means(torch.nn.Module):
    """Logits are the means of the channels, which a little noise puts in another order."""

    layers = torch.nn.Identity()

    def forward(self, images):
        return images.mean((2, 3))


def test_changed_predictions_are_left_out(make_batch):
    """Noise that changes the predicted class does not count; where all of it does, there is no value."""
    batch = make_batch((10, 8), n=40)
    explain = Ask(batch, Means(), energy)
    heatmaps = energy(batch.images)
    measured = stability.relative_stability(heatmaps, batch, explain=explain, samples=3, radius=2.0)
    clean = explain.logits.argmax(1)
    perturbations = noise.noises(3, 2.0, 0)
    same = torch.stack([explain.effect(one)[1].argmax(1) == clean for one in perturbations], 1)
    none, some, every = ~same.any(1), same.any(1) & ~same.all(1), same.all(1)
    assert none.any() and some.any() and every.any()
    moved = noise.distances(heatmaps, explain, perturbations)
    changes = torch.stack([explain.effect(one)[0] for one in perturbations], 1)
    ratios = moved / (changes / batch.images.flatten(1).double().norm(dim=1, keepdim=True))
    for i in range(40):
        left = ratios[i][same[i]]
        expected = left.max().item() if len(left) else math.nan
        assert measured["input"][i].item() == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert torch.equal(measured["input"].isnan(), none) and torch.equal(measured["output"].isnan(), none)
    # Without the filter some cases would have another value.
    assert (ratios.amax(1)[some] > measured["input"][some] * 1.001).any()


def test_a_method_without_a_layer_has_no_representation(make_batch, network):
    batch = make_batch((10, 8), n=2)
    explain = Ask(batch, network, energy, layered=False)
    measured = stability.relative_stability(energy(batch.images), batch, explain=explain, samples=2)
    assert measured["representation"].isnan().all() and measured["input"].isfinite().all()


def test_noise_follows_from_the_picture_s_id():
    images = torch.zeros(3, 3, 40, 50)
    made = noise.Noise(0.2, 0, 1)(images, ["a", "b", "a"])
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])
    alone = noise.Noise(0.2, 0, 1)(images[:1], ["b"])
    assert torch.equal(alone[0], made[1])
    assert noise.Noise(0.2, 0, 1) == noise.Noise(0.2, 0, 1) and hash(noise.Noise(0.2, 0, 1)) == hash(
        noise.Noise(0.2, 0, 1)
    )
    for other in (noise.Noise(0.2, 1, 1), noise.Noise(0.2, 0, 2)):
        assert (other(images, ["a", "b", "a"]) - made).abs().amax() > 0.1
    values = made.flatten().double()
    assert values.min() >= -0.2 and values.max() <= 0.2
    # Uniform: mean 0, variance radius^2 / 3, a fifth in each fifth.
    assert abs(values[:12000].mean()) < 4 * 0.2 / math.sqrt(3 * 12000)
    assert values.var().item() == pytest.approx(0.04 / 3, rel=0.02)
    shares = torch.histc(values, 5, -0.2, 0.2) / len(values)
    assert (shares - 0.2).abs().max() < 0.01
    for bad in ({"samples": 0}, {"radius": 0.0}, {"radius": -1.0}):
        with pytest.raises(ValueError, match="samples of at least 1 and a radius above 0"):
            noise.noises(**({"samples": 1, "radius": 0.2, "seed": 0} | bad))


def test_scale_is_none_of_what_a_map_shows(make_batch, network):
    """Brighter maps are the same maps, also where only the perturbed picture's map is brighter; power is not."""
    batch = make_batch((10, 8), n=3)
    heatmaps = energy(batch.images)
    plain = Ask(batch, network, energy)
    brighter = Ask(batch, network, lambda images: 7 * energy(images))
    for metric in (*SENSITIVITIES, sensitivity.local_lipschitz, stability.relative_stability):
        for key, values in metric(heatmaps, batch, explain=plain, samples=2).items():
            for scaled, explain in ((0.3 * heatmaps, plain), (heatmaps, brighter), (1e30 * heatmaps, brighter)):
                again = metric(scaled, batch, explain=explain, samples=2)[key]
                torch.testing.assert_close(again, values, rtol=1e-4, atol=1e-6)
            squared = Ask(batch, network, lambda images: energy(images).square())
            assert not torch.allclose(
                metric(heatmaps.square(), batch, explain=squared, samples=2)[key], values, rtol=0.01
            )


def test_what_maps_without_information_score(make_batch, network):
    """Uniform: the worst. Random maps of values 0 to 1, drawn anew: sqrt(1/2). Normal ones: sqrt(2). The same: 0."""
    size = (48, 64)
    batch = make_batch(size, n=6)
    generator = torch.Generator().manual_seed(0)
    draws = {
        "uniform map": lambda: torch.ones(6, *size),
        "zero": lambda: torch.zeros(6, *size),
        "values 0 to 1": lambda: torch.rand(6, *size, generator=generator),
        "normal": lambda: torch.randn(6, *size, generator=generator),
    }
    expected = {
        "uniform map": math.sqrt(2),
        "zero": math.sqrt(2),
        "values 0 to 1": math.sqrt(0.5),
        "normal": math.sqrt(2),
    }
    for name, draw in draws.items():
        measured = sensitivity.avg_sensitivity(draw(), batch, explain=Ask(batch, network, lambda _, draw=draw: draw()))
        assert measured["distance"].tolist() == pytest.approx([expected[name]] * 6, rel=0.03), name
    fixed = torch.rand(6, *size, generator=generator)
    for metric in (*SENSITIVITIES, sensitivity.local_lipschitz, stability.relative_stability):
        for key, values in metric(fixed, batch, explain=Ask(batch, network, lambda _: fixed), samples=2).items():
            assert values.tolist() == [0] * 6, key
    # A map that vanishes under noise has lost all that it showed.
    lost = sensitivity.max_sensitivity(fixed, batch, explain=Ask(batch, network, lambda x: 0 * x[:, 0]), samples=2)
    gone = sensitivity.max_sensitivity(fixed, batch, explain=Ask(batch, network, lambda x: 0 * x[:, 0] + 1), samples=2)
    assert lost["distance"].tolist() == gone["distance"].tolist() == pytest.approx([math.sqrt(2)] * 6, abs=1e-6)


def test_more_noise_moves_the_map_further(make_batch, network):
    batch = make_batch((20, 24), n=4)
    explain, heatmaps = Ask(batch, network, energy), energy(batch.images)
    measured = [
        sensitivity.avg_sensitivity(heatmaps, batch, explain=explain, radius=r)["distance"] for r in (0.02, 0.2, 2)
    ]
    assert (measured[0] < measured[1]).all() and (measured[1] < measured[2]).all()
    largest = sensitivity.max_sensitivity(heatmaps, batch, explain=explain, radius=0.2)["distance"]
    assert (largest >= measured[1]).all()
    # The norm of much uniform noise is nearly one number, so the slope is the distance divided by it: 3 channels.
    slope = sensitivity.local_lipschitz(heatmaps, batch, explain=explain, radius=0.2)["estimate"]
    torch.testing.assert_close(slope, largest / 0.2, rtol=0.05, atol=0)


def test_mirrored_noise_gives_the_same(make_batch, network):
    """Left and right are alike where the noise is seen in the mirror, too."""

    class Mirrored(noise.Noise):
        def __call__(self, images, image_ids):
            return super().__call__(images.flip(-1), image_ids).flip(-1)

    batch = make_batch((10, 8), n=3)
    plain = noise.distances(energy(batch.images), Ask(batch, network, energy), [noise.Noise(0.2, 0, 0)])
    batch.images = batch.images.flip(-1)
    turned = noise.distances(energy(batch.images), Ask(batch, network, energy), [Mirrored(0.2, 0, 0)])
    torch.testing.assert_close(turned, plain, rtol=1e-5, atol=1e-7)


def unit_energy(images):
    return noise.unit(energy(images)).reshape(len(images), *images.shape[2:]).float()


def test_captum_sensitivity_max(make_batch, network):
    """Of maps that are at mean square 1 already, captum's value is ours: Yeh's formula."""
    captum = pytest.importorskip("captum.metrics")
    batch = make_batch((10, 8), n=3)
    measured = sensitivity.max_sensitivity(
        energy(batch.images), batch, explain=Ask(batch, network, energy), samples=5, radius=0.1
    )["distance"]

    def perturb(repeated, radius):  # every image five times in a row
        made = [noise.Noise(radius, 0, sample)(batch.images, batch.image_ids) for sample in range(5)]
        assert torch.equal(repeated[::5], batch.images)
        return torch.stack(made, 1).flatten(0, 1)

    def explain(images):
        return (unit_energy(images[0]),) if isinstance(images, tuple) else unit_energy(images)

    expected = captum.sensitivity_max(explain, batch.images, perturb, perturb_radius=0.1, n_perturb_samples=5)
    torch.testing.assert_close(measured, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "metric", "key"),
    [
        ("MaxSensitivity", sensitivity.max_sensitivity, "distance"),
        ("AvgSensitivity", sensitivity.avg_sensitivity, "distance"),
        ("LocalLipschitzEstimate", sensitivity.local_lipschitz, "estimate"),
    ],
)
def test_quantus_sensitivity(make_batch, network, name, metric, key):
    """Quantus 0.6 with its own second-moment scale in place of the maximum, on the same noise."""
    quantus = pytest.importorskip("quantus")
    from quantus.functions.normalise_func import normalise_by_average_second_moment_estimate as second_moment

    batch = make_batch((10, 8), n=3)
    heatmaps = energy(batch.images)
    measured = metric(heatmaps, batch, explain=Ask(batch, network, energy), samples=4, radius=0.2)[key]
    calls = iter(range(4))

    def perturb(arr, indices, **_):
        images = torch.from_numpy(arr).reshape(batch.images.shape)
        return noise.Noise(0.2, 0, next(calls))(images, batch.image_ids).numpy().reshape(arr.shape)

    def explain(model, inputs, targets, **_):
        return energy(torch.as_tensor(inputs)).numpy()[:, None]

    peer = getattr(quantus, name)(
        nr_samples=4, perturb_func=perturb, normalise_func=second_moment, abs=False, disable_warnings=True,
        normalise=True, normalise_func_kwargs={"normalise_axes": [1, 2, 3]},  # else by the whole batch's root
    )  # fmt: skip
    values = peer(
        model=network, x_batch=batch.images.numpy(), y_batch=np.zeros(3, int), a_batch=heatmaps.numpy()[:, None],
        explain_func=explain, channel_first=True,
    )  # fmt: skip
    assert measured.tolist() == pytest.approx(values, rel=1e-4)


def test_quantus_stability_is_its_own_constant(make_batch):
    """Of a map with zeros Quantus's relative input stability is proportional to 1 / eps_min; ours has no constant."""
    quantus = pytest.importorskip("quantus")
    batch = make_batch((10, 8), n=3)
    perturbed = noise.Noise(0.2, 0, 0)(batch.images, batch.image_ids).numpy()
    x = batch.images.numpy()
    maps = [energy(torch.from_numpy(images)).numpy()[:, None] for images in (x, perturbed)]
    assert (maps[0] == 0).mean() > 0.3
    values = []
    for eps in (1e-6, 1e-3):
        peer = quantus.RelativeInputStability(eps_min=eps, disable_warnings=True)
        values.append(peer.relative_input_stability_objective(x, perturbed, *maps))
    assert values[0] / values[1] == pytest.approx([1000] * 3, rel=0.01)
    # The same objective with norms in place of positions, which has no zeros to divide by, is what this program gives.
    network = torch.nn.Flatten()
    ask = Ask(batch, network, energy, layered=False)
    ask.logits = torch.tensor([[1.0, 0]] * 3)
    ask.effect = lambda perturb: (
        (perturb(batch.images, batch.image_ids) - batch.images).double().flatten(1).norm(dim=1), ask.logits, None,
    )  # fmt: skip
    measured = stability.relative_stability(torch.from_numpy(maps[0][:, 0]), batch, explain=ask, samples=1, radius=0.2)[
        "input"
    ]
    for i in range(3):
        one, other = (m[i].astype(np.float64) / np.sqrt((m[i].astype(np.float64) ** 2).mean()) for m in maps)
        expected = np.linalg.norm(one - other) / np.linalg.norm(one)
        expected /= np.linalg.norm((x[i] - perturbed[i]).astype(np.float64)) / np.linalg.norm(x[i].astype(np.float64))
        assert measured[i].item() == pytest.approx(expected, rel=1e-5)
