"""A pass in float64: the same maps from any batch size and number of threads."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from bench.maps.capture import capture
from bench.maps.precise import capture_float64
from bench.types import Layer
from methods.entropy import grad_entropy


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resnet18().eval()


def pictures(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, (112, 112), mode="bicubic")


@pytest.fixture(scope="module")
def layers(network: nn.Module) -> list[list[Layer]]:
    """The same pictures' layer from several batch sizes and numbers of threads, one list of batches each."""
    before, images, passes = torch.get_num_threads(), pictures(8), []
    for threads, size in ((1, 1), (1, 2), (1, 7), (2, 1), (2, 8)):
        torch.set_num_threads(threads)
        batches = images.split(size)
        passes.append([capture_float64(network, b, [(3,)] * len(b), ["layer3"]).layers["layer3"] for b in batches])
    torch.set_num_threads(before)
    return passes


@pytest.mark.parametrize("options", [{}, {"invert": True}, {"estimator": "local"}, {"estimator": "value"}], ids=str)
def test_entropy_maps_depend_on_neither_batch_size_nor_threads(layers, options) -> None:
    first, *others = (torch.cat([grad_entropy(b.acts, b.grads, **options) for b in batches]) for batches in layers)
    for other in others:
        torch.testing.assert_close(other, first, rtol=2e-7, atol=0)


def test_it_equals_a_pass_in_float32_up_to_rounding(network) -> None:
    images, before = pictures(6), {name: value.clone() for name, value in network.state_dict().items()}
    flags = [parameter.requires_grad for parameter in network.parameters()]
    plain = capture(network, images, None, ["layer2", "layer4"], image_of=[5, 0, 2, 2, 4])
    wide = capture_float64(network, images, None, ["layer2", "layer4"], image_of=[5, 0, 2, 2, 4])
    assert wide.targets == plain.targets
    torch.testing.assert_close(wide.logits, plain.logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(wide.layers["layer2"].acts, plain.layers["layer2"].acts)
    for name, layer in wide.layers.items():
        torch.testing.assert_close(layer.acts, plain.layers[name].acts, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.grads, plain.layers[name].grads, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert not any(part._forward_hooks for part in network.modules())


class Fixed(nn.Module):
    """A network that makes float32 of its features."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)).to(torch.float32))


def test_a_network_with_a_type_of_its_own_runs_as_it_is_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network, images = Fixed().eval(), pictures(2)
    with caplog.at_level(logging.WARNING):
        wide, again = (capture_float64(network, images, None, ["features"]) for _ in range(2))
    assert "does not run in float64" in caplog.text and len(caplog.records) == 1
    assert torch.equal(
        wide.layers["features"].grads, capture(network, images, None, ["features"]).layers["features"].grads
    )
    assert torch.equal(again.logits, wide.logits)
    assert wide.logits.dtype == torch.float32
