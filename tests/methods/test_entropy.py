"""Each entropy estimator against its public namesake, on made and on real feature maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.filters.rank import entropy as rank_entropy
from skimage.filters.rank import pop as rank_pop
from skimage.measure import shannon_entropy
from skimage.morphology import ball, disk

from methods.entropy import ESTIMATORS, entropy, feature_entropy, grad_entropy, reweight

LAYERS = ("blocks.1.0.bn1.act", "blocks.3.0.bn2.act", "blocks.6.0.bn2.act", "bn2.act")


def histogram_reference(x, bins=256):
    return scipy.stats.entropy(np.histogram(x, bins)[0], base=2)


def softmax_reference(x):
    share = np.exp(x.astype(np.float64) - x.max())
    return scipy.stats.entropy(share.ravel(), base=2)


REFERENCE = {
    "histogram": histogram_reference,
    "value": lambda x: shannon_entropy(x, base=2),
    "magnitude": lambda x: scipy.stats.entropy(np.abs(x.astype(np.float64)).ravel(), base=2) if x.any() else 0.0,
    "softmax": softmax_reference,
}


def by_channel(reference, x):
    return np.array([[reference(channel.numpy()) for channel in case] for case in x])


def made(shape=(3, 5, 14, 17), dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("estimator", REFERENCE)
@pytest.mark.parametrize("kind", ["acts", "grads"])
@pytest.mark.parametrize("layer", LAYERS)
def test_real_maps(real_layers, layer, kind, estimator):
    x = getattr(real_layers[layer], kind)
    x = x[:, :: max(1, x.shape[1] // 60)]
    expected = by_channel(REFERENCE[estimator], x)
    np.testing.assert_allclose(entropy(x, estimator=estimator), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        entropy(x.double(), estimator=estimator), by_channel(REFERENCE[estimator], x.double()), atol=1e-12
    )


@pytest.mark.parametrize("estimator", REFERENCE)
@pytest.mark.parametrize("shape", [(3, 5, 14, 17), (2, 3, 6, 5, 4), (2, 3, 40), (1, 1, 1, 1)])
def test_made_maps_of_any_rank(estimator, shape):
    x = made(shape).mul(3).round(decimals=1)  # one decimal: `value` finds equal values
    np.testing.assert_allclose(entropy(x, estimator=estimator), by_channel(REFERENCE[estimator], x), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [2, 7, 100, 256, 1000])
def test_values_on_and_beside_the_bin_edges(dtype, bins):
    kind = np.float32 if dtype is torch.float32 else np.float64
    channels = []
    for seed in range(20):
        low, high = np.sort(np.random.default_rng(seed).normal(size=2) * 10.0 ** (seed - 10)).astype(kind)
        edge = np.linspace(low, high, bins + 1, dtype=kind)
        values = np.concatenate([edge, np.nextafter(edge, -np.inf), np.nextafter(edge, np.inf)])
        channels.append(values.clip(low, high))
    x = torch.from_numpy(np.stack(channels))[None]
    np.testing.assert_allclose(entropy(x, bins=bins), by_channel(lambda c: histogram_reference(c, bins), x), atol=1e-5)


def local_reference(channel, radius):
    low, high = channel.min(), channel.max()
    level = np.floor((channel - low) / (high - low) * 256).clip(0, 255).astype(np.uint8)
    return rank_entropy(level, disk(radius) if channel.ndim == 2 else ball(radius))


@pytest.mark.parametrize(
    "shape,radius",
    [((2, 3, 14, 17), 1), ((2, 3, 14, 17), 2), ((1, 2, 9, 8), 5), ((1, 2, 7, 7), 10), ((2, 2, 5, 6, 7), 2)],
)
def test_local_equals_rank_entropy(shape, radius):
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 6, shape)).double() / 5
    expected = np.array([[local_reference(channel.numpy(), radius) for channel in case] for case in x])
    np.testing.assert_allclose(entropy(x, estimator="local", radius=radius), expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["acts", "grads"])
def test_local_on_a_real_map(real_layers, kind):
    x = getattr(real_layers["blocks.3.0.bn2.act"], kind)[:, :40].double()
    x = x[x.flatten(2).amax(2) > x.flatten(2).amin(2)][None]
    expected = np.array([[local_reference(channel.numpy(), 2) for channel in case] for case in x])
    np.testing.assert_allclose(entropy(x, estimator="local", radius=2), expected, atol=1e-9)


def test_local_bins_are_levels():
    x = torch.tensor([0.0, 0.4, 0.6, 1.0]).view(1, 1, 4)
    # two levels 0 0 1 1: one neighbour on each side, so windows 00, 001, 011, 11
    third = scipy.stats.entropy([1, 2], base=2)
    np.testing.assert_allclose(entropy(x, estimator="local", bins=2, radius=1)[0, 0], [0, third, third, 0], atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_constant_and_dead_channels(estimator):
    x = torch.stack([torch.zeros(6, 8), torch.full((6, 8), -3.7), torch.full((6, 8), 1e-30)])[None]
    h = entropy(x, estimator=estimator)
    if estimator in ("magnitude", "softmax"):
        full = math.log2(48)
        expected = torch.tensor([[0.0 if estimator == "magnitude" else full, full, full]])
        torch.testing.assert_close(h, expected)
    else:
        assert torch.equal(h, torch.zeros_like(h))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_base_changes_the_unit(estimator):
    x = made()
    bits, nats = (entropy(x, estimator=estimator, base=base) for base in (2, math.e))
    torch.testing.assert_close(bits * math.log(2), nats)
    assert nats.max() > 0.5


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_channel_is_nan_and_harms_no_other(estimator, bad):
    x = made()
    clean = entropy(x, estimator=estimator)
    x[1, 2, 3, 4] = bad
    h = entropy(x, estimator=estimator)
    assert h[1, 2].isnan().all()
    keep = torch.ones(3, 5, dtype=torch.bool)
    keep[1, 2] = False
    assert torch.equal(h[keep], clean[keep])


def test_negative_zero_equals_zero():
    x = torch.tensor([0.0, -0.0, 1.0, 1.0]).view(1, 1, 2, 2)
    assert entropy(x, estimator="value").item() == 1.0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_more_rows_than_one_block(estimator):
    x = made((2, 1500, 7, 7))  # 2,048 rows of 256 bins make a block
    whole = entropy(x, estimator=estimator)
    assert torch.equal(whole[1, 545:550], entropy(x[1:, 545:550], estimator=estimator)[0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_as_float32(estimator, dtype):
    x = made(dtype=dtype)
    assert torch.equal(entropy(x, estimator=estimator), entropy(x.float(), estimator=estimator))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_strided_input_and_a_graph_do_no_harm(estimator):
    x = made((3, 14, 17, 5)).permute(0, 3, 1, 2)
    expected = entropy(x.contiguous(), estimator=estimator)
    assert torch.equal(entropy(x, estimator=estimator), expected)
    assert torch.equal(entropy(x.requires_grad_(), estimator=estimator), expected)


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"estimator": "shannon"}, "choose one of histogram"),
        ({"bins": 1}, "bins must be"),
        ({"base": 1}, "base must be"),
        ({"radius": 0}, "radius must be"),
    ],
)
def test_wrong_parameters(wrong, message):
    with pytest.raises(ValueError, match=message):
        entropy(made(), **wrong)


@pytest.mark.parametrize("estimator", REFERENCE)
def test_maps_are_the_papers_equations(tiny_layer, estimator):
    acts, grads = tiny_layer.acts, tiny_layer.grads
    for weights_of, actual in (
        (grads, grad_entropy(acts, grads, estimator=estimator)),
        (acts, feature_entropy(acts, estimator=estimator)),
    ):
        weights = by_channel(REFERENCE[estimator], weights_of)
        expected = np.zeros_like(actual)
        for n, k in np.ndindex(*weights.shape):
            expected[n] += weights[n, k] * acts[n, k].numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


def test_local_weight_is_a_map(tiny_layer):
    acts, grads = tiny_layer.acts, tiny_layer.grads
    weights = entropy(grads, estimator="local", radius=3)
    expected = sum(weights[:, k] * acts[:, k] for k in range(acts.shape[1]))
    torch.testing.assert_close(grad_entropy(acts, grads, estimator="local", radius=3), expected)


@pytest.mark.parametrize("estimator", ["histogram", "local"])
def test_signed_weights_follow_the_mean_gradient(tiny_layer, estimator):
    acts, grads = tiny_layer.acts, tiny_layer.grads
    positive = (grads.mean((2, 3)) > 0)[..., None, None]
    assert positive.any() and not positive.all()
    split = [grad_entropy(acts * part, grads, estimator=estimator) for part in (positive, ~positive)]
    torch.testing.assert_close(grad_entropy(acts, grads, estimator=estimator, signed=True), split[0] - split[1])


def test_gradient_before_global_pooling_is_constant(real_layers):
    layer = real_layers["bn2.act"]  # followed by global average pooling and a linear layer
    positions = layer.acts[0, 0].numel()
    for estimator in ("histogram", "value"):
        assert not entropy(layer.grads, estimator=estimator).any()
        assert not grad_entropy(layer.acts, layer.grads, estimator=estimator).any()
    magnitude = entropy(layer.grads, estimator="magnitude")
    torch.testing.assert_close(magnitude, torch.full_like(magnitude, math.log2(positions)))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_inverted_weight_is_what_is_missing_to_the_largest_entropy(tiny_layer, estimator):
    x = tiny_layer.grads  # (3, 6, 7, 9)
    plain = entropy(x, estimator=estimator, bins=16, base=3)
    inverted = reweight(x, invert=True, estimator=estimator, bins=16, base=3)
    largest = torch.tensor(63.0 if estimator not in ("histogram", "local") else 16.0, dtype=torch.float64)
    if estimator == "local":
        # a disk of radius 2 has 13 positions, in a corner 6 of them inside
        largest = torch.tensor(rank_pop(np.zeros((7, 9), np.uint8), disk(2)).astype(float)).clamp(max=16)
        assert largest.min() == 6 and largest.max() == 13
    torch.testing.assert_close(plain + inverted, (largest.log() / math.log(3)).expand_as(plain))


def test_inverted_weight_of_extremes():
    even = torch.arange(8.0).view(1, 1, 8)
    focused = torch.zeros(1, 1, 8)
    focused[0, 0, 3] = 1
    x = torch.cat([even, focused], 1)
    assert reweight(x, invert=True, estimator="value")[0, 0] == 0  # all different
    assert reweight(x, invert=True, estimator="magnitude")[0, 1] == 3  # one position of 8 has it all
    assert reweight(x, invert=True, bins=4)[0, 0] == 0  # two in each level
    assert reweight(x, invert=True, bins=256)[0, 0] == 0  # 8 positions fill 8 levels at most


@pytest.mark.parametrize("estimator", ["magnitude", "local"])
def test_normalized_weights(tiny_layer, estimator):
    x = tiny_layer.grads
    plain = entropy(x, estimator=estimator).flatten(1)
    for normalize, expected in (
        ("sum", plain / plain.sum(1, keepdim=True)),
        ("softmax", plain.exp() / plain.exp().sum(1, keepdim=True)),
        ("range", (plain - plain.amin(1, keepdim=True)) / (plain.amax(1, keepdim=True) - plain.amin(1, keepdim=True))),
        (None, plain),
    ):
        actual = reweight(x, normalize=normalize, estimator=estimator)
        torch.testing.assert_close(actual.flatten(1), expected)
    with pytest.raises(ValueError, match="choose one of sum, range, softmax"):
        reweight(x, normalize="max")


def test_normalizing_equal_or_no_weights():
    constant = torch.ones(1, 3, 4)
    assert reweight(constant, normalize="sum").tolist() == [[0, 0, 0]]  # all entropies are 0: nothing to divide
    assert reweight(constant, normalize="range", estimator="magnitude").tolist() == [[0, 0, 0]]
    torch.testing.assert_close(reweight(constant, normalize="softmax"), torch.full((1, 3), 1 / 3))


def test_options_reach_the_maps(tiny_layer):
    acts, grads = tiny_layer.acts, tiny_layer.grads
    for options in ({"invert": True}, {"normalize": "range"}, {"invert": True, "normalize": "softmax", "bins": 8}):
        for x, actual in ((grads, grad_entropy(acts, grads, **options)), (acts, feature_entropy(acts, **options))):
            weights = reweight(x, **options)[..., None, None]
            torch.testing.assert_close(actual, (weights * acts).sum(1))
    sign = grads.mean((2, 3)).sign()[..., None, None]
    signed = (sign * reweight(grads, invert=True)[..., None, None] * acts).sum(1)
    torch.testing.assert_close(grad_entropy(acts, grads, signed=True, invert=True), signed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_does_not_become_a_weight(dtype):
    """Gradients of many different values have the largest `value` entropy in every channel: nothing is focused."""
    x = torch.rand(2, 40, 3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x = x + torch.arange(3000)  # all different
    assert not reweight(x, invert=True, estimator="value").any()
    assert not reweight(x, normalize="range", estimator="value").any()
    x[0, 0, 0] = x[0, 0, 1]
    twice = reweight(x, invert=True, estimator="value")
    assert twice[0, 0].item() == pytest.approx(2 / 3000, rel=1e-2)
    assert not twice.flatten()[1:].any()


@pytest.mark.parametrize("estimator", ["histogram", "value", "magnitude", "softmax", "local"])
@pytest.mark.parametrize("positions", [(7, 7), (14, 14), (20, 20)])
def test_channels_last_equals_contiguous(estimator, positions):
    """Networks run in channels_last on a CPU; batch 1 and batch n have other strides."""
    for n in (1, 3):
        x = torch.randn(n, 40, *positions, generator=torch.Generator().manual_seed(4)).relu()
        last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(entropy(last, estimator=estimator), entropy(x, estimator=estimator))


def test_variants_share_their_entropies(tiny_layer):
    """`once` saves work and changes nothing: seven methods, one computation for the gradients, one for activations."""
    acts, grads, known = tiny_layer.acts, tiny_layer.grads, {}

    def once(key, function):
        if key not in known:
            known[key] = function()
        return known[key]

    variants = [{}, {"invert": True}, {"normalize": "range"}]
    for options in [*variants, {"signed": True}]:
        torch.testing.assert_close(
            grad_entropy(acts, grads, once=once, **options), grad_entropy(acts, grads, **options)
        )
    for options in variants:
        torch.testing.assert_close(feature_entropy(acts, once=once, **options), feature_entropy(acts, **options))
    assert len(known) == 2
    grad_entropy(acts, grads, once=once, bins=16)
    assert len(known) == 3
