"""Which layers to look at: names, globs, the last one before pooling, or all behind an activation."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from bench.default_layers import default_layers, is_activation
from bench.models import Network
from bench.types import UserError


def resolve_layers(network: Network, asked: str | Sequence[str] | None) -> list[str]:
    """Names of the asked layers in the order of ``named_modules()``.

    Parameters
    ----------
    network : Network
    asked : None, str or sequence of str
        None takes the network's default layers, ``auto`` the last feature map before pooling, ``all`` every
        feature map behind an activation; else names or globs (``features.*``).

    Raises
    ------
    UserError
        Nothing matches; the nearest names are listed.
    """
    if asked in ("auto", "all"):
        found = activation_layers(network)
        return found if asked == "all" else default_layers(network.name, network.module, network.spec.size)
    patterns = network.layers if asked is None else [asked] if isinstance(asked, str) else list(asked)
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
    """Every activation module that gives a feature map with more than one position, in the order of running.

    A module that runs several times in one forward pass (ResNet's ReLU) is named once, at its last run.

    Raises
    ------
    UserError
        The network has none: its activations are functions, not modules.
    """
    found = [name for name, module in feature_maps(network) if is_activation(module)]
    if not found:
        raise UserError(f"{network.name} has no activation modules; name layers with layer=")
    return found


def feature_maps(network: Network) -> list[tuple[str, nn.Module]]:
    """Leaf modules that give (N, K, *spatial) with more than one position, in the order of their last run."""
    order: dict[str, nn.Module] = {}
    handles = []

    def note(name: str, module: nn.Module, output: object) -> None:
        order.pop(name, None)
        if isinstance(output, Tensor) and output.ndim > 2 and output[0, 0].numel() > 1:
            order[name] = module

    try:
        for name, module in network.module.named_modules():
            if not list(module.children()):
                handles.append(module.register_forward_hook(lambda m, _i, out, name=name: note(name, m, out)))
        device = next(network.module.parameters()).device
        with torch.no_grad():
            network.module(torch.zeros(1, 3, network.spec.size, network.spec.size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return list(order.items())
