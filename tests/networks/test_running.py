"""The order of running: whatever the order of registration, modules that run twice, and modules that never do."""

import pytest
import torch
from torch import nn

from bench.maps.method_inputs import head
from bench.networks.layers import resolve_layers
from bench.networks.running import ordered, running_order
from bench.networks.sources import timm_model, torchvision_model
from bench.runs.facts import look_at
from bench.types import InputSpec, Layer, Network, UserError


class Backwards(nn.Module):
    """Registered from the classifier to the first convolution; one activation runs twice."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 4)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.training_only = nn.Sequential(nn.Linear(6, 4))
        self.first = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, images):
        maps = self.act(self.second(self.act(self.first(images))))
        tokens = maps.flatten(2).transpose(1, 2)
        return self.head((tokens + self.attention(tokens, tokens, tokens)[0]).mean(1))


def test_modules_stand_as_they_run():
    order = running_order("backwards", Backwards().eval(), (3, 8, 8))
    runs = ["", "first", "act", "second", "training_only", "training_only.0", "act", "attention", "attention.out_proj"]
    assert order == [*runs, "head"]
    assert ordered(order) == [*runs[:2], *runs[3:], "head"]


def test_the_network_is_left_as_it_was():
    module = Backwards().eval()
    state = torch.get_rng_state()
    running_order("backwards", module, (3, 8, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(part._forward_pre_hooks for part in module.modules())
    with pytest.raises(UserError, match="backwards cannot be run on pictures of 8 x 8"):
        running_order("backwards", module, (4, 8, 8))
    assert not any(part._forward_pre_hooks for part in module.modules())


def test_layers_and_their_places_stand_as_they_run():
    network = Network("backwards", Backwards().eval(), InputSpec(8, 8, (0.5,) * 3, (0.5,) * 3), [], "random", "0")
    assert resolve_layers(network, ["second", "act", "first"]) == ["first", "second", "act"]
    facts = look_at(network, "[fs]*", torch.device("cpu"))
    assert facts.layers == ("first", "second") and facts.index == {"first": 1, "second": 2}


def test_the_classifier_is_recognized_wherever_it_is_registered():
    module = nn.ModuleDict({"head": nn.Linear(6, 4), "other": nn.Linear(6, 4), "third": nn.Linear(6, 2)})
    layer = Layer(torch.rand(2, 6, 5, 5), torch.empty(0))
    logits = module["head"](layer.acts.mean((2, 3)))
    assert torch.equal(head(module, layer, logits), module["head"].weight)
    assert head(module, layer, logits + 1) is None and head(module, None, logits) is None
    assert head(nn.ModuleDict({"other": module["other"]}), layer, logits) is None


@pytest.mark.parametrize(
    ("build", "name"),
    [(torchvision_model, "vgg16"), (torchvision_model, "resnet50"), (timm_model, "efficientnet_lite0")],
)
def test_published_networks_run_as_they_are_registered(build, name):
    """Of these networks the randomization checks have the numbers of before there was an order of running."""
    network = build(name=name, weights="random", layers=[])
    order = running_order(name, network.module, network.spec.shape)
    weighted = [name for name, part in network.module.named_modules() if any(True for _ in part.parameters(False))]
    assert [name for name in ordered(order) if name in weighted] == weighted
