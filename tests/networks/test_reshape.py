"""Layers of transformers and channels-last networks: the maps of pytorch-grad-cam, default layers, what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from contract import METHODS
from small_networks import batch_of
from torch import Tensor, nn

from bench.binding import GIVEN_TO_METHOD, bind
from bench.maps.capture import capture
from bench.maps.jobs import job_map
from bench.maps.method_inputs import offered
from bench.maps.scorer import Scorer
from bench.networks.layers import resolve_layers
from bench.networks.own import custom_model
from bench.networks.reshape import reshape_of
from bench.networks.sources import timm_model, torchvision_model
from bench.options import conf_node
from bench.runs.plan import looks_at_layer
from bench.types import NO_LAYER, Job, Network, UserError

timm_random = partial(timm_model, weights="random")
torchvision_random = partial(torchvision_model, weights="random")


def tokens(output: Tensor, prefix: int, side: int) -> Tensor:
    return output[:, prefix:].reshape(len(output), side, side, -1).permute(0, 3, 1, 2)


def channels_last(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


# Default layer, and the reshape_transform that a user of pytorch-grad-cam would write for it.
PEERS = {
    "vit_tiny_patch16_224": (timm_random, "blocks.11.norm1", partial(tokens, prefix=1, side=14)),
    "deit_tiny_distilled_patch16_224": (timm_random, "blocks.11.norm1", partial(tokens, prefix=2, side=14)),
    "swin_tiny_patch4_window7_224": (timm_random, "norm", channels_last),
    "maxvit_tiny_tf_224": (timm_random, "stages", None),
    "convnext_atto": (timm_random, "stages", None),
    "vit_b_16": (torchvision_random, "encoder.layers.encoder_layer_11.ln_1", partial(tokens, prefix=1, side=14)),
    "swin_t": (torchvision_random, "permute", None),
}


@pytest.mark.parametrize("name", PEERS)
def test_maps_equal_those_of_pytorch_grad_cam(name: str) -> None:
    """Grad-CAM of the same random network, unnormalized and at the layer's size."""
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    factory, layer, transform = PEERS[name]
    network = factory(name=name)
    head = [part for part in network.module.modules() if isinstance(part, nn.Linear)][-1]
    if not head.weight.any():  # torchvision's ViT begins with a classifier of zeros
        nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    assert network.layers == [layer]
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    captured = capture(network.module, images, [(7,)], network.layers, reshape=network.reshape)
    acts, grads = captured.layers[layer].acts, captured.layers[layer].grads
    ours = (grads.mean((2, 3), keepdim=True) * acts).sum(1)
    peer = GradCAM(network.module, [network.module.get_submodule(layer)], reshape_transform=transform)
    seen = peer.activations_and_grads
    seen(images.requires_grad_())[0, 7].backward()
    # What it makes of them before the ReLU and the division by the maximum.
    weighted = peer.get_cam_image(
        images, None, [ClassifierOutputTarget(7)], seen.activations[0].numpy(), seen.gradients[0].numpy()
    )
    seen.release()
    theirs = torch.from_numpy(weighted).float()
    assert ours.shape == theirs.shape and theirs.abs().max() > 0
    torch.testing.assert_close(ours / theirs.abs().max(), theirs / theirs.abs().max(), rtol=0, atol=1e-4)


class ToyViT(nn.Module):
    """Two blocks over a class token and 4 x 4 patches; the class token alone is classified. timm's attributes."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch_embed = PatchEmbed(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = nn.Sequential(Block(), Block())
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).transpose(1, 2)
        out = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), patches], 1))
        return self.head(self.norm(out)[:, 0])


class PatchEmbed(nn.Conv2d):
    grid_size = (4, 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.drop = nn.LayerNorm(8), nn.Linear(8, 24), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, 2)
        attention = self.drop((3 * q @ k.transpose(1, 2)).softmax(2)[:, None].expand(-1, 2, -1, -1))
        return x + attention[:, 0] @ v


class Channelwise(nn.Module):
    """Channels-last inside, and nothing in the network that works on its last axis."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.move, self.fc = nn.Conv2d(3, 6, 4, 4), Move(), nn.Linear(4 * 4 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.move(self.conv(x)).flatten(1))


class Move(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).relu()


def swapped(output: Tensor) -> Tensor:
    return output[:, 1:].transpose(1, 2).reshape(len(output), -1, 4, 4)


def doubled(output: Tensor) -> Tensor:
    return swapped(output) * 2


def wrapped(output: Tensor) -> object:
    return (output,)


def broken(output: Tensor) -> Tensor:
    return output.no_such_method()


IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
custom = partial(custom_model, name="custom", size=16)


def toy(reshape: str = "auto", factory: str = "ToyViT", **more: object) -> Network:
    return custom(target=f"{__name__}:{factory}", reshape=reshape, **more)


@pytest.mark.parametrize("reshape", ["auto", "tokens", f"{__name__}:swapped"])
def test_a_map_of_tokens_leaves_the_class_token_out(reshape: str) -> None:
    network = toy(reshape)
    assert network.layers == ["blocks.1.norm1"]
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept.append(output.requires_grad_())
        output.retain_grad()

    handle = network.module.get_submodule("blocks.1.norm1").register_forward_hook(keep)
    network.module(IMAGES)[range(3), [1, 2, 0]].sum().backward()
    handle.remove()
    layer = capture(network.module, IMAGES, [(1,), (2,), (0,)], network.layers, reshape=network.reshape).layers[
        "blocks.1.norm1"
    ]
    assert layer.acts.shape == (3, 8, 4, 4)
    for row in range(4):
        for column in range(4):
            token = 1 + 4 * row + column
            torch.testing.assert_close(layer.acts[:, :, row, column], kept[0][:, token].detach())
            torch.testing.assert_close(layer.grads[:, :, row, column], kept[0].grad[:, token])


def test_activations_put_back_leave_the_class_token_as_it_was() -> None:
    network = toy()
    name, cases = "blocks.1.norm1", torch.arange(3)
    captured = capture(network.module, IMAGES, None, [name], reshape=network.reshape)
    batch = batch_of(IMAGES, captured.targets)
    score = Scorer(network.module, batch.targets, 2)
    offer = offered(network.module, name, captured.layers[name], captured.logits, batch, score)
    acts = captured.layers[name].acts
    torch.testing.assert_close(offer["forward_from"]()(acts, cases), captured.logits)

    def others(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1], torch.zeros_like(output[:, 1:])], 1)

    handle = network.module.get_submodule(name).register_forward_hook(others)
    expected = network.module(IMAGES)
    handle.remove()
    torch.testing.assert_close(offer["forward_from"]()(torch.zeros_like(acts), cases), expected)
    assert not torch.allclose(expected, captured.logits)
    again = offer["gradient"]()(IMAGES, cases)
    torch.testing.assert_close(again[:2], (acts, captured.layers[name].grads))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_a_transformer(name: str) -> None:
    """Or says in one line what it lacks; those of the shared pass all run."""
    network = toy()
    node = conf_node("method", name)
    small = {key: 2 for key in ("samples", "steps", "masks") if key in node}
    method = bind(name, node | small, GIVEN_TO_METHOD)
    captured = capture(network.module, IMAGES, None, network.layers, reshape=network.reshape)
    batch = batch_of(IMAGES, captured.targets)
    layer = network.layers[0] if looks_at_layer(method) else NO_LAYER
    layers = () if layer == NO_LAYER else (layer,)
    job = Job(method=method, label=name, layer=layer, layers=layers, index=0, key=name)
    shared = set(method.wants) <= {"acts", "grads", "once", "images", "shown", "ids", "targets"} and layers
    try:
        native = job_map(network.module, batch, captured, Scorer(network.module, batch.targets, 4), job, {})
    except UserError as error:
        assert not shared and str(error).startswith(f"{name}: ")
    else:
        assert native.shape == (3, 4, 4) if layers else native.shape == (3, 16, 16)
        assert native.isfinite().all()


def test_channels_last_by_shape_and_by_word() -> None:
    with pytest.raises(UserError, match=r"layer 'move' gives \(N, 4, 4, 6\), channels-last by its shape, and nothing"):
        capture(toy(factory="Channelwise").module, IMAGES, None, ["move"], reshape=toy(factory="Channelwise").reshape)
    network = toy("channels_last", "Channelwise")
    acts = capture(network.module, IMAGES, None, ["move"], reshape=network.reshape).layers["move"].acts
    torch.testing.assert_close(acts, network.module.conv(IMAGES).relu())
    plain = toy("none", "Channelwise")
    acts = capture(plain.module, IMAGES, None, ["move"], reshape=plain.reshape).layers["move"].acts
    torch.testing.assert_close(acts, network.module.conv(IMAGES).relu().permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("reshape", "layer", "line"),
    [
        ("auto", "blocks.1.drop", r"gives \(N, 2, 17, 17\), whose axes model\.reshape=auto does not know"),
        ("none", "norm", None),
        ("channels_last", "norm", r"gives \(N, 17, 8\), not \(N, \*spatial, K\)"),
        ("tokens", "patch_embed", r"gives \(N, 8, 4, 4\), not tokens"),
        (f"{__name__}:doubled", "norm", "must only rearrange"),
        (f"{__name__}:broken", "norm", r"fails on layer 'norm' with \(N, 17, 8\): AttributeError"),
        (f"{__name__}:wrapped", "norm", r"gives tuple for \(1, 17, 8\), not \(1, K, \*spatial\)"),
    ],
)
def test_ambiguous_layers_are_refused_in_one_line(reshape: str, layer: str, line: str | None) -> None:
    network = toy(reshape, layers=[])
    if line is None:  # as the user says, whatever comes of it
        assert capture(network.module, IMAGES, None, [layer], reshape=network.reshape).layers[layer].acts.ndim == 3
        return
    with pytest.raises(UserError, match=line):
        capture(network.module, IMAGES, None, [layer], reshape=network.reshape)


def test_tokens_of_an_unknown_network() -> None:
    auto, told = reshape_of(nn.Linear(2, 2), "auto"), reshape_of(nn.Linear(2, 2), "tokens")
    with pytest.raises(UserError, match=r"gives \(N, 50, 32\), whose axes"):
        auto("x", (50, 32), (224, 224))
    assert told("x", (50, 32), (224, 224)).shape == (32, 7, 7)  # one prefix token
    assert told("x", (200, 32), (224, 224))[3, 1, 2] == (4 + 14 + 2) * 32 + 3  # four before 14 x 14
    assert told("x", (33, 8), (64, 128)).shape == (8, 4, 8)
    with pytest.raises(UserError, match="gives 224 tokens, which are no grid"):
        told("x", (224, 32), (224, 224))


def test_a_map_as_long_as_it_is_high_is_taken_as_channels_first() -> None:
    auto = reshape_of(nn.Linear(8, 8), "auto")
    assert auto("x", (8, 8, 8), (224, 224)) is None
    assert auto("x", (8, 7, 7), (224, 224)) is None
    assert auto("x", (7, 7, 8), (224, 224))[5, 2, 3] == 2 * 56 + 3 * 8 + 5


@pytest.mark.parametrize("layer", ["blocks.*.norm1", "all"])
def test_layers_of_a_transformer_by_glob(layer: str) -> None:
    network = toy()
    if layer == "all":
        with pytest.raises(UserError, match="no activation modules"):
            resolve_layers(network, layer)
    else:
        assert resolve_layers(network, layer) == ["blocks.0.norm1", "blocks.1.norm1"]
