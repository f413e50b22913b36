"""FullGrad: the score spread over the input and over every bias of the network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .common import minmax, widen
from .multipass import explained, resize

CONVOLUTIONS = (
    functional.conv1d, functional.conv2d, functional.conv3d,
    functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d,
)  # fmt: skip


def full_grad(
    images: Tensor, targets: Sequence[tuple[int, ...]], *, module: nn.Module, align_corners: bool = True
) -> Tensor:
    """FullGrad: gradient times input, plus gradient times bias of every spatial layer.

    map = psi(x dy/dx) + sum over biased layers of psi(b dy/db), psi: absolute value, stretched to 0 .. 1 per image and
    layer, upsampled to the input, summed over channels (Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780,
    and the authors' code). Biases are those of convolutions and, with the running mean, of batch norms.
    Passes per image: one forward and one backward. It looks at no single layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
    module : nn.Module
        The network, in evaluation mode.
    align_corners : bool
        Of the upsampling; True in the authors' code.

    Returns
    -------
    Tensor, shape (N, *size)
        At least 0.

    Raises
    ------
    ValueError
        A linear layer works on every position, as in transformers and ConvNeXt.
    """
    terms = full_gradients(images, targets, module)
    spatial = [widen(term).abs() for term in terms if term.ndim == images.ndim]
    return torch.stack(
        [resize(minmax(term).sum(1), images.shape[2:], align_corners=align_corners) for term in spatial]
    ).sum(0)


def full_gradients(images: Tensor, targets: Sequence[tuple[int, ...]], module: nn.Module) -> list[Tensor]:
    """Split each case's score into gradient times input, and gradient times bias per layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
    module : nn.Module
        Biases of convolutions, batch norms and linear layers are recorded as its forward pass uses them.

    Returns
    -------
    list of Tensor, shapes (N, C, *size), then (N, K, *spatial) or (N, K)
        For a network of these layers, ReLU and pooling they sum to the logit (completeness). A saturated ReLU6, a
        sigmoid or a layer norm adds implicit biases, which are not included.
    """
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _BiasTape() as tape:
        score = explained(module(leaf), targets).sum()
        outputs = [output for output, _ in tape.used]
        grads = torch.autograd.grad(score, [leaf, *outputs], allow_unused=True)
    pairs = [(leaf.detach(), grads[0]), *((bias, g) for (_, bias), g in zip(tape.used, grads[1:], strict=True))]
    return [torch.zeros_like(factor) if grad is None else factor * grad for factor, grad in pairs]


class _BiasTape(TorchFunctionMode):
    """Records output and bias of every biased layer that runs; hooks would see timm's norms after their ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        bias = _bias(func, args, kwargs or {})
        if bias is None:
            return output
        if func is functional.linear and output.ndim > 2:
            raise ValueError("a linear layer works on every position, so the network is no CNN, and its biases no maps")
        self.used.append(
            (output, bias.detach().view(-1, *[1] * (output.ndim - 2)) if output.ndim > 2 else bias.detach())
        )
        return output.clone()  # the next layer may write into its input


def _bias(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Bias that this call adds to each channel, whatever its input; None if it adds none."""
    if func is functional.batch_norm:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        if values["training"] or values["running_mean"] is None:
            return None
        scale = (values["running_var"] + values["eps"]).rsqrt() * (1 if values["weight"] is None else values["weight"])
        return (0 if values["bias"] is None else values["bias"]) - values["running_mean"] * scale
    if func in CONVOLUTIONS or func is functional.linear:
        return kwargs.get("bias", args[2] if len(args) > 2 else None)
    return None
