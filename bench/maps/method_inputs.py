"""What a method may ask for by argument name, further passes through the network included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bench.maps.attention import attention_pass
from bench.maps.capture import capture, hooked
from bench.maps.outside import outside_maps
from bench.maps.scorer import Scorer
from bench.maps.target_scores import read_output
from bench.types import Attention, Batch, Layer


def offered(
    module: nn.Module,
    name: str,
    layer: Layer | None,
    logits: Tensor,
    batch: Batch,
    score: Scorer,
    attention: Attention | None = None,
) -> dict[str, Callable[[], Any]]:
    """Everything a method may ask for by argument name, as functions that make it on demand.

    The names are ``acts``, ``grads``, ``images``, ``ids``, ``targets``, ``score`` (see `Scorer`), ``forward_from``,
    ``gradient``, ``logits`` (`differentiable_logits`), ``module``, ``head``, ``outputs`` (the `logits` (N, C) of the
    batch's images), ``once`` (see `Layer`), ``truth`` (parts and values of `Batch`, where they are known), ``shown``
    (the channels of the images that are looked at), ``outside`` (`outside_maps` of the batch), ``layer_name``,
    ``reshaped``, which reads the layer's output as (n, K, *spatial), ``attention`` (see `Attention`),
    ``attention_grads`` (its gradients) and ``attention_pass`` (see there). `name` is that of the layer in `module`,
    ``-`` without one.
    """
    index = None if layer is None else layer.index
    return {
        "acts": lambda: layer and layer.acts,
        "grads": lambda: layer and layer.grads,
        "images": lambda: batch.images,
        "shown": lambda: batch.images[:, batch.shown],
        "ids": lambda: batch.ids,
        "targets": lambda: batch.targets,
        "score": lambda: score,
        "forward_from": lambda: partial(forward_from, module, name, index, batch, score.batch_size),
        "gradient": lambda: partial(gradient, module, name, index, batch, score.batch_size),
        "logits": lambda: partial(differentiable_logits, module, batch),
        "module": lambda: module if batch.explains is None else Scored(module, batch),
        "head": lambda: head(module, layer, logits),
        "outputs": lambda: logits,
        "once": lambda: layer and layer.once,
        "truth": lambda: list(zip(batch.parts, batch.values, strict=True)),
        "outside": lambda: partial(outside_maps, batch),
        "layer_name": lambda: name if batch.explains is None else f"module.{name}",  # in `Scored`
        "reshaped": lambda: partial(reshaped, index),
        "attention": lambda: attention,
        "attention_grads": lambda: attention and attention.grads,
        "attention_pass": lambda: attention and partial(attention_pass, module, batch, attention),
    }


def forward_from(
    module: nn.Module, name: str, index: Tensor | None, batch: Batch, size: int, acts: Tensor, cases: Tensor
) -> Tensor:
    """Logits (n, C) of ``images[cases]`` with the layer's output replaced by `acts` (n, K, *spatial).

    There is a graph back to `acts` if they require a gradient. What of the output is no position (`index` as in
    `Layer`), as a class token, stays.
    """
    logits = []
    for part, chosen in zip(acts.split(size), cases.split(size), strict=True):
        with hooked(module, [name], partial(_replace, part, index)), torch.set_grad_enabled(acts.requires_grad):
            logits.append(read_output(batch, module(batch.images[chosen]), chosen.tolist()))
    return torch.cat(logits)


def _replace(acts: Tensor, index: Tensor | None, _name: str, output: Tensor) -> Tensor:
    if index is None:
        return acts.clone()  # the next layer may write into its input
    flat = output.flatten(1).to(acts.dtype)
    return flat.index_copy(1, index.flatten().to(acts.device), acts.flatten(1)).view(output.shape)


def gradient(
    module: nn.Module, name: str, index: Tensor | None, batch: Batch, size: int, images: Tensor, cases: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, gradients (n, K, *spatial) and logits (n, C) at the layer for images (n, ...) of these cases."""
    acts, grads, logits = [], [], []
    for part, chosen in zip(images.split(size), cases.split(size), strict=True):
        groups = [batch.targets[i] for i in chosen.tolist()]
        read = partial(read_output, batch, cases=chosen.tolist())
        captured = capture(module, part, groups, [name], reshape=lambda *_: index, read=read)
        acts.append(captured.layers[name].acts)
        grads.append(captured.layers[name].grads)
        logits.append(captured.logits)
    return torch.cat(acts), torch.cat(grads), torch.cat(logits)


def differentiable_logits(module: nn.Module, batch: Batch, images: Tensor, cases: Tensor) -> Tensor:
    """Logits (n, C) with a graph back to the images, which are of these cases (n,)."""
    with torch.enable_grad():
        return read_output(batch, module(images), cases.tolist())


class Scored(nn.Module):
    """The network with a user's score (N, 1) as its output, for pictures of all cases of a batch in their order."""

    def __init__(self, module: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.module, self.batch = module, batch

    def forward(self, images: Tensor) -> Tensor:
        """Score each picture."""
        return read_output(self.batch, self.module(images))


def reshaped(index: Tensor | None, output: Tensor) -> Tensor:
    """Read a layer's output as (n, K, *spatial); `index` as in `Layer`."""
    return output if index is None else output.flatten(1)[:, index.to(output.device)]


def head(module: nn.Module, layer: Layer | None, logits: Tensor) -> Tensor | None:
    """Weights (C, K) of the linear layer behind `layer` if only global average pooling lies between them, else None.

    This is not guessed from the architecture: the layer's means times the weights must equal the logits.
    """
    linears = [part for part in module.modules() if isinstance(part, nn.Linear)] if layer else []
    means = layer.acts.flatten(2).mean(2) if layer else logits
    for part in reversed(linears):
        if part.weight.shape == (logits.shape[1], means.shape[1]):
            pooled = linear(means, part.weight, part.bias)
            if torch.allclose(pooled, logits, rtol=1e-3, atol=1e-3):
                return part.weight.detach()
    return None
