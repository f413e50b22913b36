"""Default layers of a network nobody has chosen them for."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from bench.types import UserError

ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
)  # fmt: skip
# timm has classes of its own for the same functions.
ACTIVATION_NAMES = {"Swish", "SiLU", "HardSwish", "HardSwishMe", "SwishMe", "MishJit", "GELUTanh", "QuickGELU", "GELU"}


def default_layers(name: str, module: nn.Module, size: int) -> list[str]:
    """Find the last post-activation feature map before pooling; else the last feature map of all.

    One forward pass of an empty picture records what every module gives. A feature map is (1, K, h, w) with
    h = w > 1, which also rules out channels-last maps and pooled features.

    Parameters
    ----------
    name : str
        For messages.
    module : nn.Module
        In evaluation mode.
    size : int
        Side of the input in pixels.

    Returns
    -------
    list of str
        One name.

    Raises
    ------
    UserError
        The network has no feature map, or cannot be run on such an input.
    """
    found: list[str] = []
    smallest: list[int] = []
    pooled: list[object] = []

    def record(layer: str, module: nn.Module, _given: object, output: object) -> None:
        if "Pool" in type(module).__name__:
            pooled.append(output)
        if any(output is one for one in pooled):  # a pool, or a container or dropout that hands its output on
            return
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
            found.append(layer)
            smallest.append(output.shape[2])

    handles = [one.register_forward_hook(partial(record, layer)) for layer, one in module.named_modules() if layer]
    try:
        with torch.inference_mode():
            device = next(iter(module.state_dict().values())).device
            module(torch.zeros(1, 3, size, size, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        detail = " ".join(str(error).split())[:150]
        raise UserError(
            f"{name} cannot be run on a picture of {size} x {size} ({detail}); set the model's size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise UserError(f"{name} has no feature map (N, K, h, w), so it is no CNN; name a layer with layer=")
    modules = dict(module.named_modules())
    last = [layer for layer, side in zip(found, smallest, strict=True) if side == smallest[-1]]
    active = [layer for layer in last if is_activation(modules[layer])]
    return [(active or last)[-1]]


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the known activation functions."""
    return isinstance(module, ACTIVATIONS) or type(module).__name__ in ACTIVATION_NAMES
