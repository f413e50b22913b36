"""A network run on noise: its output, and the order in which its modules run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.identity import place_of
from bench.types import Network, UserError


def running_order(name: str, module: nn.Module, shape: Sequence[int]) -> list[str]:
    """Names of all modules in the order in which they start to run, each as often as it runs.

    A module that does not run itself, as a branch for training or nn.MultiheadAttention's ``out_proj``, stands behind
    the one registered before it. The inputs are noise of this `shape` (channels, spatial axes); UserError where the
    network cannot be run on them, `name` is for this message.
    """
    order: list[str] = []
    handles = [
        part.register_forward_pre_hook(lambda _module, _inputs, layer=layer: order.append(layer))
        for layer, part in module.named_modules()
    ]
    try:
        with torch.no_grad():
            logits_of(name, module, pictures(module, shape))
    finally:
        for handle in handles:
            handle.remove()
    before = ""
    for layer, _ in module.named_modules():
        if layer not in order:
            order.insert(len(order) - order[::-1].index(before), layer)
        before = layer
    return order


def running_of(network: Network) -> Sequence[str]:
    """Order in which a network's modules run; found by a pass where the network does not hold it."""
    return network.running or running_order(network.name, network.module, network.spec.shape)


def ordered(running: Iterable[str]) -> list[str]:
    """Each module's name once, in the order of the last runs, which are those that are captured."""
    return list(dict.fromkeys(reversed(list(running))))[::-1]


def pictures(module: nn.Module, shape: Sequence[int]) -> Tensor:
    """Two inputs of noise of this shape (channels, spatial axes), always the same ones, where the network is."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator).to(device_of(module))


def logits_of(name: str, module: nn.Module, images: Tensor) -> Tensor:
    """Give the network's output; UserError, with the place in its code, where it cannot be run on these pictures."""
    try:
        return module(images.clone())  # the network may write into its input
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # of the network's code: a user's, timm's or torchvision's
        size = " x ".join(map(str, images.shape[2:]))
        first = next((part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)), None)
        advice = "if it is made for another size, set model.size="
        if first is not None and first.in_channels != images.shape[1]:
            advice = (
                f"its first convolution takes {first.in_channels} channels, and the pictures have {images.shape[1]}"
            )
        raise UserError(f"{name} cannot be run on pictures of {size}: {advice} ({place_of(error)})") from error


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's parameters and buffers; the CPU where it has none."""
    first = next(iter(module.state_dict().values()), None)
    return torch.device("cpu") if first is None else first.device
