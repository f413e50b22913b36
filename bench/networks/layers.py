"""Which layers to look at: names, globs, the last one before pooling, or all behind an activation."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from bench.networks.default_layers import default_layers, feature_maps, is_activation
from bench.types import Network, UserError


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
    """Every activation module that gives a feature map, in the order of running (see `feature_maps`).

    Raises
    ------
    UserError
        The network has none: its activations are functions, not modules.
    """
    maps = feature_maps(network.name, network.module, network.spec.size)
    found = [name for name in maps if is_activation(network.module.get_submodule(name))]
    if not found:
        raise UserError(f"{network.name} has no activation modules; name layers with layer=")
    return found
