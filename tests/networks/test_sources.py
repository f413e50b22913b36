"""Every curated network with random weights: its layers exist, are captured untouched, and are feature maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from bench.config import CONF, build
from bench.maps.capture import capture
from bench.networks.layers import default_layers
from bench.types import UserError

FILES = sorted((CONF / "model").glob("*.yaml"))
CURATED = [path.stem for path in FILES if yaml.safe_load(path.read_text())["name"] not in ("???", "custom", "planted")]
# ConvNeXt's stages end in a sum; its only activations lie inside the blocks and are channels-last.
SIGNED = {"convnext_tiny"}


def node(file: str, **more: object) -> dict:
    return {**yaml.safe_load((CONF / "model" / f"{file}.yaml").read_text()), "weights": "random", **more}


@pytest.mark.parametrize("name", CURATED)
def test_curated_network(name: str) -> None:
    network = build("model", node(name))
    modules = dict(network.module.named_modules())
    assert network.layers and set(network.layers) <= set(modules)
    # Small inputs for speed; Inception needs the most.
    size = (128, 128) if network.spec.rank == 2 else (4, 32, 32)
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.module(image)
    seen: dict[str, torch.Tensor] = {}
    # A hook of our own before the rest of the network runs: what it copies is the truth.
    handles = [
        modules[layer].register_forward_hook(
            lambda _m, _i, out, layer=layer: seen.update({layer: out.detach().clone()})
        )
        for layer in network.layers
    ]
    captured = capture(network.module, image, None, network.layers)
    for handle in handles:
        handle.remove()
    assert expected.shape == captured.logits.shape == (1, 1000 if network.spec.rank == 2 else 400)
    torch.testing.assert_close(captured.logits, expected, rtol=1e-3, atol=1e-4)
    for layer in network.layers:
        acts, grads = captured.layers[layer].acts, captured.layers[layer].grads
        assert acts.ndim == 2 + network.spec.rank and acts.shape == grads.shape
        assert acts.shape[-2] == acts.shape[-1] > 1 and acts.shape[1] >= 192
        assert torch.equal(acts, seen[layer])
        assert acts.isfinite().all() and grads.isfinite().all() and grads.abs().sum() > 0
        # ReLU gives 0 and more, SiLU and Hardswish at least -0.375; a pre-activation map is half negative.
        assert (acts.min() >= -0.376) == (name not in SIGNED)


def test_all_asked_networks_are_curated() -> None:
    asked = "vgg16 vgg19 alexnet resnet18 resnet50 resnet101 densenet121 googlenet inception_v3 mobilenet_v3_large"
    asked += " efficientnet_b0 convnext_tiny regnet_y_8gf squeezenet1_1"
    asked += " efficientnet_lite0 efficientnet_lite1 efficientnet_lite2"
    assert set(asked.split()) <= set(CURATED)


def test_densenet_with_a_second_relu_is_torchvisions() -> None:
    from torchvision.models import densenet121

    network = build("model", node("densenet121"))
    plain = densenet121(weights=None).eval()
    plain.load_state_dict(network.module.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(plain(image), network.module(image))


def test_inception_undoes_the_normalization_as_with_its_weights() -> None:
    """torchvision sets transform_input with the weights; they are wrong without."""
    from torchvision.models import Inception_V3_Weights

    network = build("model", node("inception_v3"))
    assert network.module.transform_input is True
    assert network.spec.size == Inception_V3_Weights.DEFAULT.transforms().crop_size[0] == 299


@pytest.mark.parametrize(
    ("group", "name", "layer"),
    [
        ("torchvision", "resnet18", "layer4.1.relu"),
        ("torchvision", "mobilenet_v2", "features.18.2"),
        ("torchvision", "googlenet", "inception5b"),
        ("timm", "tf_efficientnet_lite0", "bn2.act"),
        ("timm", "resnet18.a1_in1k", "layer4.1.act2"),
    ],
)
def test_any_network_by_name_finds_its_last_feature_map(group: str, name: str, layer: str) -> None:
    network = build("model", node(group, name=name))
    assert (network.name, network.layers) == (name, [layer])


def test_channels_last_activations_are_no_feature_maps() -> None:
    network = build("model", node("timm", name="convnext_tiny"))
    module = dict(network.module.named_modules())[network.layers[0]]
    kept: list[torch.Tensor] = []
    with torch.inference_mode():
        handle = module.register_forward_hook(lambda _m, _i, out: kept.append(out))
        network.module(torch.zeros(1, 3, 224, 224))
        handle.remove()
    assert kept[0].shape == (1, 768, 7, 7)


def test_unknown_names_are_one_line() -> None:
    with pytest.raises(UserError, match=r"no classifier 'resnet19'; did you mean .*resnet18"):
        build("model", node("torchvision", name="resnet19"))
    with pytest.raises(UserError, match="timm has no model 'resnet5O'; did you mean"):
        build("model", node("timm", name="resnet5O"))
    with pytest.raises(UserError, match="fcn_resnet50: returns a OrderedDict; name its logits with model.output="):
        build("model", node("torchvision", name="fcn_resnet50"))


def test_custom_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zoo_of_a_user.py").write_text(
        "import torch\n"
        "def make():\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True),\n"
        "        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5))\n"
        "def wrong():\n    return 3\n"
    )
    asked = {**yaml.safe_load((CONF / "model" / "custom.yaml").read_text()), "size": 32}
    network = build("model", {**asked, "target": "zoo_of_a_user:make"})
    assert network.layers == ["1"] and network.spec.size == 32
    assert network.weights_hash == build("model", {**asked, "target": "zoo_of_a_user:make"}).weights_hash
    torch.save(build("model", {**asked, "target": "zoo_of_a_user:make"}, seed=1).module.state_dict(), "mine.pth")
    assert (
        build("model", {**asked, "target": "zoo_of_a_user:make", "weights": "mine.pth"}).weights_hash
        != network.weights_hash
    )
    for target, message in (
        ("zoo_of_a_user", "must be package.module:function"),
        ("zoo_of_a_user:nothing", "cannot be imported"),
        ("not_there:make", "cannot be imported"),
        ("zoo_of_a_user:wrong", "returned int"),
    ):
        with pytest.raises(UserError, match=message):
            build("model", {**asked, "target": target})


def test_no_feature_map_is_one_line() -> None:
    with pytest.raises(UserError, match="no feature map"):
        default_layers("flat", nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2))
    with pytest.raises(UserError, match="cannot be run"):
        default_layers("flat", nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 3, 3))
