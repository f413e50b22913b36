"""Layers by name, glob, auto and all; maps fused over layers."""

from __future__ import annotations

import pytest
import torch

from bench.config import build
from bench.maps.heatmaps import fuse
from bench.networks.layers import feature_maps, resolve_layers
from bench.networks.sources import torchvision_model
from bench.options import conf_node
from bench.types import Network, UserError


@pytest.fixture(scope="module")
def lite0() -> Network:
    return build("model", {**conf_node("model", "efficientnet_lite0"), "weights": "random"})


def test_default_layers_in_forward_order(lite0: Network) -> None:
    assert resolve_layers(lite0, None) == ["blocks.6.0.bn2.act", "bn2.act"]
    assert len(resolve_layers(lite0, "blocks.*.*.bn2.act")) == 16
    assert len(resolve_layers(lite0, "*bn2.act")) == 17
    assert resolve_layers(lite0, ["bn2.act", "bn2.act"]) == ["bn2.act"]


def test_unknown_layer_names_the_nearest(lite0: Network) -> None:
    with pytest.raises(UserError, match=r"no layer 'bn2\.actt'; nearest: bn2\.act"):
        resolve_layers(lite0, "bn2.actt")


@pytest.mark.parametrize(
    ("name", "layer", "number"),
    [
        ("vgg16", "features.29", 13),
        ("resnet18", "layer4.1.relu", 9),  # stem, and the two blocks of four stages, each at its last run
        ("squeezenet1_1", "classifier.2", 26),
        ("mobilenet_v2", "features.18.2", 35),
        ("densenet121", "features.relu5", 121),
    ],
)
def test_auto_and_all(name: str, layer: str, number: int) -> None:
    network = torchvision_model(name=name, weights="random", layers=[])
    hooks = [list(module._forward_hooks) for module in network.module.modules()]
    assert resolve_layers(network, "auto") == [layer]
    found = resolve_layers(network, "all")
    assert len(found) == len(set(found)) == number
    assert [list(module._forward_hooks) for module in network.module.modules()] == hooks


def test_auto_on_the_default_network(lite0: Network) -> None:
    assert resolve_layers(lite0, "auto") == ["bn2.act"]
    # the first block ends in a linear bottleneck: its bn2.act is an identity
    assert set(resolve_layers(lite0, "*bn2.act")) - set(resolve_layers(lite0, "all")) == {"blocks.0.0.bn2.act"}
    assert list(feature_maps("x", lite0.module, (3, 224, 224)))[-1] == "bn2"


def test_fused_maps() -> None:
    first, second = torch.tensor([[[0.0, 2.0, 4.0]]]), torch.tensor([[[10.0, 5.0, 0.0]]])
    torch.testing.assert_close(fuse([first, second], "mean"), torch.tensor([[[0.5, 0.5, 0.5]]]))
    torch.testing.assert_close(fuse([first, second], "max"), torch.tensor([[[1.0, 0.5, 1.0]]]))
    torch.testing.assert_close(fuse([first, second], "product"), torch.tensor([[[0.0, 0.25, 0.0]]]))
    assert fuse([first, torch.zeros_like(first)], "mean").max() == 0.5
