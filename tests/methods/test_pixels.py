"""Maps of pixels: averaged gradients, occlusion, Recipro-CAM, Guided Grad-CAM, LRP against plain loops in float64."""

from __future__ import annotations

from itertools import product

import multipass as helpers
import numpy as np
import pytest
import torch
from torch import nn

from methods.attribution import guided_backprop
from methods.common import seeded
from methods.gradient import grad_cam
from methods.pixels.averaged import expected_gradients, smooth_grad
from methods.pixels.combined import guided_grad_cam, lrp
from methods.pixels.masked import occlusion, recipro_cam

TARGETS, IDS = helpers.TARGETS, helpers.IDS


def probability(network: nn.Module):
    def score(images, cases):
        chosen = [TARGETS[i] for i in cases.tolist()]
        return torch.stack([p[list(t)].sum() for p, t in zip(network(images).softmax(1), chosen, strict=True)])

    return score


def logits_of(network: nn.Module):
    return lambda images, _cases: network(images)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_smooth_grad_is_the_mean_of_noisy_gradients(rank: int) -> None:
    network, images = helpers.Network(rank, smooth=True), helpers.images_of(rank)
    ours = smooth_grad(images, TARGETS, IDS, logits=logits_of(network), samples=4, noise=0.2, seed=3)
    for n, (image, target) in enumerate(zip(images, TARGETS, strict=True)):
        generator = seeded(3, IDS[n])
        grads = []
        for _ in range(4):
            drawn = torch.randn(image.shape, generator=generator, dtype=torch.float64)
            noisy = (image + 0.2 * (image.max() - image.min()) * drawn).requires_grad_()
            helpers.logit(network(noisy[None])[0], target).backward()
            grads.append(noisy.grad.numpy())
        np.testing.assert_allclose(ours[n].numpy(), abs(np.mean(grads, 0)).max(0), rtol=1e-9)


def test_smooth_grad_of_a_linear_network_is_its_weights() -> None:
    """Noise does not matter where the gradient is the same everywhere."""
    weights = torch.randn(5, 3, 4, 6, dtype=torch.float64)

    def linear(images, _cases):
        return torch.einsum("nchw,kchw->nk", images, weights)

    ours = smooth_grad(torch.randn(1, 3, 4, 6, dtype=torch.float64), [(2,)], ["a"], logits=linear, samples=3)
    torch.testing.assert_close(ours[0], weights[2].abs().amax(0))


def expected_draws(name: str, like: torch.Tensor, samples: int, spread: float, seed: int) -> tuple[list, list]:
    """References and places of one case, drawn as the docstring says."""
    noise, uniform = seeded(seed, name), seeded(f"{seed}/places", name)
    references = [spread * torch.randn(like.shape, generator=noise, dtype=torch.float64) for _ in range(samples)]
    return references, torch.rand(samples, generator=uniform, dtype=torch.float64).tolist()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_expected_gradients_are_the_mean_over_references(rank: int) -> None:
    network, images = helpers.Network(rank, smooth=True), helpers.images_of(rank)
    ours = expected_gradients(images, TARGETS, IDS, logits=logits_of(network), samples=4, spread=0.7, seed=3)
    for n, (image, target) in enumerate(zip(images, TARGETS, strict=True)):
        terms = []
        for reference, t in zip(*expected_draws(IDS[n], image, 4, 0.7, 3), strict=True):
            point = ((1 - t) * reference + t * image).requires_grad_()
            helpers.logit(network(point[None])[0], target).backward()
            terms.append(((image - reference) * point.grad).numpy())
        np.testing.assert_allclose(ours[n].numpy(), np.mean(terms, 0).sum(0), rtol=1e-9, atol=1e-12)


def test_expected_gradients_are_captums_gradient_shap(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same references and places, which captum draws from NumPy's global generator."""
    captum = pytest.importorskip("captum.attr")
    network, images = helpers.Network(2, smooth=True), helpers.images_of(2)
    ours = expected_gradients(images, TARGETS, IDS, logits=logits_of(network), samples=6, seed=5)
    for n, (image, target) in enumerate(zip(images, TARGETS, strict=True)):
        references, places = expected_draws(IDS[n], image, 6, 1.0, 5)
        monkeypatch.setattr(np.random, "choice", lambda count, size: np.arange(count))
        monkeypatch.setattr(np.random, "uniform", lambda low, high, size, places=places: np.array(places))
        theirs = captum.GradientShap(lambda x, target=target: network(x)[:, list(target)].logsumexp(1)).attribute(
            image[None], baselines=torch.stack(references), n_samples=6, stdevs=0.0
        )
        torch.testing.assert_close(ours[n], theirs[0].sum(0), rtol=1e-9, atol=1e-12)


def test_expected_gradients_of_a_linear_network_are_complete() -> None:
    """Each sample then sums to the score minus its reference's; without spread it is the weights times the picture."""
    weights = torch.randn(5, 3, 4, 6, dtype=torch.float64)
    images = torch.randn(2, 3, 4, 6, dtype=torch.float64)

    def linear(images, _cases):
        return torch.einsum("nchw,kchw->nk", images, weights)

    ours = expected_gradients(images, [(2,), (4,)], ["a", "b"], logits=linear, samples=3, seed=1)
    for n, (name, target) in enumerate([("a", 2), ("b", 4)]):
        references, _ = expected_draws(name, images[n], 3, 1.0, 1)
        gap = linear(images[n : n + 1], None)[0, target] - linear(torch.stack(references), None)[:, target].mean()
        torch.testing.assert_close(ours[n].sum(), gap)
    plain = expected_gradients(images, [(2,), (4,)], ["a", "b"], logits=linear, samples=3, spread=0)
    torch.testing.assert_close(plain, (images * weights[[2, 4]]).sum(1))


@pytest.mark.parametrize(
    ("wrong", "words"), [({"samples": 0}, "samples=0 must be at least 1"), ({"spread": -1.0}, "spread=-1.0 must be")]
)
def test_expected_gradients_refuse_what_makes_no_references(wrong: dict, words: str) -> None:
    network, images = helpers.Network(2), helpers.images_of(2)
    with pytest.raises(ValueError, match=words):
        expected_gradients(images, TARGETS, IDS, logits=logits_of(network), **wrong)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_occlusion_is_the_mean_fall_over_the_windows_that_hide_a_pixel(rank: int) -> None:
    network, images = helpers.Network(rank), helpers.images_of(rank)
    score, size = probability(network), images.shape[2:]
    ours = occlusion(images, score=score, places=2)
    falls = np.zeros((len(images), *size))
    number = np.zeros(size)
    for place in product(range(2), repeat=rank):
        window = tuple(slice(round(i * n / 3), round((i + 2) * n / 3)) for i, n in zip(place, size, strict=True))
        number[window] += 1
        for case in range(len(images)):
            hidden = images[case].clone()
            hidden[(slice(None), *window)] = 0
            index = torch.tensor([case])
            falls[(case, *window)] += float(score(images[case : case + 1], index) - score(hidden[None], index))
    np.testing.assert_allclose(ours.numpy(), falls / number, atol=1e-12)


def test_occlusion_mirrors_with_the_picture_and_finds_what_counts() -> None:
    """The score is the mean of one corner, so hiding anything else changes nothing."""
    images = torch.rand(2, 3, 24, 36) + 0.5

    def corner(pictures, _cases):
        return pictures[:, :, :4, :6].mean((1, 2, 3))

    def mirrored(pictures, cases):
        return corner(pictures.flip(3), cases)

    heatmap = occlusion(images, score=corner, places=5)
    assert (heatmap[:, :4, :6] > 0).all() and (heatmap[:, 8:] == 0).all() and (heatmap[:, :, 12:] == 0).all()
    torch.testing.assert_close(occlusion(images.flip(3), score=mirrored, places=5), heatmap.flip(2))


@pytest.mark.parametrize(
    ("places", "words"), [(0, "places=0 must be at least 1"), (13, "places=13 must be at most half")]
)
def test_occlusion_refuses_places_that_make_no_windows(places: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        occlusion(torch.rand(1, 3, 24, 36), score=lambda images, _cases: images.mean((1, 2, 3)), places=places)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_recipro_cam_asks_each_position_alone(rank: int) -> None:
    network, images = helpers.Network(rank), helpers.images_of(rank)
    acts = network.layer(network.norm(network.first(images))).detach()
    ours = recipro_cam(acts, TARGETS, forward_from=lambda part, _cases: network.tail(part))
    for n, target in enumerate(TARGETS):
        values = np.zeros(acts.shape[2:])
        for at in np.ndindex(*acts.shape[2:]):
            alone = torch.zeros_like(acts[n])
            for offset in product((-1, 0, 1), repeat=rank):
                near = tuple(a + o for a, o in zip(at, offset, strict=True))
                if all(0 <= i < length for i, length in zip(near, acts.shape[2:], strict=True)):
                    weight = np.prod([0.5 if o == 0 else 0.25 for o in offset])
                    alone[(slice(None), *near)] = weight * acts[(n, slice(None), *near)]
            values[at] = float(network.tail(alone[None]).softmax(1)[0, list(target)].sum())
        np.testing.assert_allclose(ours[n].numpy(), (values - values.min()) / np.ptp(values), atol=1e-9)


def test_guided_grad_cam_is_guided_backprop_where_grad_cam_is_positive() -> None:
    pytest.importorskip("captum")
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
    head = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    network = nn.Sequential(features, head).double().eval()
    images, targets = torch.randn(2, 3, 16, 20, dtype=torch.float64), [(1,), (0, 3)]
    acts = features(images).detach().requires_grad_()
    score = sum(helpers.logit(row, target) for row, target in zip(head(acts), targets, strict=True))
    (grads,) = torch.autograd.grad(score, acts)
    ours = guided_grad_cam(acts.detach(), grads, images, targets, module=network)
    coarse = grad_cam(acts.detach(), grads).clamp(min=0)[:, None]
    large = nn.functional.interpolate(coarse, (16, 20), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(ours, large * guided_backprop(images, targets, module=network))
    assert ((ours == 0) == ((large == 0) | (guided_backprop(images, targets, module=network) == 0))).all()


def dense(layer: nn.Conv2d, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (outputs, inputs) and bias of a convolution on one picture, by its answer to each single pixel."""
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        eye = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, *shape)
        return (layer(eye).flatten(1) - zero).T.numpy(), zero.numpy()


def test_lrp_hands_relevance_back_by_its_rules() -> None:
    """Epsilon for the linear layer, z+ for the second convolution, and the first one's relevance is spread evenly."""
    pytest.importorskip("zennit")
    torch.manual_seed(1)
    first, second, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5 * 4 * 6, 5)
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), last).double().eval()
    images, targets = torch.randn(2, 3, 8, 10, dtype=torch.float64), [(1,), (4,)]
    ours = lrp(images, targets, module=network)
    one, one_bias = dense(first, (3, 8, 10))
    two, two_bias = dense(second, (4, 6, 8))
    for n, (target,) in enumerate(targets):
        x = images[n].numpy().ravel()
        hidden = np.maximum(one @ x + one_bias, 0)
        top = np.maximum(two @ hidden + two_bias, 0)
        weights, bias = last.weight.detach().numpy(), last.bias.detach().numpy()
        y = weights[target] @ top + bias[target]
        relevance = weights[target] * top * y / (y + np.sign(y) * 1e-6)
        positive = np.maximum(two, 0) * hidden  # hidden is nowhere negative
        total = positive.sum(1) + np.maximum(two_bias, 0)
        relevance = (positive / (total + 1e-6)[:, None] * relevance[:, None]).sum(0)
        flat = (one != 0).astype(float)
        relevance = (flat / flat.sum(1, keepdims=True) * relevance[:, None]).sum(0)
        np.testing.assert_allclose(
            ours[n].numpy(), relevance.reshape(3, 8, 10).sum(0), atol=1e-5 * abs(relevance).max()
        )


@pytest.mark.parametrize("bias", [True, False])
def test_lrp_leaves_the_network_as_it_was(bias: bool) -> None:
    """Zennit 1.0 leaves merged parameters registered, and the right ones where only the forward pass sees them."""
    pytest.importorskip("zennit")
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 8, 5)
    ).eval()
    network[1].running_mean.normal_()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(2, 3, 8, 10)
    logits = network(images)
    lrp(images, [(1,), (2,)], module=network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(network(images), logits)
    assert not any({"weight", "bias", "running_mean"} & set(vars(part)) for part in network.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
