"""Maps of pixels made from other rules of going back through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..attribution import guided_backprop
from ..common import package, widen
from ..gradient import grad_cam
from ..multipass import explained, resize


def guided_grad_cam(
    acts: Tensor, grads: Tensor, images: Tensor, targets: Sequence[tuple[int, ...]], *, module: nn.Module
) -> Tensor:
    """Guided Grad-CAM: guided backpropagation where Grad-CAM is positive.

    map = relu(grad_cam), resized to the picture, times `guided_backprop` (Selvaraju et al., ICCV 2017, section 3.3).
    Passes per image: one forward and one backward beside the shared ones.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
    module : nn.Module
        Its ReLUs must be `nn.ReLU` modules.

    Returns
    -------
    Tensor, shape (N, *size)
        At least 0.

    Raises
    ------
    ValueError
        As `guided_backprop`.
    """
    coarse = resize(grad_cam(acts, grads).relu(), images.shape[2:], align_corners=False)
    return coarse * guided_backprop(images, targets, module=module)


def lrp(images: Tensor, targets: Sequence[tuple[int, ...]], *, module: nn.Module) -> Tensor:
    """Layer-wise relevance propagation by zennit: epsilon for linear layers, z+ for convolutions, flat for the first.

    The score is handed back layer by layer, to each input of a unit by its share of what the unit sums (Bach et al.,
    PLoS ONE 2015; the composite of Kohlbrenner et al., IJCNN 2020, with zennit's parameters). Batch norm is merged into
    the layer before it. map = sum over channels. Passes per image: one forward and one backward.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
        Relevance begins as the logit; for a group as each logit by its share of the logsumexp's gradient.
    module : nn.Module
        Activations must be modules. Restored afterwards.

    Returns
    -------
    Tensor, shape (N, *size)
        Signed. It sums to the score up to biases and epsilon.

    Raises
    ------
    ValueError
        Zennit is missing.
    """
    rules = package("zennit.composites", "lrp").EpsilonPlusFlat(
        canonizers=[package("zennit.canonizers", "lrp").SequentialMergeBatchNorm()]
    )
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _given_back(module), rules.context(module) as modified:
        logits = modified(leaf)
        (relevance,) = torch.autograd.grad(logits, leaf, _begin(logits.detach(), targets))
    return widen(relevance).sum(1)


@contextmanager
def _given_back(module: nn.Module) -> Iterator[None]:
    """Give every part its own parameters and buffers back at the end: zennit 1.0 leaves others in their place."""
    parts = [(part, dict(part._parameters), dict(part._buffers)) for part in module.modules()]
    try:
        yield
    finally:
        for part, parameters, buffers in parts:
            for name in (*parameters, *buffers):
                part.__dict__.pop(name, None)  # zennit 1.0 puts merged tensors here, before the registered ones
            part._parameters.update(parameters)
            part._buffers.update(buffers)


def _begin(logits: Tensor, targets: Sequence[tuple[int, ...]]) -> Tensor:
    """Relevance (N, C) of the logits: of a target its own value, of a group each by its share."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(explained(leaf, targets).sum(), leaf)[0] * logits
