"""Maps that several layers make together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..common import divide_or_zero, minmax, weighted_sum, widen, without_rounding
from ..full_gradient import CONVOLUTIONS
from ..multipass import check_least, check_rank, explained, piece, resize


def winsor_cam(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    logits: Callable[[Tensor, Tensor], Tensor],
    percentile: float = 90.0,
) -> Tensor:
    """Winsor-CAM: Grad-CAM of all convolutions, each weighted by its importance, the largest of which are cut off.

    map = sum over layers of w_l n(relu(grad_cam_l)), n stretches to 0 .. 1. A layer's importance r_l is the mean of its
    gradients over channels and positions, 0 if negative. Positive ones above their `percentile` are set to it, then
    stretched to 0.1 .. 1 (all to 1 if equal); w_l is the result, 0 where r_l is 0 (Wall et al., IEEE TPAMI 2026,
    arXiv:2507.10846; details as in the authors' code). The authors resize a map to the largest layer first; here each
    goes to the picture's size at once. Passes per image: one forward and one backward. It looks at no single layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
    logits : callable
        ``logits(images, cases) -> (n, C)`` with a graph back to the images. Convolutions with as many axes as the
        images count, whose outputs are taken as they are, before a norm or ReLU.
    percentile : float
        In 0 (equal weights) to 100 (nothing is cut off); 90 in the authors' example.

    Returns
    -------
    Tensor, shape (N, *size)
        At least 0; 0 everywhere where no layer's importance is positive.

    Raises
    ------
    ValueError
        `percentile` is out of range, or the network has fewer than two convolutions.
    """
    check_least(0, percentile=percentile)
    if percentile > 100:
        raise ValueError(f"percentile={percentile} must be at most 100")
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad(), _Convolutions() as run:
        score = explained(logits(leaf, torch.arange(len(images), device=images.device)), targets).sum()
    acts = [output for output in run.outputs if output.ndim == images.ndim]
    if len(acts) < 2:
        raise ValueError(f"needs a network of two convolutions or more, and this one has {len(acts)}")
    grads = torch.autograd.grad(score, acts, materialize_grads=True)
    maps, importance = [], []
    for act, grad in zip(acts, grads, strict=True):
        act, grad = widen(act.detach()), widen(grad)
        coarse = weighted_sum(grad.flatten(2).mean(2), act)
        maps.append(resize(minmax(coarse.relu()), images.shape[2:], align_corners=False))
        # gradients before a layer norm cancel, and what rounding leaves of them is no importance
        rows = grad.flatten(1).double()
        importance.append(without_rounding(rows.mean(1).to(act), rows.abs().mean(1).to(act)))
    weights = torch.stack([winsorized(row, percentile) for row in torch.stack(importance, 1)])
    return weighted_sum(weights, torch.stack(maps, 1))


def winsorized(importance: Tensor, percentile: float) -> Tensor:
    """Weights (L,) in 0.1 to 1 of the layers whose importance (L,) is positive, see `winsor_cam`; 0 of the others."""
    positive = importance > 0
    if not positive.any():
        return torch.zeros_like(importance)
    values = importance[positive]
    values = values.minimum(_quantile(values, percentile / 100))
    low, high = values.min(), values.max()
    weights = torch.zeros_like(importance)
    weights[positive] = 0.1 + 0.9 * (values - low) / (high - low) if high > low else torch.ones_like(values)
    return weights


def poly_cam(acts: Tensor, images: Tensor, *, score: Any) -> Tensor:
    """Poly-CAM: a late layer's map refined by earlier layers' maps of what counts within it; this is one layer's map.

    L_l = relu(sum_k w_k A_k), w_k = relu(f(X H_k) + f(X) - f(X (1 - H_k))), f the probability: the paper's PCAM+-, in
    which showing a channel alone and hiding it both count. H_k is A_k less its 0.1st percentile, divided by its 99.9th,
    cut to 0 .. 1 and upsampled. The run goes from the last layer to the first: P_l = L_l / up(down(L_l)) up(P_l+1),
    down to the size of layer l + 1, and P = L at the last one (Englebert et al., 2022, arXiv:2204.13359; details as in
    the authors' code). A division by 0 gives 0, and the map is not stretched in the end. Passes per image and layer:
    two forward for every channel that is not zero, and one.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    images : Tensor, shape (N, C, *size)
        Normalized input.
    score : callable
        ``score(images, cases) -> (n,)``.

    Returns
    -------
    Tensor, shape (N, *spatial)
        At least 0.
    """
    check_rank(acts, images)
    acts = widen(acts)
    clean = score(images, torch.arange(len(images), device=images.device))
    weights = acts.new_zeros(acts.shape[:2])
    used = (acts != 0).flatten(2).any(2).nonzero()
    for pairs in used.split(max(1, piece(images[0]) // 2)) if len(used) else ():
        cases, channels = pairs.unbind(1)
        masks = resize(_between_percentiles(acts[cases, channels]), images.shape[2:], align_corners=False)
        shown, masks = images[cases], masks.to(images.dtype)[:, None]
        alone, without = score(shown * masks, cases), score(shown * (1 - masks), cases)
        weights[cases, channels] = (alone + clean[cases] - without).relu().to(weights.dtype)
    return weighted_sum(weights, acts).relu()


def _between_percentiles(maps: Tensor) -> Tensor:
    """Take maps (n, *spatial) less their 0.1st percentile, divided by their 99.9th, cut to 0 .. 1."""
    rows = maps.flatten(1)
    low, high = (_quantile(rows, share) for share in (0.001, 0.999))
    # fewer positive positions than a thousandth: all of them count
    return torch.where(high > 0, divide_or_zero(rows - low, high), (rows > low).to(rows)).clamp(0, 1).view_as(maps)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Quantile (.., 1) of values (.., M), linear between two of them; torch's own refuses large layers."""
    ordered, place = values.sort(-1).values, share * (values.shape[-1] - 1)
    below, above = (ordered.narrow(-1, rounded, 1) for rounded in (math.floor(place), math.ceil(place)))
    return below.lerp(above, place % 1)


class _Convolutions(TorchFunctionMode):
    """Records the output of every convolution that runs, safe from later in-place operations."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func not in CONVOLUTIONS[:3]:
            return output
        self.outputs.append(output)
        return output.clone()  # the next layer may write into its input
