"""Layers to look at: by name or glob, the last feature map before pooling, or all behind an activation."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from bench.types import Network, UserError

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
)  # fmt: skip
# timm defines classes of its own for the same functions.
ACTIVATION_NAMES = {"Swish", "SiLU", "HardSwish", "HardSwishMe", "SwishMe", "MishJit", "GELUTanh", "QuickGELU", "GELU"}


def resolve_layers(network: Network, wanted: str | Sequence[str] | None) -> list[str]:
    """Names of the chosen layers in the order of ``named_modules()``.

    `wanted` None takes the network's default layers, ``auto`` the last feature map before pooling, ``all`` every
    feature map behind an activation; else names or globs (``features.*``). UserError, with the nearest names, where
    nothing matches.
    """
    if wanted in ("auto", "all"):
        active = activation_layers(network)
        return active if wanted == "all" else default_layers(network.name, network.module, network.spec.size)
    patterns = network.layers if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    names = [name for name, _ in network.module.named_modules() if name]
    chosen: set[str] = set()
    for pattern in map(str, patterns):
        matching = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            near = get_close_matches(pattern, names, 5, 0.3) or names[-5:]
            raise UserError(f"{network.name} has no layer {pattern!r}; nearest: {', '.join(near)}")
        chosen.update(matching)
    return [name for name in names if name in chosen]


def activation_layers(network: Network) -> list[str]:
    """Every activation module that gives a feature map, in the order of running (see `feature_maps`).

    Raises
    ------
    UserError
        The network has none: its activations are functions, not modules.
    """
    maps = feature_maps(network.name, network.module, network.spec.size)
    active = [name for name in maps if is_activation(network.module.get_submodule(name))]
    if not active:
        raise UserError(f"{network.name} has no activation modules; name layers with layer=")
    return active


def default_layers(name: str, module: nn.Module, size: int) -> list[str]:
    """Find the last feature map behind an activation before pooling (one name), else the last feature map.

    Arguments and errors as in `feature_maps`.
    """
    sides = feature_maps(name, module, size)
    last = [layer for layer in sides if sides[layer] == list(sides.values())[-1]]
    active = [layer for layer in last if is_activation(module.get_submodule(layer))]
    return [(active or last)[-1]]


def feature_maps(name: str, module: nn.Module, size: int) -> dict[str, int]:
    """Find every module that gives a feature map: its name and the map's side, in the order of their (last) runs.

    A feature map is (1, K, h, w) with h = w > 1 for one empty picture of `size` x `size`, which also rules out
    channels-last maps and pooled features. A pool, and what hands a pool's output on (a container, dropout), is left
    out. UserError if the network has no feature map or cannot be run on such an input; `name` is for this message.
    """
    sides: dict[str, int] = {}
    pooled: list[object] = []

    def record(layer: str, one: nn.Module, _inputs: object, output: object) -> None:
        sides.pop(layer, None)
        if "Pool" in type(one).__name__:
            pooled.append(output)
        if any(output is before for before in pooled):
            return
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
            sides[layer] = output.shape[2]

    handles = [one.register_forward_hook(partial(record, layer)) for layer, one in module.named_modules() if layer]
    try:
        device = next(iter(module.state_dict().values())).device
        with torch.inference_mode():
            module(torch.zeros(1, 3, size, size, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        detail = " ".join(str(error).split())[:150]
        raise UserError(
            f"{name} cannot be run on a picture of {size} x {size} ({detail}); set the model's size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not sides:
        raise UserError(f"{name} has no feature map (N, K, h, w), so it is no CNN; name a layer with layer=")
    return sides


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the known activation functions."""
    return isinstance(module, ACTIVATIONS) or type(module).__name__ in ACTIVATION_NAMES
