"""Feature maps of a network, and the default among them where nobody has chosen one."""

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

    Parameters and errors as in `feature_maps`.

    Returns
    -------
    list of str
        One name.
    """
    found = feature_maps(name, module, size)
    side = list(found.values())[-1]
    last = [layer for layer in found if found[layer] == side]
    active = [layer for layer in last if is_activation(module.get_submodule(layer))]
    return [(active or last)[-1]]


def feature_maps(name: str, module: nn.Module, size: int) -> dict[str, int]:
    """Find every module that gives a feature map, by one forward pass of an empty picture.

    A feature map is (1, K, h, w) with h = w > 1, which also rules out channels-last maps and pooled features.
    A pool, and what hands a pool's output on (a container, dropout), is left out.

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
    dict
        Module name to the side of its map, in the order of running; a module that runs several times stands
        where it runs last.

    Raises
    ------
    UserError
        The network has no feature map, or cannot be run on such an input.
    """
    found: dict[str, int] = {}
    pooled: list[object] = []

    def record(layer: str, one: nn.Module, _given: object, output: object) -> None:
        found.pop(layer, None)
        if "Pool" in type(one).__name__:
            pooled.append(output)
        if any(output is before for before in pooled):
            return
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
            found[layer] = output.shape[2]

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
    if not found:
        raise UserError(f"{name} has no feature map (N, K, h, w), so it is no CNN; name a layer with layer=")
    return found


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the known activation functions."""
    return isinstance(module, ACTIVATIONS) or type(module).__name__ in ACTIVATION_NAMES
