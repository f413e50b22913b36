"""What must hold for every map, whatever the layer: drawn by hypothesis."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from methods import activation, gradient
from methods.common import weighted_sum
from methods.entropy import ESTIMATORS, consensus_cam, feature_entropy, grad_entropy
from methods.layers.factors import dff

METHODS = {
    "grad_cam": gradient.grad_cam,
    "hirescam": gradient.hirescam,
    "respond_cam": gradient.respond_cam,
    "xgrad_cam": gradient.xgrad_cam,
    "grad_cam_pp": gradient.grad_cam_pp,
    "layer_cam": gradient.layer_cam,
    "grad_cam_elementwise": gradient.grad_cam_elementwise,
    "refine_cam": gradient.refine_cam,
    "consensus_cam": consensus_cam,
    "eigen_cam": lambda acts, grads: activation.eigen_cam(acts),
    "dff": dff,
    "eigen_grad_cam": gradient.eigen_grad_cam,
    "seg_eigen_cam": gradient.seg_eigen_cam,
    "kpca_cam": lambda acts, grads: activation.kpca_cam(acts, gamma=0.1),
    "fem": lambda acts, grads: activation.fem(acts),
    "activation_sum": lambda acts, grads: activation.activation_sum(acts),
}
for name, function in (("cam", activation.cam), ("lift_cam", activation.lift_cam)):
    METHODS[name] = lambda acts, grads, function=function: function(
        acts, [(0,)] * len(acts), head=torch.arange(1.0, acts.shape[1] + 1)[None], outputs=acts.new_zeros(len(acts), 1)
    )
for name in ESTIMATORS:
    METHODS[f"grad_entropy_{name}"] = lambda acts, grads, name=name: grad_entropy(acts, grads, estimator=name)
    METHODS[f"feature_entropy_{name}"] = lambda acts, grads, name=name: feature_entropy(acts, estimator=name)
METHODS["grad_entropy_signed"] = lambda acts, grads: grad_entropy(acts, grads, signed=True)
METHODS["grad_entropy_inverted"] = lambda acts, grads: grad_entropy(acts, grads, invert=True)
METHODS["grad_entropy_normalized"] = lambda acts, grads: grad_entropy(acts, grads, normalize="sum")
METHODS["grad_entropy_range_normalized"] = lambda acts, grads: grad_entropy(acts, grads, normalize="range")
METHODS["feature_entropy_inverted"] = lambda acts, grads: feature_entropy(acts, invert=True)
METHODS["feature_entropy_range_normalized"] = lambda acts, grads: feature_entropy(acts, normalize="range")

every_method = pytest.mark.parametrize("name", METHODS)
quick = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.lists(st.integers(1, 6), min_size=1, max_size=3)).map(
    lambda drawn: (drawn[0], drawn[1], *drawn[2])
)


def make(shape, seed, relu, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    acts, grads = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return (acts.relu() if relu else acts).to(dtype), grads.to(dtype)


layers = st.builds(make, shapes, st.integers(0, 2**31), st.booleans())


def same(actual, expected):
    scale = float(expected.abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-7 * scale + 1e-12)


@every_method
@quick
@given(layer=layers)
def test_shape_and_finite(name, layer):
    acts, grads = layer
    maps = METHODS[name](acts, grads)
    assert maps.shape == (len(acts), *acts.shape[2:])
    assert maps.isfinite().all()


@every_method
@quick
@given(layer=layers)
def test_a_case_does_not_know_its_batch(name, layer):
    acts, grads = layer
    together = METHODS[name](acts, grads)
    for n in range(len(acts)):
        same(METHODS[name](acts[n : n + 1], grads[n : n + 1])[0], together[n])


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"cam", "lift_cam"}))  # their weights belong to the channels
@quick
@given(layer=layers, data=st.data())
def test_order_of_channels(name, layer, data):
    acts, grads = layer
    order = data.draw(st.permutations(range(acts.shape[1])))
    same(METHODS[name](acts[:, order], grads[:, order]), METHODS[name](acts, grads))


# shares and ranges over channels, and log K, count a dead channel, too
COUNTS = ("cam", "consensus_cam", "grad_entropy_normalized", "grad_entropy_range_normalized")
COUNTS += ("feature_entropy_range_normalized",)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in COUNTS])
@quick
@given(layer=layers)
def test_dead_channel(name, layer):
    acts, grads = layer
    with_dead = torch.cat([acts, torch.zeros_like(acts[:, :1])], 1), torch.cat([grads, grads[:, :1]], 1)
    same(METHODS[name](*with_dead), METHODS[name](acts, grads))


@every_method
@quick
@given(layer=layers)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_first(name, dtype, layer):
    acts, grads = (x.to(dtype) for x in layer)
    assert torch.equal(METHODS[name](acts, grads), METHODS[name](acts.float(), grads.float()))


SCALES = {"grad_cam", "hirescam", "respond_cam", "xgrad_cam", "layer_cam", "grad_cam_elementwise", "eigen_grad_cam"}
SCALES |= {"seg_eigen_cam", "consensus_cam"}
# Grad-CAM++ has a unit (alpha falls as g grows) and softmax a temperature: for them the score's scale matters.
LEAVES = set(METHODS) - SCALES - {"grad_cam_pp", "refine_cam", "grad_entropy_softmax"}


@pytest.mark.parametrize("name", sorted(SCALES | LEAVES))
@quick
@given(layer=layers, power=st.integers(-20, 20))
def test_scale_of_the_score(name, layer, power):
    acts, grads = layer
    maps = METHODS[name](acts, grads)
    same(METHODS[name](acts, grads * 2.0**power), maps * 2.0**power if name in SCALES else maps)


@pytest.mark.parametrize("name", ["grad_cam", "hirescam", "respond_cam", "xgrad_cam", "grad_entropy_signed"])
@quick
@given(layer=layers)
def test_evidence_against_is_the_negative(name, layer):
    acts, grads = layer
    same(METHODS[name](acts, -grads), -METHODS[name](acts, grads))


# A value on a level's edge may count in the next level, and a sum of signed activations may cancel: no closeness there.
STEPS = ("histogram", "local", "signed", "inverted", "normalized")


@pytest.mark.parametrize("name", [name for name in METHODS if not name.endswith(STEPS)])
@quick
@given(shape=shapes, seed=st.integers(0, 2**31))
def test_single_precision_is_near_double(name, shape, seed):
    acts, grads = make(shape, seed, relu=True, dtype=torch.float32)
    single, double = METHODS[name](acts, grads).double(), METHODS[name](acts.double(), grads.double())
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-4 * float(double.abs().max()) + 1e-6)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_last_maps(name, dtype):
    acts, grads = make((3, 5, 6, 7), 1, True, dtype)
    last = [x.to(memory_format=torch.channels_last) for x in (acts, grads)]
    torch.testing.assert_close(METHODS[name](*last), METHODS[name](acts, grads))


@every_method
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_value_is_seen_and_stays_in_its_case(name, bad):
    acts, grads = make((3, 5, 6, 7), 1, True)
    expected = METHODS[name](acts, grads)
    acts[0, 1, 2, 3] = grads[0, 1, 2, 3] = bad
    maps = METHODS[name](acts, grads)
    assert not maps[0].isfinite().all()
    torch.testing.assert_close(maps[1:], expected[1:])


@every_method
def test_zero_layer(name):
    zeros = torch.zeros(2, 4, 5, 6)
    assert not METHODS[name](zeros, zeros).any()


def test_a_weighted_sum_is_exact_to_the_last_digit():
    """In float32 it would depend on the batch size and the number of threads."""
    generator = torch.Generator().manual_seed(0)
    acts, weights = torch.rand(4, 1152, 7, 7, generator=generator), torch.randn(4, 1152, generator=generator)
    expected = (weights.double()[..., None, None] * acts.double()).sum(1).float()
    assert torch.equal(weighted_sum(weights, acts), expected)
    assert torch.equal(weighted_sum(weights[:1], acts[:1]), expected[:1])
