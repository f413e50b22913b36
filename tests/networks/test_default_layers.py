"""Default layers: with the map set to zero nothing of the logits' difference between two pictures is left."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bench.maps.capture import capture
from bench.networks.layers import FIRST_NORMS, default_layers, resolve_layers
from bench.networks.sources import timm_model, torchvision_model
from bench.types import Network, UserError

torchvision_random = partial(torchvision_model, weights="random")
timm_random = partial(timm_model, weights="random")

FAST = [
    *((torchvision_random, name) for name in
      "resnet18 densenet121 googlenet inception_v3 squeezenet1_1 mobilenet_v3_small shufflenet_v2_x0_5 mnasnet0_5 "
      "regnet_x_400mf".split()),
    *((timm_random, name) for name in
      "convnext_atto coatnet_pico_rw_224 swin_tiny_patch4_window7_224 test_byobnet test_convnext test_efficientnet "
      "test_mambaout test_nfnet test_resnet test_vit pvt_v2_b0 mixer_s32_224".split()),
]  # fmt: skip
SLOW = [
    *((torchvision_random, name) for name in
      "alexnet convnext_tiny efficientnet_b0 efficientnet_v2_s maxvit_t mobilenet_v2 regnet_y_400mf resnet50 "
      "resnext50_32x4d squeezenet1_0 swin_t swin_v2_t vgg11 vgg11_bn vit_b_32 wide_resnet50_2".split()),
    *((timm_random, name) for name in """
    beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    test_convnext cpubone_nano crossvit_tiny_240 cs3darknet_focus_s csatv2 cspnext_tiny davit_tiny deit_tiny_patch16_224
    densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 test_efficientnet
    efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
    focalnet_tiny_srf gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hieradet_small
    hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small
    levit_128s lowformer_b0 test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050
    mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small
    test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d
    test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
    swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224
    test_vit_relpos samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception
    xception41p xcit_nano_12_p8_224
    """.split()),
]  # fmt: skip
# The smallest of timm's families whose layers give what nobody's attributes describe, or (efficientvim_m1) whose
# classifiers see every stage, so that no map is the last: one line says so.
REFUSED = set(
    "coat_tiny crossvit_tiny_240 efficientvim_m1 hiera_tiny_224 levit_128s mvitv2_tiny "
    "naflexvit_base_patch16_parfac_gap pit_ti_224 tnt_s_legacy_patch16_224 twins_svt_small xcit_nano_12_p8_224".split()
)

# Families of encoders for language models: no classifier, and from 90 million parameters and 546 pixels up.
ENCODERS = {"deepseek_vit", "gemma4_vit", "qwen3_vit"}


def left_without(network: Network, layer: str) -> float:
    """Share of the logits' difference between two pictures that is left with a layer's whole output set to zero."""
    images = torch.randn(2, *network.spec.shape, generator=torch.Generator().manual_seed(7))

    def zero(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    with torch.no_grad():
        logits = network.module(images)
        handle = network.module.get_submodule(layer).register_forward_hook(zero)
        without = network.module(images)
        handle.remove()
    assert (logits[0] - logits[1]).abs().max() > 0
    return float((without[0] - without[1]).abs().max() / (logits[0] - logits[1]).abs().max())


def drawn_larger(network: Network) -> None:
    """Draw weights anew that keep the size of what passes: GoogLeNet's own ones make it vanish in float32."""
    torch.manual_seed(0)
    for part in network.module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight)


def check(factory: partial[Network], name: str) -> None:
    try:
        network = factory(name=name)
    except UserError as error:
        assert name in REFUSED and "\n" not in str(error), error
        return
    assert name not in REFUSED
    assert hooks_of(network) == [1]  # the one that picks the logits
    (layer,) = network.layers
    head = [part for part in network.module.modules() if isinstance(part, nn.Linear)][-1:]
    if name == "googlenet" or not all(part.weight.any() for part in head):  # a mixer's classifier begins with zeros
        drawn_larger(network)
        assert resolve_layers(network, "auto") == [layer]
    captured = capture(network.module, torch.randn(1, *network.spec.shape), None, [layer], reshape=network.reshape)
    assert hooks_of(network) == [1]
    acts, grads = captured.layers[layer].acts, captured.layers[layer].grads
    assert acts.ndim == 4 and acts.shape == grads.shape and acts.shape[2] * acts.shape[3] > 1
    assert acts.isfinite().all() and grads.isfinite().all()
    print(f"{name}: {layer} {tuple(acts.shape[1:])}")
    if is_first_norm(layer):  # of the last block, whose class token goes past the patches
        assert layer == [other for other, _ in network.module.named_modules() if is_first_norm(other)][-1]
        assert captured.layers[layer].index is not None
    else:
        assert left_without(network, layer) < 0.01


def hooks_of(network: Network) -> list[int]:
    """Numbers of forward hooks of those modules that have any."""
    numbers = [len(part._forward_hooks) for part in network.module.modules()]
    return [number for number in numbers if number]


def is_first_norm(name: str) -> bool:
    return name.rpartition(".")[2] in FIRST_NORMS


@pytest.mark.parametrize(("factory", "name"), FAST, ids=[name for _, name in FAST])
def test_everything_passes_through_the_default_layer(factory: partial[Network], name: str) -> None:
    check(factory, name)


@pytest.mark.slow
@pytest.mark.parametrize(("factory", "name"), SLOW, ids=[name for _, name in SLOW])
def test_everything_passes_through_the_default_layer_of_every_family(factory: partial[Network], name: str) -> None:
    check(factory, name)


def test_every_family_of_timm_has_a_network_here() -> None:
    """Its smallest one; how many there are is printed."""
    import timm

    ours = {name for factory, name in FAST + SLOW if factory is timm_random}
    families = {family: ours & set(timm.list_models(module=family)) for family in timm.list_modules()}
    without = {family for family, own in families.items() if not own}
    assert without <= ENCODERS, "build their smallest network here, too"
    refused = sum(own <= REFUSED for family, own in families.items() if own)
    print(f"{len(families)} families of timm: {len(families) - refused - len(without)} have maps at a default layer, "
          f"{refused} say in one line why not, {len(without)} have no classifier")  # fmt: skip


def test_the_check_can_fail() -> None:
    """One branch of Inception's last block, and the inside of ConvNeXt's, leave something."""
    inception = torchvision_random(name="googlenet", layers=[])
    drawn_larger(inception)
    assert left_without(inception, "inception5b.branch2") > 0.1
    assert left_without(timm_random(name="test_convnext", layers=[]), "stages.3.blocks.0.mlp.act") > 0.1


class TwoRuns(nn.Module):
    """One ReLU runs in the trunk and, later, in a side branch: its last run is not what everything passes through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.relu = nn.Conv2d(3, 8, 4, 4), nn.ReLU()
        self.side, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        return self.fc((x + self.relu(self.side(x))).mean((2, 3)))


def test_the_last_run_of_a_module_counts() -> None:
    assert default_layers("two", TwoRuns(), (3, 32, 32)) == ["stem"]


class Stages(nn.Module):
    """Means of two stages side by side: only the first carries everything."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.fc(torch.cat([x.mean((2, 3)), self.two(x).mean((2, 3))], 1))


def test_features_of_several_stages() -> None:
    assert default_layers("stages", Stages(), (3, 32, 32)) == ["one"]


def test_auto_is_the_same_layer() -> None:
    network = timm_random(name="test_convnext")
    assert resolve_layers(network, "auto") == resolve_layers(network, None) == network.layers == ["stages"]
