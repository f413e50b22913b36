"""Layers to look at: by name or glob, the last map through which everything passes, or all behind an activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from bench.networks.running import logits_of, ordered, pictures, running_of
from bench.types import Network, Reshape, UserError

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
)  # fmt: skip
# timm defines classes of its own for the same functions.
ACTIVATION_NAMES = {"Swish", "SiLU", "HardSwish", "HardSwishMe", "SwishMe", "MishJit", "GELUTanh", "QuickGELU", "GELU"}
# The first norm of a block of timm's and of torchvision's vision transformers.
FIRST_NORMS = ("norm1", "ln_1")
MOST_TRIED = 32  # tensors, the last ones first: a trunk's last map is among the last few
LEFT = 1e-3  # share of the logits' difference that rounding may leave when a layer is set to zero


def resolve_layers(network: Network, wanted: str | Sequence[str] | None) -> list[str]:
    """Names of the chosen layers in the order of their (last) runs.

    `wanted` None takes the network's default layers, ``auto`` the last map through which everything passes, ``all``
    every feature map behind an activation; else names or globs (``features.*``). UserError, with the nearest names,
    where nothing matches.
    """
    if wanted in ("auto", "all"):
        if wanted == "all":
            return activation_layers(network)
        return default_layers(network.name, network.module, network.spec.shape, network.reshape)
    if wanted is None and not network.layers:
        raise UserError(f"{network.name} has no default layer, as its output is no row of values; name one with layer=")
    patterns = network.layers if wanted is None else list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    names = [name for name, _ in network.module.named_modules() if name]
    chosen: set[str] = set()
    for pattern in map(str, patterns):
        matching = [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            near = get_close_matches(pattern, names, 5, 0.3) or names[-5:]
            raise UserError(f"{network.name} has no layer {pattern[:100]!r}; nearest: {', '.join(near)}")
        chosen.update(matching)
    if len(chosen) > 1:
        names = ordered(running_of(network))
    return [name for name in names if name in chosen]


def activation_layers(network: Network) -> list[str]:
    """Every activation module that gives a feature map, in the order of running (see `feature_maps`).

    Raises
    ------
    UserError
        The network has none: its activations are functions, not modules.
    """
    maps = feature_maps(network.name, network.module, network.spec.shape, network.reshape)
    active = [name for name in maps if is_activation(network.module.get_submodule(name))]
    if not active:
        raise UserError(f"{network.name} has no activation modules; name layers with layer=")
    return active


def default_layers(name: str, module: nn.Module, shape: Sequence[int], reshape: Reshape | None = None) -> list[str]:
    """Find the last feature map before pooling through which everything passes (one name).

    With it set to zero, nothing of the logits' difference between two pictures is left: a branch of an Inception block,
    a residual block's inside or an attention matrix leave something. Of modules that hand on one tensor, an activation
    gives the name. Where the pictures make no difference at all, the last map is taken. In a vision transformer whose
    prefix tokens go past the other tokens, it is the first norm of the last block: behind it the classifier sees
    nothing of them.

    Arguments and errors as in `feature_maps`; UserError also where only tokens that cannot be read follow.
    """
    maps = feature_maps(name, module, shape, reshape)
    norms = [layer for layer, one in maps.items() if one.prefixed and layer.rpartition(".")[2] in FIRST_NORMS]
    if norms:
        return [norms[-1]]
    with torch.no_grad():
        logits = logits_of(name, module, pictures(module, shape))
    last = {one.place: layer for layer, one in maps.items()}  # one name a tensor
    for layer in sorted(last.values(), key=list(maps).index, reverse=True)[:MOST_TRIED]:
        if everything_passes(name, module, layer, maps[layer], shape, logits):
            break
    else:
        raise UserError(f"{name} has no late layer through which everything passes; name one with layer=")
    unread = maps[layer].unread
    if unread > list(maps).index(layer) + 1:
        raise UserError(
            f"{name} goes on for {unread} layers behind {layer!r}, the last that model.reshape=auto can read; "
            "set model.reshape=tokens, channels_last or package.module:function, or name a layer with layer="
        )
    same = [other for other in maps if maps[other].place == maps[layer].place]
    active = [other for other in same if is_activation(module.get_submodule(other))]
    plain = [other for other in same if not isinstance(module.get_submodule(other), nn.Identity)]
    return [(active or plain or same)[-1]]


@dataclass
class FeatureMap:
    """How a module's last run gave a feature map.

    `run` counts its runs from 1, `place` numbers the tensors, which a container shares with its last module. `index`
    (K, *spatial) is where the map lies in the flattened output (None: it is that output), `prefixed` whether it leaves
    some of it out, `unread` the number of later outputs of the same batch that cannot be read.
    """

    run: int
    place: int
    index: Tensor | None
    prefixed: bool
    unread: int = 0


def feature_maps(
    name: str, module: nn.Module, shape: Sequence[int], reshape: Reshape | None = None
) -> dict[str, FeatureMap]:
    """Find every module that gives a feature map, in the order of their (last) runs.

    A feature map is (N, K, *spatial) with more than one position, as `reshape` reads it, for N inputs of noise of this
    `shape` (channels, spatial axes); pooled features, and windows of them, are none. A pool, and what hands a pool's
    output on (a container, dropout), is left out. UserError if the network has no feature map or cannot be run on such
    an input; `name` is for this message.
    """
    maps: dict[str, FeatureMap] = {}
    runs: dict[str, int] = {}
    pooled: list[object] = []
    tensors: list[Tensor] = []  # kept, so that no later tensor is taken for an earlier one

    def record(layer: str, one: nn.Module, _inputs: object, output: object) -> None:
        maps.pop(layer, None)
        runs[layer] = runs.get(layer, 0) + 1
        if "Pool" in type(one).__name__:
            pooled.append(output)
        if any(output is before for before in pooled) or not isinstance(output, Tensor):
            return
        if output.ndim not in (3, len(shape) + 1) or len(output) != len(images):
            return
        try:
            index = reshape(layer, output.shape[1:], images.shape[2:]) if reshape else None
        except UserError:
            for earlier in maps.values():
                earlier.unread += output.ndim == 3
            return
        sides = output.shape[1:] if index is None else index.shape
        if len(sides) == len(shape) and prod(sides[1:]) > 1:
            places = [place for place, before in enumerate(tensors) if before is output]
            tensors.extend([] if places else [output])
            prefixed = index is not None and index.numel() < output[0].numel()
            place = places[0] if places else len(tensors) - 1
            maps[layer] = FeatureMap(run=runs[layer], place=place, index=index, prefixed=prefixed)

    images = pictures(module, shape)
    handles = [one.register_forward_hook(partial(record, layer)) for layer, one in module.named_modules() if layer]
    try:
        with torch.no_grad():
            logits_of(name, module, images)
    finally:
        for handle in handles:
            handle.remove()
    if not maps:
        axes = ", ".join("dhw"[-len(shape) + 1 :])
        raise UserError(f"{name} has no feature map (N, K, {axes}), so it is no CNN; name a layer with layer=")
    return maps


def everything_passes(
    name: str, module: nn.Module, layer: str, one: FeatureMap, shape: Sequence[int], logits: Tensor
) -> bool:
    """Whether nothing of the logits' difference between two pictures is left with a layer's map set to zero."""
    runs = 0

    def zero(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        nonlocal runs
        runs += 1
        if runs != one.run:
            return output
        if one.index is None:
            return torch.zeros_like(output)
        positions = one.index.flatten().to(output.device)
        return output.flatten(1).index_fill(1, positions, 0).view(output.shape)

    handle = module.get_submodule(layer).register_forward_hook(zero)
    try:
        with torch.no_grad():
            without = logits_of(name, module, pictures(module, shape))
    finally:
        handle.remove()
    left, whole = ((pair[0] - pair[1]).abs().max() for pair in (without, logits))
    return bool(left <= LEFT * whole)


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the known activation functions."""
    return isinstance(module, ACTIVATIONS) or type(module).__name__ in ACTIVATION_NAMES
