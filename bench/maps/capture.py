"""Activations and gradients of any number of layers from one forward and one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.maps.attention import attention_modules, attention_of, check_square, watched
from bench.maps.target_scores import group_logit
from bench.types import Attention, Layer, Reshape, UserError

ATTENTION = " (attention)"  # behind a module's name: its attention and not its output


@dataclass(frozen=True, eq=False)
class Captured:
    """Logits (N, C), detached, the explained targets, and one `Layer` per name (with empty grads if not asked for).

    `reshape` is how the layers' outputs were read; `attention` is None if not asked for.
    """

    logits: Tensor
    targets: list[tuple[int, ...]]
    layers: dict[str, Layer]
    reshape: Reshape | None = None
    attention: Attention | None = None


def capture(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[tuple[int, ...]] | None,
    layers: Sequence[str],
    *,
    gradients: bool = True,
    image_of: Sequence[int] | None = None,
    reshape: Reshape | None = None,
    read: Callable[[Any], Tensor] | None = None,
    attention: str = "",
) -> Captured:
    """Activations and gradients of all layers in one forward and one backward pass.

    The captured tensor is the module's output as the rest of the network received it: the hook passes a copy on, so
    that a later in-place operation (torchvision's VGG and DenseNet) cannot change it. Gradients flow down to the
    earliest layer only; parameters get none. Of a module that runs several times in one forward pass, the last run
    is captured.

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
        False saves the backward pass.
    image_of : sequence of int, optional
        Index into `images` for each target; the results then have one entry per target. Targets of one image share
        its forward pass and cost one backward pass each.
    reshape : callable, optional
        How a layer's output is read, see `bench.types.Network`; None takes it as (N, K, *spatial).
    read : callable, optional
        ``read(output) -> logits``, see `bench.maps.target_scores.read_output`; None takes the model's output.
    attention : {"", "maps", "gradients"}
        Keep the attention of every block, too, or that with its gradients.

    Raises
    ------
    UserError
        This input does not run a layer, the layer's output is not a feature map (N, K, *spatial), no gradient
        reaches it, or there is no attention of all tokens.
    """
    kept: dict[str, Tensor] = {}
    places: dict[str, Tensor | None] = {}

    def keep(name: str, output: object) -> Tensor:
        copy = _keep(kept, gradients, len(images), name, output)
        places[name] = reshape(name, kept[name].shape[1:], images.shape[2:]) if reshape else None
        return copy

    attended: dict[str, Tensor] = {}

    def keep_attention(name: str, _scores: Tensor, probabilities: Tensor) -> Tensor:
        check_square(name, probabilities, len(images))
        if attention == "maps":
            attended[name] = probabilities.detach()
            return probabilities
        return _keep(attended, gradients, len(images), name, probabilities)

    names, differs = attention_modules(model) if attention else [], attention == "gradients"
    with hooked(model, layers, keep), watched(model, names, keep_attention), torch.set_grad_enabled(gradients):
        logits = model(images) if read is None else read(model(images))
        missing = [name for name in layers if name not in kept]
        if missing:
            raise UserError(f"layer {missing[0]!r} is not run by this network's forward pass; choose another layer=")
        sources = list(range(len(images)) if image_of is None else image_of)
        named: Sequence[tuple[int, ...]] = targets or [()] * len(sources)
        whole = sources == list(range(len(images)))  # one target per image: nothing is copied
        index = torch.tensor(sources, device=images.device)
        per_target = logits if whole else logits[index]
        groups = [group or (int(best),) for group, best in zip(named, per_target.argmax(1), strict=True)]
        activations = {name: kept[name] for name in layers}
        every = activations | ({f"{name}{ATTENTION}": attended[name] for name in attended} if differs else {})
        grads = _gradients(logits, groups, sources, every) if gradients and every else {}
    captured = {}
    for name, acts in activations.items():
        acts, grad = acts.detach() if whole else acts.detach()[index], grads.get(name, torch.empty(0))
        where = places[name]
        if where is None:
            captured[name] = Layer(acts, grad)
        else:
            captured[name] = Layer(_gathered(acts, where), _gathered(grad, where), where)
    described = None
    if attention:
        maps = {name: one.detach() if whole else one.detach()[index] for name, one in attended.items()}
        own = [grads[f"{name}{ATTENTION}"] for name in maps] if differs else []
        described = attention_of(model, maps, own, reshape, images.shape[2:])
    return Captured(per_target.detach(), groups, captured, reshape, described)


def _gathered(values: Tensor, index: Tensor) -> Tensor:
    """Read outputs (N, ...) of a layer as (N, K, *spatial); empty ones stay empty."""
    return values.flatten(1)[:, index.to(values.device)] if len(values) else values


def _gradients(
    logits: Tensor, groups: Sequence[tuple[int, ...]], sources: Sequence[int], activations: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Gradient of each target's score at every layer, (targets, K, *spatial); targets of one image take turns."""
    turns: list[list[int]] = []
    for i, source in enumerate(sources):
        number = list(sources[:i]).count(source)
        turns += [[]] if number == len(turns) else []
        turns[number].append(i)
    gathered: dict[str, Tensor] = {}
    for number, turn in enumerate(turns):
        at = torch.tensor([sources[i] for i in turn], device=logits.device)
        score = group_logit(logits[at], [groups[i] for i in turn]).sum()
        if not score.requires_grad:
            raise _cut_off(list(activations)[-1])
        last = number == len(turns) - 1
        parts = torch.autograd.grad(score, list(activations.values()), retain_graph=not last, allow_unused=True)
        for (name, acts), grad in zip(activations.items(), parts, strict=True):
            grad = torch.zeros_like(acts) if grad is None else grad.detach()
            if turn == sources == list(range(len(acts))):
                gathered[name] = grad
                continue
            target = gathered.setdefault(name, grad.new_empty(len(sources), *grad.shape[1:]))
            target[torch.tensor(turn, device=grad.device)] = grad[at]
    return gathered


def _cut_off(name: str) -> UserError:
    return UserError(
        f"no gradient reaches layer {name!r}: the network computes it, or what follows, under torch.no_grad() or "
        "behind detach(); choose another layer=, or methods that need no gradient"
    )


def _keep(kept: dict[str, Tensor], gradients: bool, number: int, name: str, output: object) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim < 3 or not output.is_floating_point():
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"layer {name!r} gives {shape}, not a feature map (N, K, height, width); choose another layer=")
    if len(output) != number:
        raise UserError(
            f"layer {name!r} gives {tuple(output.shape)} for {number} pictures, so it is not a feature map of each "
            "but of windows or heads; choose another layer="
        )
    if gradients and not torch.is_grad_enabled():
        raise _cut_off(name)
    if gradients and not output.requires_grad:
        output = output.detach().requires_grad_()
    kept[name] = output
    return output.clone()


@contextmanager
def hooked(model: nn.Module, layers: Sequence[str], keep: Callable[[str, Any], Tensor]) -> Iterator[None]:
    """Put hooks on the layers and switch parameter gradients off; undo both on leaving, also after an error."""
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
