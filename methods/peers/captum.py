"""Maps of captum's layer attributions (pip install captum)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ..multipass import explained
from .shared import chosen

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
    images, targets, module, layer_name, reshaped
        As in `pytorch_grad_cam`; `reshaped` reads what captum gives for the layer's output.
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
    peer = chosen("captum.attr", "captum", cam, CAMS)(
        lambda pictures: explained(module(pictures), targets), module.get_submodule(layer_name)
    )
    maps = peer.attribute(images.detach().clone().requires_grad_())
    if cam == "LayerGradientXActivation":
        maps = reshaped(maps)
    return maps.sum(1).detach()
