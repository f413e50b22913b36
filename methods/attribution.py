"""Pixel attributions by captum, as reference points; they look at no layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .common import package, widen
from .multipass import check_least, explained

Logits = Callable[[Tensor, Tensor], Tensor]


def gradient(images: Tensor, targets: Sequence[tuple[int, ...]], *, logits: Logits, channels: str = "max") -> Tensor:
    """Gradient of the score with respect to the pixels.

    map = max over channels of abs(dy / dx) (Simonyan et al., ICLR Workshop 2014, arXiv:1312.6034, section 3.1), by
    captum's `Saliency`. Passes per image: one forward and one backward.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
        Normalized input.
    targets : sequence of N tuples of int
        Output indices of each case's class.
    logits : callable
        ``logits(images, cases) -> (n, C)`` with a graph back to the images.
    channels : {"max", "sum", "sum_abs"}
        Largest absolute value over the channels, their sum, or the sum of absolute values.

    Returns
    -------
    Tensor, shape (N, *size)

    Raises
    ------
    ValueError
        Captum is missing, or an unknown `channels`.
    """
    explainer = _captum().Saliency(_score_of(logits, targets))
    return _attribute(explainer, images, channels, abs=False)


def input_x_gradient(
    images: Tensor, targets: Sequence[tuple[int, ...]], *, logits: Logits, channels: str = "sum"
) -> Tensor:
    """Input times gradient, by captum's `InputXGradient`.

    map = sum over channels of x dy / dx (Shrikumar et al., 2016, arXiv:1605.01713), x in normalized space.
    Passes per image: one forward and one backward.

    Parameters
    ----------
    images, targets, logits, channels
        As in `gradient`.

    Returns
    -------
    Tensor, shape (N, *size)
        Signed with ``channels: sum``. It sums to the score of a piecewise linear network without biases.
    """
    return _attribute(_captum().InputXGradient(_score_of(logits, targets)), images, channels)


def integrated_gradients(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    logits: Logits,
    steps: int = 50,
    rule: str = "gausslegendre",
    channels: str = "sum",
) -> Tensor:
    """Integrated gradients from the zero image, by captum's `IntegratedGradients`.

    map = sum over channels of x times the mean of dy / dx on the line from 0 to x (Sundararajan et al., ICML 2017,
    arXiv:1703.01365, equation 1); 0 in normalized space is the mean colour. Passes per image: `steps` forward and
    backward.

    Parameters
    ----------
    images, targets, logits, channels
        As in `gradient`.
    steps : int
        Points of the integral.
    rule : {"gausslegendre", "riemann_left", "riemann_right", "riemann_middle"}
        Captum's trapezoid rule is left out: its weights sum to (steps - 1) / steps.

    Returns
    -------
    Tensor, shape (N, *size)
        Signed with ``channels: sum``; then it sums to the score minus that of the zero image (completeness), up to the
        integral's error.

    Raises
    ------
    ValueError
        Captum is missing, no step, or an unknown `rule` or `channels`.
    """
    check_least(1, steps=steps)
    rules = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle")
    if rule not in rules:
        raise ValueError(f"rule={rule} is unknown; it takes {', '.join(rules)}")
    explainer = _captum().IntegratedGradients(_score_of(logits, targets))
    # one step at a time: all at once would need `steps` times the memory of the run's batch
    return _attribute(explainer, images, channels, n_steps=steps, method=rule, internal_batch_size=len(images))


def guided_backprop(
    images: Tensor, targets: Sequence[tuple[int, ...]], *, module: nn.Module, channels: str = "max"
) -> Tensor:
    """Guided backpropagation: the gradient with every ReLU passing on positive values only, by captum.

    Springenberg et al., ICLR Workshop 2015, arXiv:1412.6806; map = max over channels of its absolute value. Passes per
    image: one forward and one backward.

    Parameters
    ----------
    images, targets, channels
        As in `gradient`.
    module : nn.Module
        The network. Its ReLUs must be `nn.ReLU` modules; hooks on them are removed afterwards.

    Returns
    -------
    Tensor, shape (N, *size)

    Raises
    ------
    ValueError
        Captum is missing, or the network has no `nn.ReLU`: captum would silently give the plain gradient.
    """
    if not any(isinstance(part, nn.ReLU) for part in module.modules()):
        raise ValueError("needs nn.ReLU modules, and this network has none (ReLU6, SiLU and GELU have no guided rule)")
    explainer = _captum().GuidedBackprop(_Scored(module, targets))
    return _attribute(explainer, images, channels)


class _Scored(nn.Module):
    """The network with the explained score (n,) as its output: captum hooks the ReLUs inside a module."""

    def __init__(self, module: nn.Module, targets: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.module, self.targets = module, targets

    def forward(self, images: Tensor, cases: Tensor) -> Tensor:
        return explained(self.module(images), [self.targets[i] for i in cases.tolist()])


def _score_of(logits: Logits, targets: Sequence[tuple[int, ...]]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, cases: explained(logits(images, cases), [targets[i] for i in cases.tolist()])


def _captum() -> ModuleType:
    return package("captum.attr", "captum")


def _attribute(explainer: Any, images: Tensor, channels: str, **settings: Any) -> Tensor:
    """Captum's attribution (N, C, *size) of each case's score, reduced to (N, *size)."""
    reductions: dict[str, Callable[[Tensor], Tensor]] = {
        "max": lambda values: values.abs().amax(1),
        "sum": lambda values: values.sum(1),
        "sum_abs": lambda values: values.abs().sum(1),
    }
    if channels not in reductions:
        raise ValueError(f"channels={channels} is unknown; it takes {', '.join(reductions)}")
    leaf = images.detach().clone().requires_grad_()
    cases = torch.arange(len(images), device=images.device)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
        values = explainer.attribute(leaf, additional_forward_args=cases, **settings)
    return reductions[channels](widen(values.detach()))
