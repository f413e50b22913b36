"""Inputs of methods with more passes: right values, and nothing left behind."""

from __future__ import annotations

import torch
from torch import nn

from bench.maps.capture import capture
from bench.maps.method_inputs import offered
from bench.maps.scorer import Scorer
from bench.maps.target_scores import group_logit, group_probability
from bench.types import Batch, Layer


def network(pool: bool = True) -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 5, 3, 1, 1), nn.ReLU(inplace=True)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if pool else [nn.Flatten(), nn.Linear(5 * 16, 5), nn.ReLU()]
    return nn.Sequential(*body, *end, nn.Linear(5, 6)).double().eval()


def batch_of(images: torch.Tensor) -> Batch:
    n = len(images)
    nothing = [torch.zeros(0, 4)] * n
    names = [str(i) for i in range(n)]
    return Batch(
        images, names, names, names, [(1,), (2, 3), (0,)][:n], nothing, nothing, [None] * n, nothing, [None] * n,
        [torch.zeros(0, dtype=torch.bool)] * n, [(8, 8)] * n, [(1.0, 1.0, 0.0, 0.0)] * n, torch.zeros(3),
    )  # fmt: skip


def offer(module: nn.Module, size: int = 2) -> tuple[dict, Batch, Layer, torch.Tensor]:
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    batch = batch_of(images)
    captured = capture(module, images, batch.targets, ["1"])
    layer = captured.layers["1"]
    score = Scorer(module, batch.targets, size)
    return offered(module, "1", layer, captured.logits, batch, score), batch, layer, captured.logits


def test_forward_from_replaces_the_layer() -> None:
    module = network()
    inputs, _, layer, logits = offer(module)
    cases = torch.tensor([2, 0, 1, 1, 2])
    forward_from = inputs["forward_from"]()
    torch.testing.assert_close(forward_from(layer.acts[cases], cases), logits[cases])
    changed = torch.rand_like(layer.acts[cases])
    torch.testing.assert_close(forward_from(changed, cases), module[2:](changed).detach())
    assert not any(part._forward_hooks for part in module.modules())


def test_gradient_of_perturbed_images() -> None:
    inputs, batch, layer, logits = offer(network())
    cases = torch.tensor([1, 1, 0, 2, 2])
    acts, grads, own_logits = inputs["gradient"]()(batch.images[cases], cases)
    torch.testing.assert_close(acts, layer.acts[cases])
    torch.testing.assert_close(grads, layer.grads[cases])
    torch.testing.assert_close(own_logits, logits[cases])


def test_scores_do_not_depend_on_the_batch_size() -> None:
    module = network()
    cases = torch.tensor([0, 1, 2, 1])
    for size in (1, 3, 100):
        inputs, batch, _, _ = offer(module, size)
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        targets = [batch.targets[i] for i in cases]
        logits = module(images).detach()
        torch.testing.assert_close(inputs["score"]()(images, cases), group_probability(logits, targets))
        torch.testing.assert_close(inputs["score"]().logit(images, cases), group_logit(logits, targets))


def test_once_is_once() -> None:
    score = Scorer(network(), [(0,)], 1)
    calls: list[int] = []
    for _ in range(3):
        assert score.once(("blur", 11), lambda: calls.append(1) or "made") == "made"
    assert calls == [1]


def test_logits_have_a_graph() -> None:
    module = network()
    inputs, batch, _, logits = offer(module)
    images = batch.images.clone().requires_grad_()
    with torch.no_grad():
        own_logits = inputs["logits"]()(images, torch.arange(3))
    torch.testing.assert_close(own_logits.detach(), logits)
    assert torch.autograd.grad(own_logits.sum(), images)[0].abs().sum() > 0


def test_head_only_where_pooling_and_one_linear_layer_follow() -> None:
    for pool in (True, False):
        module = network(pool)
        images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        captured = capture(module, images, None, ["1", "3"])
        batch = batch_of(images)
        heads = [
            offered(module, name, captured.layers[name], captured.logits, batch, Scorer(module, [(0,)] * 2, 1))[
                "head"
            ]()
            for name in ("1", "3")
        ]
        assert heads[0] is None
        assert (heads[1] is module[-1].weight or torch.equal(heads[1], module[-1].weight)) if pool else heads[1] is None
