"""Gradient maps against a network solved by hand, captum, and loops written from the formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from methods.activation import activation_sum
from methods.entropy import feature_entropy, grad_entropy
from methods.gradient import grad_cam, hirescam, respond_cam

METHODS = {
    "grad_cam": grad_cam,
    "hirescam": hirescam,
    "respond_cam": respond_cam,
    "grad_entropy": grad_entropy,
    "feature_entropy": lambda acts, grads: feature_entropy(acts),
    "activation_sum": lambda acts, grads: activation_sum(acts),
}


def layer(shape=(3, 5, 6, 7), dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    acts, grads = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return acts.relu().to(dtype), grads.to(dtype)


def test_by_hand():
    """Two channels on a 1 x 2 map; the score is 2 a00 + 4 a01 - 3 a11 + a00 a10, at a = [[1, 2], [0, 5]]."""
    acts = torch.tensor([[[1.0, 2.0]], [[0.0, 5.0]]])[None]
    grads = torch.tensor([[[2.0, 4.0]], [[1.0, -3.0]]])[None]  # d/da00 = 2 + a10 = 2, d/da10 = a00 = 1
    # means 3 and -1
    assert grad_cam(acts, grads)[0, 0].tolist() == [3.0, 6.0 - 5.0]
    assert hirescam(acts, grads)[0, 0].tolist() == [2.0, 8.0 - 15.0]
    # sum(g A) / sum(A): (2 + 8) / 3 and -15 / 5
    np.testing.assert_allclose(respond_cam(acts, grads)[0, 0], [10 / 3, 20 / 3 - 15], rtol=1e-6)
    assert activation_sum(acts)[0, 0].tolist() == [1.0, 7.0]
    # two different values: 1 bit for every channel
    assert grad_entropy(acts, grads)[0, 0].tolist() == [1.0, 7.0]
    # by magnitude: (1/3, 2/3) and (1/4, 3/4)
    one = math.log2(3) - 2 / 3
    two = 2 - 0.75 * math.log2(3)
    np.testing.assert_allclose(
        grad_entropy(acts, grads, estimator="magnitude")[0, 0], [one, 2 * one + 5 * two], rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(2, 4, 6, 7), (2, 3, 4, 5, 6), (1, 3, 9)])
def test_loops_over_channels(shape):
    acts, grads = layer(shape)
    expected = {name: np.zeros((shape[0], *shape[2:])) for name in ("grad_cam", "hirescam", "respond_cam")}
    for n, k in np.ndindex(*shape[:2]):
        a, g = acts[n, k].numpy(), grads[n, k].numpy()
        expected["grad_cam"][n] += g.mean() * a
        expected["hirescam"][n] += g * a
        expected["respond_cam"][n] += (g * a).sum() / a.sum() * a
    for name, value in expected.items():
        np.testing.assert_allclose(METHODS[name](acts, grads), value, rtol=1e-9, atol=1e-12)


def test_captum_on_the_tiny_network(tiny_network, capture):
    attr = pytest.importorskip("captum.attr")
    network = tiny_network()
    images = torch.randn(3, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    ours = capture(network, images, ("layer",), 2)["layer"]
    theirs = attr.LayerGradCam(network, network.layer).attribute(images, target=2)
    torch.testing.assert_close(grad_cam(ours.acts, ours.grads), theirs[:, 0].detach())
    theirs = attr.LayerGradientXActivation(network, network.layer).attribute(images, target=2)
    torch.testing.assert_close(hirescam(ours.acts, ours.grads), theirs.sum(1).detach())


def test_captum_on_efficientnet(efficientnet, photographs, real_layers):
    attr = pytest.importorskip("captum.attr")
    for name in ("blocks.6.0.bn2.act", "bn2.act"):
        ours = real_layers[name]
        images = photographs.clone().requires_grad_()
        theirs = attr.LayerGradCam(efficientnet, efficientnet.get_submodule(name)).attribute(images, target=281)
        torch.testing.assert_close(grad_cam(ours.acts, ours.grads), theirs[:, 0].detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_respond_cam_sums_to_the_score_minus_bias_terms(tiny_network, capture, rank, bias):
    network = tiny_network(rank=rank, bias=bias, channels=4)
    size = (7, 6, 5)[:rank]
    images = torch.randn(3, 4, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    ours = capture(network, images, ("layer",), 1)["layer"]
    score = network(images)[:, 1].detach()
    if bias:
        # the bias terms are what the linear piece gives to a = 0: score = sum(g a) + sum over biases of gradient * bias
        biases = [network.second.bias, network.head.bias]
        for tensor in biases:
            tensor.requires_grad_()
        terms = []
        for image in images:
            gradients = torch.autograd.grad(network(image[None])[0, 1], biases)
            terms.append(sum((g * b).sum() for g, b in zip(gradients, biases, strict=True)))
        score = score - torch.stack(terms).detach()
    total = (ours.grads * ours.acts).flatten(1).sum(1)
    torch.testing.assert_close(total, score)
    torch.testing.assert_close(respond_cam(ours.acts, ours.grads).flatten(1).sum(1), score)
    torch.testing.assert_close(hirescam(ours.acts, ours.grads).flatten(1).sum(1), score)


def test_respond_cam_leaves_out_a_channel_that_sums_to_zero():
    acts, grads = layer()
    expected = respond_cam(acts[:, :3], grads[:, :3])
    acts[:, 3] = 0
    acts[:, 4] = 0
    acts[:, 4, 0, :2] = torch.tensor([2.0, -2.0], dtype=acts.dtype)
    torch.testing.assert_close(respond_cam(acts, grads), expected)


def test_grad_cam_equals_hirescam_before_global_pooling(real_layers):
    """There the gradient is one constant per channel, so every way to average it is the same."""
    ours = real_layers["bn2.act"]
    expected = grad_cam(ours.acts, ours.grads)
    torch.testing.assert_close(hirescam(ours.acts, ours.grads), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(respond_cam(ours.acts, ours.grads), expected, rtol=1e-4, atol=1e-5)


def test_linear_layer_network_by_autograd():
    """A 1 x 1 convolution head: the score's gradient is the weight, so the map is the weighted sum divided by Z."""
    head = nn.Conv2d(4, 1, 1, bias=False)
    acts = torch.rand(2, 4, 5, 6, requires_grad=True)
    grads = torch.autograd.grad(head(acts).mean((1, 2, 3)).sum(), acts)[0]
    torch.testing.assert_close(grad_cam(acts.detach(), grads), head(acts)[:, 0].detach() / 30)
