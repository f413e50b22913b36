"""Our maps against pytorch-grad-cam 1.5.7 and torchcam 0.5.0, end to end: their hooks and passes, their arithmetic.

Compared at the layer's own size, after ReLU, stretched to 0 .. 1. Where we differ on purpose the test says why.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.maps.heatmaps import fuse, upsample
from methods import activation, gradient
from methods.common import minmax

LAYERS = ("blocks.3.0.bn2.act", "blocks.6.0.bn2.act", "bn2.act")
TARGET = 281


def shown(maps):
    return minmax(torch.as_tensor(np.asarray(maps)).double().relu())


def up_to_sign(maps, reference):
    maps, reference = (torch.as_tensor(np.asarray(m)).double() for m in (maps, reference))
    agree = (maps * reference).flatten(1).sum(1).sign().view(-1, 1, 1)
    scale = reference.abs().amax((1, 2), keepdim=True)
    return maps / scale, agree * reference / scale


@pytest.fixture(scope="module")
def jacobgil(efficientnet, photographs):
    """`jacobgil(class name, layer)` -> pytorch-grad-cam's map at the layer's size, (2, h, w)."""
    package = pytest.importorskip("pytorch_grad_cam")
    targets = [package.utils.model_targets.ClassifierOutputTarget(TARGET)] * 2

    def compute(name, layer):
        images = photographs.clone().requires_grad_()
        with getattr(package, name)(efficientnet, [efficientnet.get_submodule(layer)]) as peer:
            peer(images, targets)
            captured = peer.activations_and_grads
            acts = captured.activations[0].numpy()
            grads = captured.gradients[0].numpy() if captured.gradients else None
            return peer.get_cam_image(images, None, targets, acts, grads, False)

    return compute


@pytest.fixture(scope="module")
def torchcam(efficientnet, photographs):
    """`torchcam(class name, layer)` -> torchcam's map at the layer's size, stretched to 0 .. 1."""
    package = pytest.importorskip("torchcam.methods")

    def compute(name, layers):
        with getattr(package, name)(efficientnet, layers) as peer:
            return peer([TARGET] * 2, efficientnet(photographs.clone().requires_grad_()))[0].detach()

    return compute


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "peer,method",
    [
        ("GradCAM", gradient.grad_cam),
        ("XGradCAM", gradient.xgrad_cam),
        ("LayerCAM", gradient.layer_cam),
        ("HiResCAM", gradient.hirescam),
        ("GradCAMElementWise", gradient.grad_cam_elementwise),
        ("SegEigenCAM", gradient.seg_eigen_cam),
    ],
)
def test_pytorch_grad_cam(jacobgil, real_layers, layer, peer, method):
    ours = real_layers[layer]
    torch.testing.assert_close(shown(method(ours.acts, ours.grads)), shown(jacobgil(peer, layer)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "peer,method",
    [
        ("EigenCAM", lambda a, g: activation.eigen_cam(a)),
        ("EigenGradCAM", gradient.eigen_grad_cam),
        ("KPCA_CAM", lambda a, g: activation.kpca_cam(a)),
    ],
)
def test_pytorch_grad_cam_up_to_sign(jacobgil, real_layers, layer, peer, method):
    ours = real_layers[layer]
    actual, expected = up_to_sign(method(ours.acts, ours.grads), jacobgil(peer, layer))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    "peer,method",
    [("GradCAM", gradient.grad_cam), ("XGradCAM", gradient.xgrad_cam), ("LayerCAM", gradient.layer_cam)],
)
def test_torchcam(torchcam, real_layers, layer, peer, method):
    ours = real_layers[layer]
    torch.testing.assert_close(shown(method(ours.acts, ours.grads)), torchcam(peer, layer).double(), rtol=0, atol=1e-4)


def test_torchcams_cam(torchcam, efficientnet, real_layers):
    acts, head = real_layers["bn2.act"].acts, efficientnet.classifier.weight
    ours = activation.cam(acts, [(TARGET,)] * 2, head=head, outputs=torch.zeros(2, len(head)))
    torch.testing.assert_close(minmax(ours), torchcam("CAM", "bn2.act"), rtol=0, atol=1e-4)  # no ReLU there


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_pp_differs_from_torchcam_by_its_division_that_does_nothing(torchcam, real_layers, layer):
    """There `alpha[mask].div_(...)` divides a copy, so that alpha stays g^2 and the weight is the sum of relu(g)^3."""
    ours, peer = real_layers[layer], minmax(torchcam("GradCAMpp", layer).double())
    cubes = ours.grads.double().relu().pow(3).sum((2, 3), keepdim=True)
    torch.testing.assert_close(shown((cubes * ours.acts).sum(1)), peer, rtol=0, atol=1e-4)
    assert (shown(gradient.grad_cam_pp(ours.acts, ours.grads)) - peer).abs().max() > 0.1


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_pp_differs_from_pytorch_grad_cam_by_its_epsilon(jacobgil, real_layers, layer):
    """There 1e-6 is added to 2 g^2 + sum(A) g^3, which is as small itself; without it their formula is ours."""
    ours = real_layers[layer]
    acts, grads = ours.acts.double(), ours.grads.double()

    def formula(epsilon):
        denominator = 2 * grads**2 + acts.sum((2, 3), keepdim=True) * grads**3 + epsilon
        alpha = torch.where(denominator != 0, grads**2 / denominator, 0)
        return ((alpha * grads.relu()).sum((2, 3), keepdim=True) * acts).sum(1)

    peer = shown(jacobgil("GradCAMPlusPlus", layer))
    actual = shown(gradient.grad_cam_pp(ours.acts, ours.grads))
    torch.testing.assert_close(actual, shown(formula(0)), rtol=0, atol=1e-4)
    torch.testing.assert_close(peer, shown(formula(1e-6)), rtol=0, atol=1e-4)
    assert (actual - peer).abs().max() > 0.01


def test_fem_differs_from_pytorch_grad_cam_by_its_weights(jacobgil, real_layers):
    """The paper adds up binary maps times channel means; there, activations times the share of strong positions."""
    acts = real_layers["bn2.act"].acts
    limit = acts.mean((2, 3), keepdim=True) + 2 * acts.std((2, 3), correction=0, keepdim=True)
    strong = (acts > limit).float()
    peer = shown(jacobgil("FEM", "bn2.act"))
    torch.testing.assert_close(shown((strong.mean((2, 3), keepdim=True) * acts).sum(1)), peer, rtol=0, atol=1e-4)
    ours = shown(activation.fem(acts))
    torch.testing.assert_close(shown((acts.mean((2, 3), keepdim=True) * strong).sum(1)), ours, rtol=0, atol=1e-4)
    assert (ours - peer).abs().max() > 0.1


def test_refine_cam_multiplies_as_torchcam(real_layers):
    """The fusion alone, each product divided by its maximum: its default base method is the Grad-CAM++ above."""
    package = pytest.importorskip("torchcam.methods")
    layers = [real_layers[name] for name in LAYERS]
    maps = [gradient.grad_cam_pp(layer.acts, layer.grads).relu() for layer in layers]
    theirs = package.RefineCAM.fuse_cams(maps, (28, 28), normalized=False)
    factors = [gradient.refine_cam(layer.acts, layer.grads) for layer in layers]
    ours = fuse([upsample(factor, (28, 28)) for factor in factors], "product")
    ours, theirs = (product / product.amax((1, 2), keepdim=True) for product in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
