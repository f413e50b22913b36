"""Gradients averaged over changed pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common import widen
from ..multipass import check_least, explained, normal_noise

Logits = Callable[[Tensor, Tensor], Tensor]


def smooth_grad(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    ids: Sequence[str],
    *,
    logits: Logits,
    samples: int = 50,
    noise: float = 0.15,
    seed: int = 0,
) -> Tensor:
    """SmoothGrad: the gradient of the score, averaged over noisy pictures.

    map = max over channels of abs(mean over samples of dy / dx at x + n), n normal with a standard deviation of `noise`
    times the picture's range x_max - x_min (Smilkov et al., 2017, arXiv:1706.03825, section 3.2; 10 to 20 % there).
    Passes per image: `samples` forward and backward. Looks at no layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
    ids : sequence of N str
        Case ids; with `seed` they fix the noise.
    logits : callable
        ``logits(images, cases) -> (n, C)`` with a graph back to the images.
    samples : int
    noise : float
        Share of the range, from 0.
    seed : int

    Returns
    -------
    Tensor, shape (N, *size)
        At least 0.

    Raises
    ------
    ValueError
        No sample, or negative noise.
    """
    check_least(1, samples=samples)
    check_least(0, noise=noise)
    images = widen(images)
    cases = torch.arange(len(images), device=images.device)
    flat = images.flatten(1)
    sigma = (noise * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (images.ndim - 1))
    total = torch.zeros_like(images)
    for drawn in normal_noise(ids, samples, images, seed):
        noisy = (images + sigma * drawn).requires_grad_()
        with torch.enable_grad():
            score = explained(logits(noisy, cases), targets).sum()
        total += torch.autograd.grad(score, noisy)[0] / samples
    return total.abs().amax(1)
