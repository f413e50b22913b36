"""One forward and one backward pass: activations and gradients of every asked layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.types import Layer, UserError, group_logit


@dataclass(frozen=True, eq=False)
class Captured:
    """Logits (N, C), detached, the explained targets, and one `Layer` per asked name (grads empty if not asked for)."""

    logits: Tensor
    targets: list[tuple[int, ...]]
    layers: dict[str, Layer]


def capture(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[tuple[int, ...]] | None,
    layers: Sequence[str],
    *,
    gradients: bool = True,
) -> Captured:
    """Activations and gradients of all layers in one forward and one backward pass.

    The captured tensor is the module's output as the rest of the network received it: the hook hands a
    copy on, so that a later in-place operation (torchvision's VGG and DenseNet) cannot change it. Gradients
    flow only down to the earliest layer; parameters get none. A module that runs several times in
    one forward pass counts with its last run.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    images : Tensor, shape (N, C, H, W)
    targets : sequence of N tuples of int, or None
        Groups of output indices to explain; None or ``()`` takes the predicted class.
    layers : sequence of str
        Names as in ``model.named_modules()``.
    gradients : bool
        Without, only the forward pass is paid.

    Raises
    ------
    UserError
        A layer is not run by this input, or its output is not a feature map (N, K, *spatial).
    """
    kept: dict[str, Tensor] = {}
    with hooked(model, layers, partial(_keep, kept, gradients)), torch.set_grad_enabled(gradients):
        logits = model(images)
        missing = [name for name in layers if name not in kept]
        if missing:
            raise UserError(f"layer {missing[0]!r} is not run by this network's forward pass; choose another layer=")
        activations = [kept[name] for name in layers]
        asked = targets or [()] * len(logits)
        groups = [group or (int(best),) for group, best in zip(asked, logits.argmax(1), strict=True)]
        if not gradients or not layers:
            return Captured(logits.detach(), groups, {name: Layer(kept[name], torch.empty(0)) for name in layers})
        score = group_logit(logits, groups).sum()
        found = torch.autograd.grad(score, activations, allow_unused=True)
    pairs = zip(layers, activations, found, strict=True)
    return Captured(
        logits.detach(),
        groups,
        {n: Layer(a.detach(), torch.zeros_like(a) if g is None else g.detach()) for n, a, g in pairs},
    )


def _keep(kept: dict[str, Tensor], gradients: bool, name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim < 3:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"layer {name!r} gives {shape}, not a feature map (N, K, height, width); choose another layer=")
    if gradients and not output.requires_grad:
        output = output.detach().requires_grad_()
    kept[name] = output
    return output.clone()


@contextmanager
def hooked(model: nn.Module, layers: Sequence[str], keep: Callable[[str, Any], Tensor]) -> Iterator[None]:
    """Put hooks on the layers and switch parameter gradients off; undo both whatever happens."""
    modules = dict(model.named_modules())
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    handles = []
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for name in layers:
            handles.append(modules[name].register_forward_hook(lambda _m, _i, out, name=name: keep(name, out)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
