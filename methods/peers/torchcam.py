"""Maps of torchcam (pip install torchcam)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .shared import chosen, score

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
    images, targets, module, layer_name, reshaped
        As in `pytorch_grad_cam`.
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
    extractor = chosen("torchcam.methods", "peers", cam, CAMS)
    with (
        extractor(module, layer_name, tuple(images.shape[1:]), reshape_transform=reshaped) as peer,
        torch.enable_grad(),
    ):
        logits = module(images.detach().clone().requires_grad_())
        if cam == "FinerCAM":
            if any(len(target) > 1 for target in targets):
                raise ValueError("FinerCAM takes single outputs, and this class is a group of them")
            return peer([target[0] for target in targets], logits)[0]
        return peer(scores=logits, targets=[partial(score, target) for target in targets])[0]
