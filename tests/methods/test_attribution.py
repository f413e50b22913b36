"""Pixel attributions: captum's own numbers, closed forms, and nothing left on the network."""

from __future__ import annotations

import copy
import inspect
import sys
from types import SimpleNamespace

import multipass as helpers
import numpy as np
import pytest
import torch
from torch import nn

from methods import attribution

captum = pytest.importorskip("captum.attr")

METHODS = {
    "gradient": attribution.gradient,
    "input_x_gradient": attribution.input_x_gradient,
    "integrated_gradients": attribution.integrated_gradients,
    "guided_backprop": attribution.guided_backprop,
}
RANKS = [pytest.param({"rank": 1, "channels": 1}, id="1d"), pytest.param({}, id="2d")]
RANKS += [pytest.param({"rank": 3, "channels": 2}, id="3d")]


def setup_of(options: dict | None = None, **network) -> SimpleNamespace:
    options = options or {}
    return helpers.runtime(helpers.Network(**options, **network), helpers.images_of(**options))


def call(function, run: SimpleNamespace, **parameters):
    wanted = {name: getattr(run, name) for name in inspect.signature(function).parameters if hasattr(run, name)}
    return function(**wanted, **parameters)


def slopes(run: SimpleNamespace, images: torch.Tensor) -> torch.Tensor:
    """Gradient of each case's explained score, one case at a time."""
    result = []
    for image, target in zip(images, run.targets, strict=True):
        leaf = image[None].clone().requires_grad_()
        result.append(torch.autograd.grad(helpers.logit(run.module(leaf)[0], target), leaf)[0][0])
    return torch.stack(result)


@pytest.mark.parametrize("options", RANKS)
def test_gradient(options) -> None:
    run = setup_of(options)
    expected = slopes(run, run.images)
    torch.testing.assert_close(call(attribution.gradient, run), expected.abs().amax(1))
    torch.testing.assert_close(call(attribution.gradient, run, channels="sum"), expected.sum(1))
    torch.testing.assert_close(call(attribution.gradient, run, channels="sum_abs"), expected.abs().sum(1))


@pytest.mark.parametrize("options", RANKS)
def test_input_x_gradient(options) -> None:
    run = setup_of(options)
    expected = (slopes(run, run.images) * run.images).sum(1)
    torch.testing.assert_close(call(attribution.input_x_gradient, run), expected)


def test_input_x_gradient_sums_to_the_score_without_biases() -> None:
    run = helpers.runtime(helpers.Network(bias=False), helpers.images_of(), targets=[(1,), (0,), (4,)])
    score = run.score.logit(run.images, torch.arange(3))
    torch.testing.assert_close(call(attribution.input_x_gradient, run).flatten(1).sum(1), score)


@pytest.mark.parametrize("options", RANKS)
@pytest.mark.parametrize("rule", ["gausslegendre", "riemann_middle", "riemann_left", "riemann_right"])
def test_integrated_gradients(options, rule) -> None:
    run = setup_of(options)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    points = (nodes + 1) / 2
    if rule != "gausslegendre":
        points, weights = (
            (np.arange(8) + {"left": 0, "middle": 0.5, "right": 1}[rule.split("_")[1]]) / 8,
            np.full(8, 2 / 8),
        )
    mean = sum(w / 2 * slopes(run, point * run.images) for point, w in zip(points, weights, strict=True))
    result = call(attribution.integrated_gradients, run, steps=8, rule=rule)
    torch.testing.assert_close(result, (mean * run.images).sum(1), rtol=1e-6, atol=1e-9)


def test_integrated_gradients_are_complete() -> None:
    run = setup_of(smooth=True)
    everything = torch.arange(3)
    change = run.score.logit(run.images, everything) - run.score.logit(torch.zeros_like(run.images), everything)
    total = call(attribution.integrated_gradients, run, steps=200).flatten(1).sum(1)
    torch.testing.assert_close(total, change, rtol=5e-3, atol=5e-3)


def test_a_linear_network_in_closed_form() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3 * 4 * 5, 4).double()
    images, targets = torch.randn(2, 3, 4, 5, dtype=torch.float64), [(2,), (0,)]
    weights = linear.weight.detach()[[2, 0]].view(2, 3, 4, 5)
    inputs = {"logits": lambda batch, _: linear(batch.flatten(1)), "channels": "sum"}
    torch.testing.assert_close(attribution.gradient(images, targets, **inputs), weights.sum(1))
    for method in (attribution.input_x_gradient, attribution.integrated_gradients):
        torch.testing.assert_close(method(images, targets, **inputs), (weights * images).sum(1))


def test_on_a_real_network(efficientnet, photographs) -> None:
    """EfficientNet-Lite0 in float64, one picture at a time; it has ReLU6, which guided backpropagation refuses."""
    small = torch.nn.functional.interpolate(photographs.double(), (48, 40), mode="bilinear", antialias=True)
    network = copy.deepcopy(efficientnet).double()
    run = helpers.runtime(network, small, [(281,), (504, 967)], ["cat", "coffee"], layer="bn2.act")
    near = {"rtol": 1e-6, "atol": 1e-12}
    slope = slopes(run, small)
    torch.testing.assert_close(call(attribution.gradient, run), slope.abs().amax(1), **near)
    torch.testing.assert_close(call(attribution.input_x_gradient, run), (slope * small).sum(1), **near)
    nodes, weights = np.polynomial.legendre.leggauss(7)
    path = sum(float(w) / 2 * slopes(run, small * float(n + 1) / 2) for n, w in zip(nodes, weights, strict=True))
    expected = (path * small).sum(1)
    near["atol"] = 1e-6 * float(expected.abs().max())  # captum's weights of the steps are float32
    torch.testing.assert_close(call(attribution.integrated_gradients, run, steps=7), expected, **near)


@pytest.mark.parametrize("options", RANKS)
def test_guided_backprop(options) -> None:
    run = setup_of(options)
    net, expected = run.module, []
    for image, target in zip(run.images, run.targets, strict=True):
        # by hand: back through each ReLU only what is positive and where the input was
        x = image[None].clone().requires_grad_()
        one = net.norm(net.first(x))
        lower = one.detach().relu().requires_grad_()
        two = net.second(lower)
        upper = two.detach().relu().requires_grad_()
        score = helpers.logit(net.head(upper.flatten(2).mean(2))[0], target)
        back = torch.autograd.grad(score, upper)[0].relu() * (two > 0)
        back = torch.autograd.grad(two, lower, back)[0].relu() * (one > 0)
        expected.append(torch.autograd.grad(one, x, back)[0][0].abs().amax(0))
    torch.testing.assert_close(call(attribution.guided_backprop, run), torch.stack(expected))


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor 0")
def test_captum_called_directly() -> None:
    targets = [1, 0, 4]
    run = helpers.runtime(helpers.Network(), helpers.images_of(), targets=[(t,) for t in targets])
    explainers = {
        "gradient": captum.Saliency, "input_x_gradient": captum.InputXGradient,
        "integrated_gradients": captum.IntegratedGradients, "guided_backprop": captum.GuidedBackprop,
    }  # fmt: skip
    for name, explainer in explainers.items():
        theirs = explainer(run.module).attribute(run.images, target=torch.tensor(targets)).detach()
        reduced = theirs.abs().amax(1) if name in ("gradient", "guided_backprop") else theirs.sum(1)
        torch.testing.assert_close(call(METHODS[name], run), reduced)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", RANKS)
def test_batch_of_one_is_batch_of_n(name, options) -> None:
    run = setup_of(options)
    result = call(METHODS[name], run)
    assert result.shape == (3, *run.images.shape[2:])
    for i in range(3):
        alone = helpers.runtime(run.module, run.images[i : i + 1], [run.targets[i]], [run.ids[i]])
        torch.testing.assert_close(call(METHODS[name], alone)[0], result[i])


@pytest.mark.parametrize("name", METHODS)
def test_another_class_gives_another_map(name) -> None:
    maps = [
        call(METHODS[name], helpers.runtime(helpers.Network(), helpers.images_of(n=1), [(target,)]))
        for target in range(3)
    ]
    for other in maps[1:]:
        assert not torch.allclose(maps[0] / maps[0].abs().max(), other / other.abs().max(), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", METHODS)
def test_quiet_and_nothing_left_behind(name) -> None:
    network = helpers.Network().float().requires_grad_()
    run = helpers.runtime(network, helpers.images_of().float())
    result = call(METHODS[name], run)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    assert not run.images.requires_grad
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())
    assert not any(module.training for module in network.modules())


def test_a_failure_leaves_no_hook() -> None:
    run = setup_of()
    run.images = run.images[:, :2]  # a channel too few
    with pytest.raises(RuntimeError):
        call(attribution.guided_backprop, run)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in run.module.modules())


def test_passes_are_those_of_the_docstring() -> None:
    run = setup_of()
    for name, passes in (("gradient", 1), ("input_x_gradient", 1), ("integrated_gradients", 50)):
        run.passes.clear()
        call(METHODS[name], run)
        assert run.passes["forward"] == 3 * passes


def test_refusals(monkeypatch) -> None:
    run = setup_of()
    with pytest.raises(ValueError, match="channels=x is unknown"):
        call(attribution.gradient, run, channels="x")
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        call(attribution.integrated_gradients, run, steps=0)
    with pytest.raises(ValueError, match="rule=x is unknown"):
        call(attribution.integrated_gradients, run, rule="x")
    run.module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="needs nn.ReLU modules"):
        call(attribution.guided_backprop, run)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ValueError, match="needs captum; install it"):
        call(attribution.gradient, run)
