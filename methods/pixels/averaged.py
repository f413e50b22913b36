"""Gradients averaged over changed pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common import seeded, widen
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


def expected_gradients(
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    ids: Sequence[str],
    *,
    logits: Logits,
    samples: int = 100,
    spread: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Integrated gradients from references drawn anew at each step ("expected gradients"); here they are noise.

    map = sum over channels of the mean over samples of (x - r) dy / dx at r + t (x - r), t uniform in 0 .. 1 (Erion et
    al., Nature Machine Intelligence 2021, arXiv:1906.10670). There r is drawn from the training pictures, which a
    benchmark of given networks does not have. Here each value of r is normal with mean 0 and standard deviation
    `spread` in normalized space: with 1 the training pixels' own, without their structure. Passes per image: `samples`
    forward and backward. Looks at no layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
        Normalized input.
    targets : sequence of N tuples of int
    ids : sequence of N str
        Case ids; with `seed` they fix the references and the places t.
    logits : callable
        ``logits(images, cases) -> (n, C)`` with a graph back to the images.
    samples : int
        100 to 200 in the authors' code.
    spread : float
        In units of the normalized input, from 0, which is integrated gradients at random steps.
    seed : int

    Returns
    -------
    Tensor, shape (N, *size)
        Signed. It sums to the score minus the references' mean score, up to the error of so many samples.

    Raises
    ------
    ValueError
        No sample, or a negative spread.
    """
    check_least(1, samples=samples)
    check_least(0, spread=spread)
    images = widen(images)
    cases = torch.arange(len(images), device=images.device)
    drawn = [torch.rand(samples, generator=seeded(f"{seed}/places", name), dtype=torch.float64) for name in ids]
    places = torch.stack(drawn, 1).to(images).view(samples, -1, *[1] * (images.ndim - 1))
    total = torch.zeros_like(images)
    for place, noise in zip(places, normal_noise(ids, samples, images, seed), strict=True):
        reference = spread * noise
        between = (reference + place * (images - reference)).requires_grad_()
        with torch.enable_grad():
            score = explained(logits(between, cases), targets).sum()
        total += (images - reference) * torch.autograd.grad(score, between)[0] / samples
    return total.sum(1)
