"""Methods with more passes: equal to slow references written from the papers' formulas, and their properties."""

from __future__ import annotations

import copy
import hashlib
import inspect
from types import SimpleNamespace

import multipass as helpers
import numpy as np
import pytest
import skimage.transform
import torch

from methods import full_gradient, multipass_gradient, perturbation
from methods.common import minmax
from methods.gradient import grad_cam, grad_cam_pp

METHODS = {
    "score_cam": (perturbation.score_cam, {}),
    "ss_cam": (perturbation.ss_cam, {"samples": 3}),
    "ss_cam_input": (perturbation.ss_cam, {"samples": 3, "noise": "input", "sigma": 0.5}),
    "is_cam": (perturbation.is_cam, {"steps": 3}),
    "ablation_cam": (perturbation.ablation_cam, {}),
    "rise": (perturbation.rise, {"masks": 40, "cells": 3}),
    "smooth_grad_cam_pp": (multipass_gradient.smooth_grad_cam_pp, {"samples": 3}),
    "finer_cam": (multipass_gradient.finer_cam, {}),
    "shapley_cam": (multipass_gradient.shapley_cam, {}),
    "opti_cam": (multipass_gradient.opti_cam, {"steps": 5}),
    "full_grad": (full_gradient.full_grad, {}),
}
RANKS = [pytest.param({"rank": 1, "channels": 1}, id="1d"), pytest.param({}, id="2d")]
RANKS += [pytest.param({"rank": 3, "channels": 2}, id="3d")]


def setup_of(options: dict | None = None, **network) -> SimpleNamespace:
    options = options or {}
    return helpers.runtime(helpers.Network(**options, **network), helpers.images_of(**options))


@pytest.fixture(scope="module")
def real(efficientnet, photographs) -> SimpleNamespace:
    """EfficientNet-Lite0 in float64 on small photographs, at a layer of 32 channels."""
    small = torch.nn.functional.interpolate(photographs.double(), (24, 32), mode="bilinear", antialias=True)
    network = copy.deepcopy(efficientnet).double()
    return helpers.runtime(network, small, [(281,), (504, 967)], ["cat", "coffee"], layer="blocks.0.0.bn1.act")


@pytest.fixture(params=["1d", "2d", "3d", "real"])
def run(request) -> SimpleNamespace:
    if request.param == "real":
        return request.getfixturevalue("real")
    return setup_of({"1d": {"rank": 1, "channels": 1}, "2d": {}, "3d": {"rank": 3, "channels": 2}}[request.param])


def tail(run, n: int, acts):
    """Logits of one case with the layer's output (1, K, *spatial) replaced."""
    return run.forward_from(acts, torch.tensor([n]))[0]


def call(function, run: SimpleNamespace, **parameters):
    wanted = {name: getattr(run, name) for name in inspect.signature(function).parameters if hasattr(run, name)}
    return function(**wanted, **parameters)


def near(result, expected) -> None:
    expected = torch.as_tensor(np.asarray(expected))
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def masked_scores(run, case: int, make, align_corners: bool = True) -> np.ndarray:
    """Mean logit of `make(mask, image)`, a list of images, for every channel of one case."""
    images = []
    for channel in run.acts[case].numpy():
        mask = helpers.stretched(helpers.upsampled(channel, run.images.shape[2:], align_corners))
        images += make(mask, run.images[case].numpy())
    logits = run.module(torch.as_tensor(np.stack(images)))
    scores = np.array([float(helpers.logit(row, run.targets[case])) for row in logits])
    return scores.reshape(len(run.acts[case]), -1).mean(1)


def mixed(weights: np.ndarray, acts) -> np.ndarray:
    return np.tensordot(weights, acts.numpy(), 1)


def noise_of(case_id: str, size, seed=0) -> np.ndarray:
    digest = hashlib.sha256(f"{seed}:{case_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    return np.stack([torch.randn(size[1:], generator=generator, dtype=torch.float64).numpy() for _ in range(size[0])])


@pytest.mark.parametrize("align_corners", [True, False])
def test_score_cam(run, align_corners) -> None:
    expected = [
        mixed(softmax(masked_scores(run, n, lambda mask, x: [mask * x], align_corners)), run.acts[n])
        for n in range(len(run.ids))
    ]
    near(call(perturbation.score_cam, run, align_corners=align_corners), expected)


@pytest.mark.parametrize("place", ["mask", "input"])
def test_ss_cam(run, place) -> None:
    expected = []
    for n, case_id in enumerate(run.ids):
        shape = run.images.shape[2:] if place == "mask" else run.images.shape[1:]
        drawn = noise_of(case_id, (2, *((1, *shape) if place == "mask" else shape)), seed=5)

        def make(mask, x, drawn=drawn):
            return [(mask + 0.7 * d) * x if place == "mask" else mask * x + 0.7 * d for d in drawn]

        expected.append(mixed(softmax(masked_scores(run, n, make)), run.acts[n]))
    near(call(perturbation.ss_cam, run, samples=2, sigma=0.7, noise=place, seed=5), expected)


@pytest.mark.parametrize("path", ["sum", "line"])
def test_is_cam(run, path) -> None:
    growth = {"sum": [1 / 3, 3 / 3, 6 / 3], "line": [1 / 3, 2 / 3, 1]}[path]
    expected = [
        mixed(softmax(masked_scores(run, n, lambda mask, x: [c * mask * x for c in growth])), run.acts[n])
        for n in range(len(run.ids))
    ]
    near(call(perturbation.is_cam, run, steps=3, path=path), expected)


def test_variants_that_are_score_cam() -> None:
    run = setup_of()
    expected = call(perturbation.score_cam, run)
    near(call(perturbation.ss_cam, run, samples=2, sigma=0.0), expected)
    near(call(perturbation.is_cam, run, steps=1), expected)


def test_ablation_cam(run) -> None:
    expected = []
    for n, target in enumerate(run.targets):
        clean = helpers.logit(tail(run, n, run.acts[n : n + 1]), target)
        weights = []
        for k in range(run.acts.shape[1]):
            ablated = run.acts[n : n + 1].clone()
            ablated[:, k] = 0
            weights.append(float((clean - helpers.logit(tail(run, n, ablated), target)) / clean))
        expected.append(mixed(np.array(weights), run.acts[n]))
    near(call(perturbation.ablation_cam, run), expected)


def test_rise(run) -> None:
    cells, keep, count = 3, 0.4, 12
    size, expected = run.images.shape[2:], []
    for n, case_id in enumerate(run.ids):
        digest = hashlib.sha256(f"2:{case_id}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        grids = (torch.rand((count, *[cells] * len(size)), generator=generator) < keep).double().numpy()
        edge = [int(np.ceil(length / cells)) for length in size]
        shifts = [torch.randint(step, (count, 1), generator=generator)[:, 0].tolist() for step in edge]
        total = np.zeros(size)
        for i, grid in enumerate(grids):
            upsized = tuple((cells + 1) * step for step in edge)  # as in the authors' generate_masks
            large = skimage.transform.resize(grid, upsized, order=1, mode="reflect", anti_aliasing=False)
            mask = large[tuple(slice(shift[i], shift[i] + length) for shift, length in zip(shifts, size, strict=True))]
            logits = run.module(torch.as_tensor(mask * run.images[n].numpy())[None])[0]
            total += float(logits.softmax(0)[list(run.targets[n])].sum()) * mask
        expected.append(total / count / keep)
    near(call(perturbation.rise, run, masks=count, cells=cells, keep=keep, seed=2), expected)


def test_rise_of_a_constant_score_is_flat() -> None:
    result = perturbation.rise(helpers.images_of(), helpers.IDS, score=lambda x, _: torch.ones(len(x)), masks=4000)
    assert (result - 1).abs().max() < 0.1  # the standard error of a mean of 4000 values in 0 .. 1, over 0.5, is 0.016


def test_smooth_grad_cam_pp(run) -> None:
    expected = []
    for n, (case_id, target) in enumerate(zip(run.ids, run.targets, strict=True)):
        powers = []
        for noise in noise_of(case_id, (4, *run.images.shape[1:]), seed=3):
            image = run.images[n : n + 1] + 0.2 * torch.as_tensor(noise)
            acts = run.gradient(image, torch.tensor([n]))[0].requires_grad_()
            g = torch.autograd.grad(helpers.logit(tail(run, n, acts), target), acts)[0][0].numpy()
            powers.append([g, g**2, g**3])
        first, second, third = np.mean(powers, axis=0)
        weights = []
        for k, channel in enumerate(run.acts[n].numpy()):
            total = 0.0
            for one, two, three in zip(first[k].flat, second[k].flat, third[k].flat, strict=True):
                below = 2 * two + channel.sum() * three
                total += (two / below if below else 0.0) * max(one, 0.0)
            weights.append(total)
        expected.append(mixed(np.array(weights), run.acts[n]))
    near(call(multipass_gradient.smooth_grad_cam_pp, run, samples=4, sigma=0.2, seed=3), expected)


def test_smooth_grad_cam_pp_without_noise_is_grad_cam_pp() -> None:
    run = setup_of()
    near(call(multipass_gradient.smooth_grad_cam_pp, run, sigma=0), grad_cam_pp(run.acts, run.grads))


@pytest.mark.parametrize("weighting", ["probability", "uniform"])
def test_finer_cam(run, weighting) -> None:
    expected = []
    for n, target in enumerate(run.targets):
        leaf = run.acts[n : n + 1].clone().requires_grad_()
        logits = tail(run, n, leaf)
        y = logits.detach().numpy()

        def slope(d, logits=logits, leaf=leaf):
            return torch.autograd.grad(logits[d], leaf, retain_graph=True)[0][0].numpy()

        share = np.exp(y[list(target)]) / np.exp(y[list(target)]).sum()
        own = np.log(np.exp(y[list(target)]).sum())
        others = [d for d in range(len(y)) if d not in target]
        near_ones = sorted(others, key=lambda d: abs(y[d] - own))[:2]
        w = softmax(y[near_ones]) if weighting == "probability" else np.full(2, 0.5)
        average = sum(w[i] * slope(d) for i, d in enumerate(near_ones))
        total = sum(part * slope(c) for part, c in zip(share, target, strict=True)) - 0.6 * average
        if weighting == "probability":  # the weights' own derivative
            total -= 0.6 * sum(w[i] * (slope(d) - average) * y[d] for i, d in enumerate(near_ones))
        expected.append(mixed(total.reshape(len(total), -1).mean(1), run.acts[n]))
    near(call(multipass_gradient.finer_cam, run, references=2, gamma=0.6, weighting=weighting), expected)


def test_finer_cam_without_comparison_is_grad_cam() -> None:
    run = setup_of()
    near(call(multipass_gradient.finer_cam, run, gamma=0), grad_cam(run.acts, run.grads))


@pytest.mark.parametrize("options", RANKS)
@pytest.mark.parametrize("utility", ["rest", "logit"])
def test_shapley_cam(options, utility) -> None:
    run = setup_of(options, smooth=True)
    expected = []
    for n, target in enumerate(run.targets):

        def value(flat, n=n, target=target):
            logits = run.module.tail(flat.view(1, *run.acts.shape[1:]))[0]
            own = helpers.logit(logits, target)
            return own if utility == "logit" else own + logits.softmax(0)[list(target)].sum().log()

        flat = run.acts[n].flatten()
        slope = torch.autograd.functional.jacobian(value, flat)
        curvature = torch.autograd.functional.hessian(value, flat)
        weights = (slope - curvature @ flat / 2).view(6, -1).mean(1).numpy()
        expected.append(mixed(weights, run.acts[n]))
    result = call(multipass_gradient.shapley_cam, run, utility=utility)
    near(result, expected)
    assert not torch.allclose(result, grad_cam(run.acts, run.grads))


def test_shapley_cam_of_a_logit_of_a_piecewise_linear_network_is_grad_cam() -> None:
    run = helpers.runtime(helpers.Network(), helpers.images_of(), targets=[(1,), (0,), (4,)])
    near(call(multipass_gradient.shapley_cam, run, utility="logit"), grad_cam(run.acts, run.grads))
    assert not torch.allclose(call(multipass_gradient.shapley_cam, run), grad_cam(run.acts, run.grads))


def test_opti_cam(run) -> None:
    expected = []
    for n, target in enumerate(run.targets):
        alive = [k for k, channel in enumerate(run.acts[n]) if channel.max() > channel.min()]
        acts = run.acts[n, alive]
        size = run.images.shape[2:]
        matrices = [
            torch.as_tensor(helpers.interpolation(short, long, False))
            for short, long in zip(acts.shape[1:], size, strict=True)
        ]
        u, mean, square = (torch.zeros(len(alive), dtype=torch.float64) for _ in range(3))
        for step in range(1, 8):
            leaf = u.clone().requires_grad_()
            mask = torch.tensordot(leaf.exp() / leaf.exp().sum(), acts, 1)
            for axis, matrix in enumerate(matrices):
                mask = torch.tensordot(matrix, mask, ([1], [axis])).movedim(0, axis)
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            score = helpers.logit(run.module((mask * run.images[n])[None])[0], target)
            climb = torch.autograd.grad(score, leaf)[0]
            mean, square = 0.9 * mean + 0.1 * climb, 0.999 * square + 0.001 * climb**2
            u = u + 0.05 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        expected.append(mixed(softmax(u.numpy()), acts))
    near(call(multipass_gradient.opti_cam, run, steps=7, rate=0.05), expected)


def test_opti_cam_raises_the_score_of_the_masked_image() -> None:
    run = setup_of()

    def masked(steps: int) -> torch.Tensor:
        maps = call(multipass_gradient.opti_cam, run, steps=steps)
        mask = torch.nn.functional.interpolate(maps[:, None], run.images.shape[2:], mode="bilinear")[:, 0]
        return run.score.logit(minmax(mask)[:, None] * run.images, torch.arange(3))

    assert (masked(50) > masked(0)).all()


def test_shapley_cam_of_a_real_network_in_closed_form(efficientnet, photographs) -> None:
    """Behind the last layer are a mean and a linear layer W: y + log p has H A = -W' (diag p - p p') W mean(A)."""
    network = copy.deepcopy(efficientnet).double()
    run = helpers.runtime(network, photographs.double(), [(281,), (504,)], ["cat", "coffee"], layer="bn2.act")
    w, expected = network.classifier.weight.numpy(), []
    for acts, (target,) in zip(run.acts, run.targets, strict=True):
        mean = acts.numpy().mean((1, 2))
        pull = w @ mean
        p = softmax(pull + network.classifier.bias.numpy())
        slope = 2 * w[target] - p @ w
        curved = -(w.T @ (p * pull - p * (p @ pull)))
        expected.append(mixed((slope - curved / 2) / acts[0].numel(), acts))
    near(call(multipass_gradient.shapley_cam, run), expected)


def test_full_grad_of_a_real_network(real) -> None:
    """Its only biases are those of timm's norms, whose module has the ReLU inside."""
    size, expected = real.images.shape[2:], []
    norms = [part for part in real.module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for n, target in enumerate(real.targets):
        before: dict = {}

        def keep(drop, inputs, before=before):
            before[drop] = inputs[0]
            return inputs[0].clone()  # the ReLU6 writes into its input

        handles = [norm.drop.register_forward_pre_hook(keep) for norm in norms]
        x = real.images[n : n + 1].clone().requires_grad_()
        score = helpers.logit(real.module(x)[0], target)
        for handle in handles:
            handle.remove()
        grads = torch.autograd.grad(score, [x, *(before[norm.drop] for norm in norms)])
        total = sum(helpers.stretched((grads[0] * x).detach()[0].abs().numpy()))
        for norm, grad in zip(norms, grads[1:], strict=True):
            bias = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
            term = (bias.view(1, -1, 1, 1) * grad).detach()[0].abs().numpy()
            total = total + helpers.upsampled(helpers.stretched(term).sum(0), size, True)
        expected.append(total)
    near(call(full_gradient.full_grad, real), expected)


@pytest.mark.parametrize("options", RANKS)
def test_full_grad(options) -> None:
    run = setup_of(options)
    net, size, expected = run.module, run.images.shape[2:], []
    for n, target in enumerate(run.targets):
        x = run.images[n : n + 1].clone().requires_grad_()
        one = net.first(x)
        scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
        shape = (1, -1, *[1] * len(size))
        shift = net.norm.bias - net.norm.running_mean * scale
        two = one * scale.view(shape) + shift.view(shape)
        three = net.second(two.relu())
        score = helpers.logit(net.head(three.relu().flatten(2).mean(2))[0], target)
        factors = [x, net.first.bias.view(shape), shift.view(shape), net.second.bias.view(shape)]
        total = np.zeros(size)
        for value, factor in zip([x, one, two, three], factors, strict=True):
            term = (torch.autograd.grad(score, value, retain_graph=True)[0] * factor).detach()[0].abs().numpy()
            total += sum(helpers.upsampled(channel, size, True) for channel in helpers.stretched(term))
        expected.append(total)
    near(call(full_gradient.full_grad, run), expected)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "timm"])
def test_full_gradients_are_complete(name) -> None:
    torch.manual_seed(0)
    if name == "tiny":
        network, images = helpers.Network(), helpers.images_of()
    else:
        images = torch.randn(2, 3, 48, 40, dtype=torch.float64)
        if name == "resnet18":  # ReLU in place, one module several times
            network = pytest.importorskip("torchvision").models.resnet18(num_classes=7)
        else:  # norms with the ReLU inside
            layers = pytest.importorskip("timm.layers")
            body = [torch.nn.Conv2d(3, 8, 3, bias=False), layers.BatchNormAct2d(8), torch.nn.MaxPool2d(2)]
            network = torch.nn.Sequential(
                *body, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 6)
            )
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.bias.data.normal_(0, 0.3)
        network = network.double().eval()
    targets = [(1,), (0,), (4,)][: len(images)]
    terms = full_gradient.full_gradients(images, targets, network)
    total = sum(term.flatten(1).sum(1) for term in terms)
    expected = network(images).detach()[torch.arange(len(images)), [target[0] for target in targets]]
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", RANKS)
def test_batch_of_one_is_batch_of_n(name, options) -> None:
    function, parameters = METHODS[name]
    run = setup_of(options)
    result = call(function, run, **parameters)
    spatial = run.acts.shape[2:] if "acts" in inspect.signature(function).parameters else run.images.shape[2:]
    assert result.shape == (3, *spatial)
    assert result.isfinite().all()
    for i in range(3):
        alone = helpers.runtime(run.module, run.images[i : i + 1], [run.targets[i]], [run.ids[i]])
        torch.testing.assert_close(call(function, alone, **parameters)[0], result[i], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_pieces_do_not_matter(name, monkeypatch) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    whole = call(function, run, **parameters)
    monkeypatch.setitem(__import__("methods.multipass").multipass.PIECE, "cpu", 3 * 500)
    torch.testing.assert_close(call(function, run, **parameters), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_another_class_gives_another_map(name) -> None:
    function, parameters = METHODS[name]
    maps = []
    for target in range(3):
        maps.append(
            call(function, helpers.runtime(helpers.Network(), helpers.images_of(n=1), [(target,)]), **parameters)
        )
    for other in maps[1:]:
        assert not torch.allclose(minmax(maps[0]), minmax(other), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_single_precision_and_nothing_left_behind(name) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    expected = call(function, run, **parameters)
    network = helpers.Network().float().requires_grad_()
    single = helpers.runtime(network, run.images.float())
    result = call(function, single, **parameters)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    torch.testing.assert_close(result.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in network.modules())
    assert not run.images.requires_grad
    torch.testing.assert_close(run.images, helpers.images_of(), rtol=0, atol=0)


def test_finer_cam_of_a_large_group_beside_a_small_one() -> None:
    network, images = helpers.Network(), helpers.images_of(n=2)
    together = helpers.runtime(network, images, [(1,), (0, 2, 3)])  # three references, and only two
    result = call(multipass_gradient.finer_cam, together)
    for i in range(2):
        alone = helpers.runtime(network, images[i : i + 1], [together.targets[i]])
        torch.testing.assert_close(call(multipass_gradient.finer_cam, alone, references=3 - i)[0], result[i])


@pytest.mark.parametrize("name", ["score_cam", "ss_cam", "is_cam", "opti_cam"])
def test_the_order_of_channels_does_not_matter(name) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    before = call(function, run, **parameters)
    run.acts = run.acts[:, [3, 0, 5, 1, 4, 2]]
    torch.testing.assert_close(call(function, run, **parameters), before, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["score_cam", "ss_cam", "is_cam", "opti_cam"])
def test_zero_channels_change_nothing_but_the_scale(name) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    before = call(function, run, **parameters)
    run.acts = torch.cat([run.acts, torch.zeros_like(run.acts[:, :2])], 1)
    after = call(function, run, **parameters)
    torch.testing.assert_close(minmax(after), minmax(before), rtol=1e-9, atol=1e-9)
    if name == "opti_cam":
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_those_of_the_docstring(name) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    used = (run.acts != 0).flatten(2).any(2)
    assert not used[:, helpers.DEAD].any()
    one_each = int(used.sum()) + 3  # and one a case for all channels that say nothing, or for the clean score
    expected = {
        "score_cam": (one_each, 0), "ss_cam": (3 * one_each, 0), "ss_cam_input": (3 * one_each, 0),
        "is_cam": (3 * one_each, 0), "ablation_cam": (one_each, 0), "rise": (120, 0), "smooth_grad_cam_pp": (9, 9),
        "finer_cam": (3, 0), "shapley_cam": (3, 0), "opti_cam": (15, 0), "full_grad": (0, 0),
    }  # fmt: skip
    call(function, run, **parameters)
    assert (run.passes["forward"], run.passes["backward"]) == expected[name]


@pytest.mark.parametrize("name", ["ss_cam", "ss_cam_input", "rise", "smooth_grad_cam_pp"])
def test_the_seed_decides(name) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    result = [call(function, run, seed=seed, **parameters) for seed in (0, 0, 1)]
    assert torch.equal(result[0], result[1])
    assert not torch.allclose(result[0], result[2], rtol=1e-4)
    twins = helpers.runtime(run.module, run.images[:1].expand(2, -1, -1, -1).clone(), [(1,), (1,)], ["x", "y"])
    first, second = call(function, twins, **parameters)
    assert not torch.allclose(first, second, rtol=1e-4)


@pytest.mark.parametrize(
    "name", [name for name, (f, _) in METHODS.items() if "acts" in inspect.signature(f).parameters]
)
def test_a_dead_layer_gives_a_zero_map(name) -> None:
    function, parameters = METHODS[name]
    run = setup_of()
    run.acts = torch.zeros_like(run.acts)
    assert not call(function, run, **parameters).any()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ss_cam", {"samples": 0}, "samples=0 must be at least 1"),
        ("ss_cam", {"noise": "both"}, "noise=both is unknown"),
        ("is_cam", {"steps": 0}, "steps=0"),
        ("is_cam", {"path": "curve"}, "path=curve is unknown"),
        ("rise", {"masks": 0}, "masks=0"),
        ("rise", {"keep": 0.0}, "keep=0.0"),
        ("smooth_grad_cam_pp", {"samples": 0}, "samples=0"),
        ("smooth_grad_cam_pp", {"sigma": -1}, "sigma=-1"),
        ("finer_cam", {"references": 0}, "references=0"),
        ("finer_cam", {"weighting": "x"}, "weighting=x is unknown"),
        ("shapley_cam", {"utility": "x"}, "utility=x is unknown"),
        ("opti_cam", {"steps": -1}, "steps=-1"),
    ],
)
def test_refusals(name, parameters, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(METHODS[name][0], setup_of(), **parameters)


def test_refusals_that_depend_on_the_network() -> None:
    run = setup_of()
    run.targets = [(0, 1, 2, 3, 4)] * 3
    with pytest.raises(ValueError, match="another output"):
        call(multipass_gradient.finer_cam, run)
    for function in (perturbation.score_cam, multipass_gradient.opti_cam):
        flat = setup_of()
        flat.acts = flat.acts.flatten(2)
        with pytest.raises(ValueError, match="cannot mask"):
            call(function, flat)
