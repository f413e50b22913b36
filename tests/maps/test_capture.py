"""The shared pass: right values, right gradients, nothing left behind."""

from __future__ import annotations

import pytest
import torch
import torchvision
from captum.attr import LayerActivation
from torch import nn
from torch.nn import functional as F

from bench.maps.capture import capture
from bench.maps.target_scores import group_logit, group_probability
from bench.types import UserError


class Tiny(nn.Module):
    """conv -> ReLU (in-place) -> conv -> ReLU (in-place) -> mean -> linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu2(self.second(self.relu1(self.first(x)))).mean((2, 3)))


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny().double().eval()


def test_values_and_gradients_by_hand(tiny: Tiny) -> None:
    images = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    got = capture(tiny, images, [(1,), (2, 4)], ["first", "relu1", "second", "relu2"])
    first = F.conv2d(images, tiny.first.weight, tiny.first.bias, padding=1)
    second = F.conv2d(first.relu(), tiny.second.weight, tiny.second.bias, padding=1)
    torch.testing.assert_close(got.layers["first"].acts, first)  # not yet rectified in place
    torch.testing.assert_close(got.layers["relu1"].acts, first.relu())
    torch.testing.assert_close(got.layers["second"].acts, second)
    torch.testing.assert_close(got.layers["relu2"].acts, second.relu())
    logits = tiny.head(second.relu().mean((2, 3)))
    torch.testing.assert_close(got.logits, logits.detach())
    # d score / d relu2 = (weights of the target, for a group mixed by softmax) / Z at every position
    share = logits[1, [2, 4]].softmax(0)
    row = torch.stack([tiny.head.weight[1], share[0] * tiny.head.weight[2] + share[1] * tiny.head.weight[4]])
    expected = (row / 35)[:, :, None, None].expand(2, 5, 5, 7)
    torch.testing.assert_close(got.layers["relu2"].grads, expected.detach())
    torch.testing.assert_close(got.layers["second"].grads, (expected * (second > 0)).detach())
    back = F.conv_transpose2d(expected * (second > 0), tiny.second.weight, padding=1)
    torch.testing.assert_close(got.layers["relu1"].grads, back.detach())
    torch.testing.assert_close(got.layers["first"].grads, (back * (first > 0)).detach())


@pytest.mark.parametrize("image_of", [[0, 0, 1, 0, 2], [1, 1], [2, 0, 1], [0, 1, 2]])
def test_targets_of_one_image_share_its_forward_pass(
    tiny: Tiny, image_of: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randn(3, 3, 5, 7, dtype=torch.float64)
    targets: list[tuple[int, ...]] = [(i % 6,) if i % 2 else (i, 5) for i in range(len(image_of))]
    targets[-1] = ()  # the predicted class
    apart = capture(tiny, images[image_of], targets, ["relu1", "relu2"])
    backward, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backward.append(1) or grad(*a, **k))
    shared = capture(tiny, images, targets, ["relu1", "relu2"], image_of=image_of)
    assert len(backward) == max(image_of.count(i) for i in image_of)
    assert shared.targets == apart.targets
    torch.testing.assert_close(shared.logits, apart.logits)
    for name in apart.layers:
        torch.testing.assert_close(shared.layers[name].acts, apart.layers[name].acts)
        torch.testing.assert_close(shared.layers[name].grads, apart.layers[name].grads)
    plain = capture(tiny, images, targets, ["relu1"], image_of=image_of, gradients=False)
    torch.testing.assert_close(plain.layers["relu1"].acts, apart.layers["relu1"].acts)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vgg11", ["features.18", "features.19"]),  # convolution before an in-place ReLU, and the ReLU
        ("densenet121", ["features.denseblock4", "features.norm5"]),  # functional in-place ReLU behind norm5
    ],
)
def test_in_front_of_inplace_relu(name: str, layers: list[str]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.randn(1, 3, 64, 64)
    got = capture(model, images, [(7,)], layers)
    for layer in layers:
        module = model.get_submodule(layer)
        seen: list[torch.Tensor] = []
        handle = module.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.detach().clone()))
        with torch.no_grad():
            model(images)
        handle.remove()
        torch.testing.assert_close(got.layers[layer].acts, seen[0])
        assert (got.layers[layer].acts < 0).any() or layer == "features.19"
    # The gradient by a finite difference along itself, through a hook that replaces the output.
    layer = layers[0]
    grads, step = got.layers[layer].grads, 1e-2
    direction = grads / grads.norm()

    def score(shift: float) -> torch.Tensor:
        hook = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: out.clone() + shift * direction)
        with torch.no_grad():
            value = model(images)[0, 7]
        hook.remove()
        return value

    slope = (score(step) - score(-step)) / (2 * step)
    torch.testing.assert_close(slope, grads.norm(), rtol=0.05, atol=1e-6)


def test_gradients_equal_captum(tiny: Tiny) -> None:
    images = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    got = capture(tiny, images, [(0,)] * 3, ["relu1"])
    acts = LayerActivation(tiny, tiny.relu1).attribute(images)
    torch.testing.assert_close(got.layers["relu1"].acts, acts.detach())


def test_layers_together_equal_layers_alone(tiny: Tiny) -> None:
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    names = ["first", "relu1", "second", "relu2"]
    together = capture(tiny, images, None, names)
    for name in names:
        alone = capture(tiny, images, None, [name])
        torch.testing.assert_close(together.layers[name].acts, alone.layers[name].acts)
        torch.testing.assert_close(together.layers[name].grads, alone.layers[name].grads)


def test_predicted_class_is_filled_in(tiny: Tiny) -> None:
    images = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    got = capture(tiny, images, [(), (3,)], [])
    assert got.targets == [(int(got.logits[0].argmax()),), (3,)]


@pytest.mark.parametrize("fails", [False, True])
def test_leaves_nothing_behind(tiny: Tiny, fails: bool) -> None:
    tiny.first.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in tiny.parameters()]
    images = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    if fails:
        with pytest.raises(IndexError):
            capture(tiny, images, [(99,)], ["relu1"])
    else:
        capture(tiny, images, None, ["relu1"])
    assert [parameter.requires_grad for parameter in tiny.parameters()] == flags
    assert not any(module._forward_hooks for module in tiny.modules())
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert not tiny.training


def test_no_map_and_unused_layers_are_the_users_mistake(tiny: Tiny) -> None:
    images = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(UserError, match="not a feature map"):
        capture(tiny, images, None, ["head"])
    tiny.spare = nn.ReLU()
    with pytest.raises(UserError, match="'spare' is not run"):
        capture(tiny, images, None, ["spare"])


def test_groups() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert group_logit(logits, [(1,)]).item() == 2.0
    torch.testing.assert_close(
        group_logit(logits, [(0, 2)]), (torch.tensor(1.0).exp() + torch.tensor(3.0).exp()).log()[None]
    )
    torch.testing.assert_close(group_probability(logits, [(0, 2)]), 1 - logits.softmax(1)[:, 1])
