"""Maps of captum's layer attributions (pip install captum)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..common import package
from ..multipass import explained

CAMS = ("LayerGradCam", "LayerGradientXActivation")


def captum(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    module: nn.Module,
    layer_name: str,
    reshaped: Callable[[Tensor], Tensor],
    cam: str,
) -> Tensor:
    """Ask an attribution of captum with its default parameters.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
    targets : sequence of N tuples of int
    module : nn.Module
    layer_name : str
        Name of the module whose output is looked at.
    reshaped : callable
        Reads what captum gives for that output as (N, K, h, w).
    cam : str
        Name of the class, one of `CAMS`.

    Returns
    -------
    Tensor, shape (N, h, w)
        Signed. Of LayerGradientXActivation, which gives every channel its own map, the sum over channels.

    Raises
    ------
    ValueError
        The package is not installed, or has no such attribution here.
    """
    if cam not in CAMS:
        raise ValueError(f"cam={cam} is unknown; it takes {', '.join(CAMS)}")
    peer = getattr(package("captum.attr", "captum"), cam)(
        lambda pictures: explained(module(pictures), targets), module.get_submodule(layer_name)
    )
    maps = peer.attribute(images.detach().clone().requires_grad_())
    if cam == "LayerGradientXActivation":
        maps = reshaped(maps)
    return maps.sum(1).detach()
