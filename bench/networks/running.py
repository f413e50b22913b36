"""The order in which a network's modules run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bench.networks.layers import logits_of, pictures


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
