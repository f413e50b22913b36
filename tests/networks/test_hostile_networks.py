"""Networks as users write them: each gives the map of the plain one, or one line that says what to do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import hostile_networks
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.api.pictures import explain_image
from bench.maps.capture import capture
from bench.maps.explain import changed
from bench.maps.scorer import Scorer
from bench.networks.own import custom_model
from bench.types import Network, UserError
from metrics.sanity import Randomized

custom = partial(custom_model, name="custom", size=32)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

# Factory, settings: the map and the probability are those of `plain`.
SAME = [
    ("as_dict", {"output": "logits"}),
    ("as_tuple", {"output": 1}),
    ("as_tuple", {"output": "1"}),
    ("as_dataclass", {"output": "logits"}),
    ("as_namedtuple", {"output": "logits"}),
    ("as_map", {}),
    ("view", {}),
    ("five_axes", {}),
    ("writes_into_its_input", {}),
    ("half", {}),
    ("bfloat16", {}),
    ("double", {}),
    ("in_training", {}),
    ("frozen", {}),
    ("data_parallel", {}),
    ("compiled", {}),
    ("compiled_part", {}),
    ("lightning", {}),
    ("parametrized", {}),
    ("remembers", {}),
    ("normed_by_hooks", {}),
    ("with_a_lock", {}),
    ("masked", {}),
]
# Factory, settings: maps of their own.
OTHER = [
    ("as_row", {}),
    ("ends_in_softmax", {"probability": "none"}),
    ("ends_in_own_softmax", {"probability": "none"}),
    ("ends_in_sigmoid", {"probability": "none"}),
    ("lazy", {}),
    ("without_parameters", {}),
]
# Factory, settings, what the line says.
REFUSED = [
    ("as_dict", {}, r"returns a dict; name its logits with model\.output=, one of logits, loss"),
    ("as_dict", {"output": "scores"}, "has no output 'scores': it returns a dict, one of logits, loss"),
    ("as_tuple", {}, r"returns a tuple; name its logits with model\.output=, an index under 2"),
    ("as_tuple", {"output": 2}, "has no output 2: it returns a tuple, an index under 2"),
    ("as_dataclass", {}, "one of logits, loss"),
    ("as_namedtuple", {}, "one of logits, features"),
    ("as_none", {}, "returns a NoneType"),
    ("as_segmentation", {}, r"gives \(2, 5, 7, 7\), which are not logits"),
    ("as_labels", {}, r"gives \(2, 1\) of torch\.int64, which are not logits"),
    ("ends_in_softmax", {}, r"ends in a softmax.*model\.probability=none"),
    ("ends_in_own_softmax", {}, "ends in a softmax"),
    ("ends_in_sigmoid", {}, "ends in a sigmoid"),
    ("backbone_without_gradients", {}, r"no gradient reaches layer 'body\.3'.*torch\.no_grad"),
    ("detached_backbone", {}, r"no gradient reaches layer 'body\.3'.*detach"),
    ("scripted", {}, "is TorchScript"),
    ("traced", {}, "is TorchScript"),
    ("one_channel", {}, "its first convolution takes 1 channels, and the pictures have 3"),
    ("raises", {}, r"hostile_networks:raises raised FileNotFoundError: no settings\.json, hostile_networks\.py line"),
    ("no_module", {}, r"returned dict, not a torch\.nn\.Module"),
    ("forward_raises", {}, r"cannot be run on pictures of 32 x 32.*KeyError: 'missing', hostile_networks\.py line \d+"),
    ("fixed_size", {}, r"set model\.size=.*needs 300 x 300"),
    ("never_ends", {}, "RecursionError"),
    ("flat", {}, "no feature map"),
    ("not_there", {}, "cannot be imported"),
    ("drops_always", {}, "different outputs, alone and beside another"),
    ("statistics_of_the_batch", {}, "batch norm without running statistics"),
    ("counts_its_passes", {}, "or from pass to pass"),
    ("diverged", {}, r"its fc\.weight holds NaN or infinite values.*earlier checkpoint"),
    ("overflown", {}, r"its fc\.bias holds NaN"),
    ("quantized", {}, "quantized weights; pass the network as it was before quantization"),
    ("refuses_evaluation", {}, r"evaluation mode.*NotImplementedError: only trained, hostile_networks\.py line \d+"),
    ("exits", {}, r"raised SystemExit: 2, hostile_networks\.py line \d+"),
    ("exits_in_a_pass", {}, "SystemExit: 3"),
    ("no_classes", {}, r"gives \(2, 0\), which are not logits"),
    ("plain", {"output": "logits"}, "has no output 'logits': it returns a tensor"),
    ("plain", {"output": 0}, "has no output 0: it returns a tensor"),
    ("plain", {"probability": "tanh"}, r"model\.probability=tanh is unknown; it takes auto, softmax, sigmoid, none"),
    ("plain", {"reshape": "token"}, r"model\.reshape=token is unknown; it takes auto, tokens"),
    ("plain", {"reshape": "tokens"}, "no feature map"),
]


def explained(network: Network) -> tuple[Tensor, Tensor]:
    """Grad-CAM before its ReLU at the default layer, and the target's value."""
    captured = capture(network.module, IMAGES, None, network.layers, reshape=network.reshape)
    layer = captured.layers[network.layers[-1]]
    score = Scorer(network.module, captured.targets, 2, probability=network.probability)
    values = score(IMAGES, torch.arange(2))
    return (layer.grads.mean((2, 3), keepdim=True) * layer.acts).sum(1), values


@pytest.mark.parametrize(("factory", "settings"), SAME)
def test_same_map_as_the_plain_network(factory: str, settings: dict[str, Any]) -> None:
    network = custom(target=f"hostile_networks:{factory}", **settings)
    # Half precision has 11 bits of a weight, bfloat16 eight.
    exact = {"half": 2e-3, "bfloat16": 2e-2}.get(factory, 1e-5)
    given = IMAGES.clone()
    for ours, theirs in zip(explained(network), explained(custom(target="hostile_networks:plain")), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=exact * float(theirs.abs().max()))
    assert torch.equal(IMAGES, given)
    assert network.channels_last == (factory not in ("view", "five_axes"))
    if network.channels_last:  # as the runner does
        module = network.module.to(memory_format=torch.channels_last)
        module(IMAGES.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize(("factory", "settings"), OTHER)
def test_maps(factory: str, settings: dict[str, Any]) -> None:
    network = custom(target=f"hostile_networks:{factory}", **settings)
    native, values = explained(network)
    assert native.ndim == 3 and native.isfinite().all() and native.abs().max() > 0
    logits = network.module(IMAGES)
    wanted = {"none": logits, "sigmoid": logits.sigmoid(), "softmax": logits.softmax(1)}[network.probability].amax(1)
    torch.testing.assert_close(values, wanted)
    assert network.probability == settings.get("probability", "sigmoid" if logits.shape[1] == 1 else "softmax")


@pytest.mark.parametrize(("factory", "settings", "line"), REFUSED)
def test_one_line(factory: str, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        explained(custom(target=f"hostile_networks:{factory}", **settings))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_a_module_that_exits_when_it_is_imported_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text("import argparse\nargparse.ArgumentParser(prog='x').parse_args(['--typo'])\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be imported from .* \(SystemExit: 2, script\.py line 2\)"):
        custom(target="script:build")


@pytest.mark.parametrize("factory", ["remembers", "normed_by_hooks"])
def test_a_network_that_keeps_tensors_is_copied(factory: str) -> None:
    """Also where a metric draws the weights of a copy anew."""
    module = getattr(hostile_networks, factory)()
    ours = explain_image(np.zeros((9, 9, 3), np.uint8), model=module)
    assert np.array_equal(
        ours.heatmap, explain_image(np.zeros((9, 9, 3), np.uint8), model=hostile_networks.plain()).heatmap
    )
    redrawn = changed(module, Randomized(("fc",), 0))
    assert redrawn is not module and not torch.equal(redrawn.fc.weight, module.fc.weight)
    assert torch.equal(module.fc.weight, hostile_networks.plain().fc.weight) and module(IMAGES).requires_grad


def test_a_network_that_cannot_be_copied_is_one_line() -> None:
    module = hostile_networks.with_a_lock()
    with pytest.raises(
        UserError, match=r"keeps something that cannot be copied \(cannot pickle '_thread.lock' object\)"
    ):
        explain_image(np.zeros((9, 9, 3), np.uint8), model=module)
    with pytest.raises(UserError, match="cannot be copied"):
        changed(module, Randomized(("fc",), 0))


def test_methods_without_gradients_work_behind_no_grad() -> None:
    network = custom(target="hostile_networks:backbone_without_gradients")
    captured = capture(network.module, IMAGES, None, network.layers, gradients=False, reshape=network.reshape)
    assert captured.layers["body.3"].acts.shape == (2, 6, 6, 6)


def test_lazy_weights_follow_the_seed_and_leave_the_callers_alone() -> None:
    torch.manual_seed(4)
    before = torch.rand(1)
    torch.manual_seed(4)
    first, again, other = (custom(target="hostile_networks:lazy", seed=seed).weights_hash for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), before)
    assert first == again != other
