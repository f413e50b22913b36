"""Maps of torchcam (pip install torchcam)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..common import package
from ..multipass import explained

CAMS = ("GradCAM", "XGradCAM", "GradCAMpp", "LayerCAM", "FinerCAM")


def torchcam(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    module: nn.Module,
    layer_name: str,
    reshaped: Callable[[Tensor], Tensor],
    cam: str,
) -> Tensor:
    """Ask an extractor of torchcam with its default parameters.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
    targets : sequence of N tuples of int
        A group's score is logsumexp, as everywhere; FinerCAM takes single outputs only.
    module : nn.Module
    layer_name : str
        Name of the module whose output is looked at.
    reshaped : callable
        Reads that output as (N, K, h, w); handed on as ``reshape_transform``.
    cam : str
        Name of the class, one of `CAMS`.

    Returns
    -------
    Tensor, shape (N, h, w)
        As the package gives it, ReLU and stretch to 0..1 with an epsilon of 1e-8 included.

    Raises
    ------
    ValueError
        The package is not installed, or has no such extractor here.
    """
    if cam not in CAMS:
        raise ValueError(f"cam={cam} is unknown; it takes {', '.join(CAMS)}")
    extractor = getattr(package("torchcam.methods", "peers"), cam)
    with (
        extractor(module, layer_name, tuple(images.shape[1:]), reshape_transform=reshaped) as peer,
        torch.enable_grad(),
    ):
        logits = module(images.detach().clone().requires_grad_())
        if cam == "FinerCAM":
            if any(len(target) > 1 for target in targets):
                raise ValueError("FinerCAM takes single outputs, and this class is a group of them")
            return peer([target[0] for target in targets], logits)[0]
        return peer(scores=logits, targets=[partial(_score, target) for target in targets])[0]


def _score(target: tuple[int, ...], output: Tensor) -> Tensor:
    return explained(output[None], [target])[0]
