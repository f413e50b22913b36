"""Every shared-pass method against its paper's formula, written out slowly in float64, on a tiny and a real network."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from bench.maps.heatmaps import fuse, upsample
from methods import activation, entropy, gradient

LAYERS = ("tiny", "blocks.3.0.bn2.act", "blocks.6.0.bn2.act", "bn2.act")


def weighted(weights, a):
    total = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total += weights[k] * a[k]
    return total


def grad_cam(a, g):
    return weighted([g_k.sum() / g_k.size for g_k in g], a)


def hirescam(a, g):
    return weighted(g, a)


def respond_cam(a, g):
    return weighted([(g_k * a_k).sum() / a_k.sum() if a_k.sum() else 0 for a_k, g_k in zip(a, g, strict=True)], a)


def grad_cam_pp(a, g):
    weights = []
    for a_k, g_k in zip(a, g, strict=True):
        total = 0.0
        for value in g_k.ravel():
            denominator = 2 * value**2 + a_k.sum() * value**3
            alpha = value**2 / denominator if denominator else 0
            total += alpha * max(value, 0)
        weights.append(total)
    return weighted(weights, a)


def layer_cam(a, g):
    return weighted(np.maximum(g, 0), a)


def grad_cam_elementwise(a, g):
    return np.maximum(g * a, 0).sum(0)


def consensus_cam(a, g):
    """By scipy's entropy at each position, in its own normalization."""
    c = np.maximum(g * a, 0)
    total = c.sum(0)
    share = c / np.where(total == 0, 1, total)
    return total * scipy.stats.entropy(share + (total == 0), axis=0) / np.log(len(a)) * (total > 0)


def projected(x, center=True):
    """By a full singular value decomposition of positions x channels; any sign."""
    matrix = x.reshape(len(x), -1).T
    if center:
        matrix = matrix - matrix.mean(0)
    left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, 0] * singular[0]).reshape(x.shape[1:])


def oriented(image, a):
    return image * np.sign(np.corrcoef(image.ravel(), a.sum(0).ravel())[0, 1])


def eigen_cam(a, g):
    return oriented(projected(a), a)


def eigen_cam_uncentred(a, g):
    return oriented(projected(a, center=False), a)


def eigen_grad_cam(a, g):
    return oriented(projected(g * a), a)


def seg_eigen_cam(a, g):
    image = projected(np.abs(g) * a)
    return -image if abs(image.min()) > abs(image.max()) else image


def kernel_pca(kernel):
    def reference(a, g):
        x = a.reshape(len(a), -1)
        x = (x - x.mean(1, keepdims=True)).T
        gram = np.array([[kernel(p, q) for q in x] for p in x])
        centring = np.eye(len(x)) - 1 / len(x)
        values, vectors = np.linalg.eigh(centring @ gram @ centring)
        return oriented((vectors[:, -1] * np.sqrt(values[-1])).reshape(a.shape[1:]), a)

    return reference


def fem(a, g):
    total = np.zeros(a.shape[1:])
    for a_k in a:
        total += a_k.mean() * (a_k > a_k.mean() + 2 * a_k.std())
    return total


REFERENCE = {
    "grad_cam": (gradient.grad_cam, grad_cam),
    "hirescam": (gradient.hirescam, hirescam),
    "respond_cam": (gradient.respond_cam, respond_cam),
    "xgrad_cam": (gradient.xgrad_cam, respond_cam),
    "grad_cam_pp": (gradient.grad_cam_pp, grad_cam_pp),
    "layer_cam": (gradient.layer_cam, layer_cam),
    "grad_cam_elementwise": (gradient.grad_cam_elementwise, grad_cam_elementwise),
    "consensus_cam": (entropy.consensus_cam, consensus_cam),
    "eigen_cam": (lambda a, g: activation.eigen_cam(a), eigen_cam),
    "eigen_cam_uncentred": (lambda a, g: activation.eigen_cam(a, center=False), eigen_cam_uncentred),
    "eigen_grad_cam": (gradient.eigen_grad_cam, eigen_grad_cam),
    "seg_eigen_cam": (gradient.seg_eigen_cam, seg_eigen_cam),
    "kpca_cam": (
        lambda a, g: activation.kpca_cam(a),
        kernel_pca(lambda p, q: np.tanh(p @ q / len(p) + 1)),
    ),
    "fem": (lambda a, g: activation.fem(a), fem),
    "activation_sum": (lambda a, g: activation.activation_sum(a), lambda a, g: weighted(np.ones(len(a)), a)),
}


def pick(layer, tiny_layer, real_layers):
    source = tiny_layer if layer == "tiny" else real_layers[layer]
    return source.acts.double(), source.grads.double()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", REFERENCE)
def test_formula(tiny_layer, real_layers, layer, name):
    method, reference = REFERENCE[name]
    acts, grads = pick(layer, tiny_layer, real_layers)
    expected = np.array([reference(a, g) for a, g in zip(acts.numpy(), grads.numpy(), strict=True)])
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(method(acts, grads), expected, rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(method(acts.float(), grads.float()), expected, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "kernel,reference",
    [
        ("rbf", lambda p, q: np.exp(-0.3 * ((p - q) ** 2).sum())),
        ("poly", lambda p, q: (0.3 * (p @ q) + 0.5) ** 2),
        ("sigmoid", lambda p, q: np.tanh(0.3 * (p @ q) + 0.5)),
    ],
)
def test_kernels(tiny_layer, kernel, reference):
    acts = tiny_layer.acts
    expected = [kernel_pca(reference)(a, None) for a in acts.numpy()]
    actual = activation.kpca_cam(acts, kernel=kernel, gamma=0.3, degree=2, coef0=0.5)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


def test_kernel_parameters_are_checked(tiny_layer):
    with pytest.raises(ValueError, match="choose one of sigmoid"):
        activation.kpca_cam(tiny_layer.acts, kernel="cosine")
    message = r"112 x 112 needs a 12544 x 12544 kernel per image \(1200 MiB\); choose a layer of at most max_positions"
    with pytest.raises(ValueError, match=message):
        activation.kpca_cam(torch.zeros(1, 2, 112, 112))
    assert activation.kpca_cam(tiny_layer.acts, max_positions=63).shape == (3, 7, 9)
    with pytest.raises(ValueError, match="63 x 63"):
        activation.kpca_cam(tiny_layer.acts, max_positions=62)


def test_fem_threshold(tiny_layer):
    a = tiny_layer.acts[0].numpy()
    expected = sum(a_k.mean() * (a_k > a_k.mean() + a_k.std()) for a_k in a)
    np.testing.assert_allclose(activation.fem(tiny_layer.acts, k=1)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("value", [0.1, 1e-30, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_positions_have_no_component(value, dtype):
    """Rounding in the mean must not become a map: it would be ranked and scored as if it were evidence."""
    acts = torch.linspace(0.1, 2, 6, dtype=dtype).view(1, 6, 1, 1).expand(1, 6, 7, 7) * value
    for maps in (
        activation.eigen_cam(acts),
        gradient.eigen_grad_cam(acts, acts),
        gradient.seg_eigen_cam(acts, acts),
        activation.kpca_cam(acts),
        activation.kpca_cam(acts, kernel="poly"),
        activation.fem(acts),
    ):
        assert not maps.any()


def test_eigen_cam_takes_either_gram_matrix():
    """More channels than positions and the reverse: both must find the same component."""
    acts = torch.randn(2, 30, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    few = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64))[0] @ acts.flatten(2)  # rotated: the same component
    padded = torch.cat([few, torch.zeros(2, 5, 20, dtype=torch.float64)], 1).view(2, 35, 4, 5)
    narrow = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for x, y in ((acts, padded), (narrow, torch.cat([narrow, torch.zeros(2, 30, 4, 5, dtype=torch.float64)], 1))):
        one, two = (activation.eigen_cam(z) for z in (x, y))
        torch.testing.assert_close(one.abs(), two.abs())


def test_cam_is_grad_cam_before_the_pooling(efficientnet, real_layers):
    """The original: weights of the linear layer. Grad-CAM generalizes it, divided by the number of positions."""
    ours = real_layers["bn2.act"]
    head = efficientnet.classifier.weight
    expected = np.array([weighted(head[281].double().numpy(), a) for a in ours.acts.double().numpy()])
    actual = activation.cam(ours.acts.double(), [(281,), (281,)], head=head.double(), outputs=torch.zeros(2, 1000))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)
    grad = gradient.grad_cam(ours.acts, ours.grads) * ours.acts[0, 0].numel()
    np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=1e-4)


def test_cam_of_a_group_is_the_gradient_of_its_score():
    """Grad-CAM of the logsumexp times the number of positions, as for one class."""
    generator = torch.Generator().manual_seed(0)
    acts, head, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 4, 5), (6, 3), (6,)))
    acts, groups = acts.requires_grad_(), [(1, 4, 5), (2,)]
    outputs = acts.flatten(2).mean(2) @ head.T + bias
    score = sum(row[list(group)].logsumexp(0) for row, group in zip(outputs, groups, strict=True))
    grads = torch.autograd.grad(score, acts)[0]
    expected = gradient.grad_cam(acts.detach(), grads) * 20
    torch.testing.assert_close(activation.cam(acts.detach(), groups, head=head, outputs=outputs.detach()), expected)


@pytest.mark.parametrize("function", [activation.cam, activation.lift_cam])
def test_cam_says_what_it_needs(function):
    acts = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="global average pooling and one linear layer"):
        function(acts, [(0,)], head=None, outputs=torch.zeros(1, 5))
    with pytest.raises(ValueError, match="takes 7 features, this layer has 3 channels"):
        function(acts, [(0,)], head=torch.randn(5, 7), outputs=torch.zeros(1, 5))


def test_lift_cam_weights_channels_by_their_share_of_the_score(efficientnet, real_layers):
    """The shares sum to the score minus the bias, as it is that of activations of 0."""
    acts, head = real_layers["bn2.act"].acts.double(), efficientnet.classifier.weight.double()
    ours = activation.lift_cam(acts, [(281,), (7,)], head=head, outputs=torch.zeros(2, 1000))
    for n, target in enumerate((281, 7)):
        shares = [float(w) * channel.mean() for w, channel in zip(head[target], acts[n].numpy(), strict=True)]
        score = torch.nn.functional.linear(acts[n].mean((1, 2)), head)[target]
        np.testing.assert_allclose(sum(shares), float(score), rtol=1e-9)
        np.testing.assert_allclose(ours[n], weighted(shares, acts[n].numpy()), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_lift_cam_takes_captums_deep_lift(rank):
    """From activations of 0, summed over positions, as the authors' code does."""
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[rank - 1](1)
    tail = nn.Sequential(pool, nn.Flatten(), nn.Linear(6, 5)).double()
    acts, targets = torch.randn(2, 6, *(3, 4, 5)[:rank], dtype=torch.float64), torch.tensor([1, 4])
    parts = captum.DeepLift(tail).attribute(acts, torch.zeros_like(acts), target=targets).detach()
    expected = [weighted(part.flatten(1).sum(1).numpy(), a.numpy()) for part, a in zip(parts, acts, strict=True)]
    head, outputs = tail[2].weight.detach(), tail(acts).detach()
    ours = activation.lift_cam(acts, [(1,), (4,)], head=head, outputs=outputs)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def upsampled(image, size):
    """Linear between the pixels' centres, one axis after the other."""
    for axis, length in enumerate(size):
        old = (np.arange(image.shape[axis]) + 0.5) / image.shape[axis]
        new = (np.arange(length) + 0.5) / length
        image = np.apply_along_axis(lambda line, old=old, new=new: np.interp(new, old, line), axis, image)
    return image


def test_refine_cam(real_layers):
    """The run's own fusing of the factors is the paper's product, up to one positive factor a picture."""
    size = (30, 20)
    layers = [real_layers[name] for name in ("blocks.3.0.bn2.act", "bn2.act")]
    factors = [gradient.refine_cam(layer.acts.double(), layer.grads.double()) for layer in layers]
    actual = fuse([upsample(factor, size) for factor in factors], "product").numpy()
    for n in range(2):
        expected = np.ones(size)
        for layer in layers:
            image = np.maximum(grad_cam_pp(layer.acts[n].double().numpy(), layer.grads[n].double().numpy()), 0)
            expected *= upsampled((image - image.min()) / (image.max() - image.min()), size)
        scale = expected.max()
        np.testing.assert_allclose(actual[n] / actual[n].max(), expected / scale, rtol=1e-6, atol=1e-9)
        assert 1 <= actual[n].max() / scale < 1.2  # only what linear upsampling takes off the two maxima


def test_refine_cam_needs_layers_that_show_something():
    acts = torch.rand(1, 2, 3, 3)
    blind = torch.ones(1, 2, 3, 3)
    factors = [gradient.refine_cam(a, a) for a in (acts, blind)]
    assert factors[0].any()
    assert not fuse([upsample(factor, (6, 6)) for factor in factors], "product").any()


def test_grad_cam_pp_with_gradients_too_small_to_square(tiny_layer):
    """As g falls, alpha nears 1/2 and the weight half the sum of positive gradients; squares of 1e-30 underflow."""
    acts = tiny_layer.acts.float()
    positive = tiny_layer.grads.float().relu()
    expected = (positive.sum((2, 3), keepdim=True) / 2 * acts).sum(1)
    for scale in (1e-8, 1e-30):
        actual = gradient.grad_cam_pp(acts, tiny_layer.grads.float() * scale) / scale
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_grad_cam_pp_with_a_denominator_of_zero():
    # 2 g^2 + sum(A) g^3 = 0 at g = 1, sum(A) = -2: that position has alpha 0, the other 1/2^2 / (2/2^2 - 2/2^3) = 1
    acts, grads = torch.tensor([[[-3.0, 1.0]]]), torch.tensor([[[1.0, 0.5]]])
    torch.testing.assert_close(gradient.grad_cam_pp(acts, grads), 0.5 * acts[:, 0])
