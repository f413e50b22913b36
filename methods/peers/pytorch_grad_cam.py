"""Maps of pytorch-grad-cam (pip install grad-cam)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .shared import chosen, score

CAMS = (
    "GradCAM", "HiResCAM", "XGradCAM", "GradCAMPlusPlus", "LayerCAM", "GradCAMElementWise", "EigenCAM", "EigenGradCAM",
    "SegEigenCAM", "KPCA_CAM", "FEM", "FinerCAM",
)  # fmt: skip


def pytorch_grad_cam(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    module: nn.Module,
    layer_name: str,
    reshaped: Callable[[Tensor], Tensor],
    cam: str,
) -> Tensor:
    """Ask an extractor of pytorch-grad-cam with its default parameters.

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
        As the package gives it, ReLU and stretch to 0..1 with an epsilon of 1e-7 included, but for the upsampling.

    Raises
    ------
    ValueError
        The package is not installed, or has no such extractor here.
    """
    extractor = chosen("pytorch_grad_cam", "peers", cam, CAMS)(module, [module.get_submodule(layer_name)], reshaped)
    whole = getattr(extractor, "base_cam", extractor)  # FinerCAM has one inside
    whole.get_target_width_height = lambda _images: None  # no upsampling: the size of the layer stays
    with extractor, torch.enable_grad():
        if cam == "FinerCAM":
            maps = [_finer(extractor, images[i : i + 1], target) for i, target in enumerate(targets)]
        else:
            scores: list[Any] = [partial(score, target) for target in targets]
            maps = [extractor(images.detach().clone().requires_grad_(), scores)]
    return torch.cat([torch.as_tensor(one) for one in maps]).to(images.device)


def _finer(extractor: Any, image: Tensor, target: tuple[int, ...]) -> Any:
    if len(target) > 1:
        raise ValueError("FinerCAM takes single outputs, and this class is a group of them")
    return extractor(image.detach().clone().requires_grad_(), target_idx=target[0])
