"""Methods that measure the score while the input or the layer is perturbed; forward passes only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .common import divide_or_zero, minmax, seeded, weighted_sum, widen
from .multipass import check_least, check_rank, explained, normal_noise, piece, resize


def score_cam(acts: Tensor, images: Tensor, *, score: Any, align_corners: bool = True) -> Tensor:
    """Score-CAM: channels weighted by the score of the image masked with them.

    H_k = the channel upsampled to the input, stretched to 0 .. 1; a = softmax over k of f(X H_k), f the logit;
    map = sum_k a_k A_k (Wang et al., CVPR Workshops 2020, arXiv:1910.01279, algorithm 1; its baseline f(X_b) cancels
    in the softmax). Passes per image: one forward for every channel that is not constant, and one for all others.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    images : Tensor, shape (N, C, *size)
        Normalized input.
    score : callable
        ``score.logit(images, cases) -> (n,)``.
    align_corners : bool
        Of the masks' upsampling: pytorch-grad-cam's True or the authors' False.

    Returns
    -------
    Tensor, shape (N, *spatial)
        A weighted mean of the channels: at least 0 where they are. A zero channel takes weight and so scales the map.
    """
    scores = _mask_scores(acts, images, score, 1, lambda masks, parts, _: (masks * parts)[:, None], align_corners)
    return weighted_sum(scores.softmax(1), widen(acts))


def ss_cam(
    acts: Tensor,
    images: Tensor,
    ids: Sequence[str],
    *,
    score: Any,
    samples: int = 10,
    sigma: float = 2.0,
    noise: str = "mask",
    seed: int = 0,
    align_corners: bool = True,
) -> Tensor:
    """SS-CAM: Score-CAM with scores averaged over noise.

    a = softmax over k of the mean over samples of f(X (H_k + sigma n)) (``noise: mask``, the paper's first variant) or
    f(X H_k + sigma n) (``noise: input``, the second), n standard normal (Wang et al., 2020, arXiv:2006.14255). All
    channels of a case get the same noise, so that their scores differ by the channels only. Passes per image:
    `samples` times those of Score-CAM.

    Parameters
    ----------
    acts, images, score, align_corners
        As in `score_cam`.
    ids : sequence of N str
        Case ids; with `seed` they fix the noise.
    samples : int
    sigma : float
        Of the noise, in units of the mask's range (``mask``) or of the normalized input (``input``).
    noise : {"mask", "input"}
    seed : int

    Returns
    -------
    Tensor, shape (N, *spatial)

    Raises
    ------
    ValueError
        No sample, or an unknown `noise`.
    """
    check_least(1, samples=samples)
    if noise not in ("mask", "input"):
        raise ValueError(f"noise={noise} is unknown; it takes mask, input")
    like = images[:, :1] if noise == "mask" else images
    drawn = sigma * torch.stack(list(normal_noise(ids, samples, like, seed)), 1)

    def perturb(masks: Tensor, parts: Tensor, cases: Tensor) -> Tensor:
        if noise == "mask":
            return (masks[:, None] + drawn[cases]) * parts[:, None]
        return (masks * parts)[:, None] + drawn[cases]

    return weighted_sum(_mask_scores(acts, images, score, samples, perturb, align_corners).softmax(1), widen(acts))


def is_cam(
    acts: Tensor, images: Tensor, *, score: Any, steps: int = 10, path: str = "sum", align_corners: bool = True
) -> Tensor:
    """IS-CAM: Score-CAM with scores averaged while the mask grows.

    a = softmax over k of the mean over i = 1 .. steps of f(c_i X H_k), with c_i = (1 + .. + i) / steps (``path: sum``,
    the paper's accumulated mask, which ends far above the image) or c_i = i / steps (``path: line``, the integral from
    nothing to Score-CAM's mask that the text describes) (Naidu et al., 2020, arXiv:2010.03023). Passes per
    image: `steps` times those of Score-CAM.

    Parameters
    ----------
    acts, images, score, align_corners
        As in `score_cam`.
    steps : int
    path : {"sum", "line"}

    Returns
    -------
    Tensor, shape (N, *spatial)

    Raises
    ------
    ValueError
        No step, or an unknown `path`.
    """
    check_least(1, steps=steps)
    if path not in ("sum", "line"):
        raise ValueError(f"path={path} is unknown; it takes sum, line")
    growth = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    growth = (growth.cumsum(0) if path == "sum" else growth).to(images).view(-1, *[1] * (images.ndim - 1))
    scores = _mask_scores(acts, images, score, steps, lambda m, parts, _: (m * parts)[:, None] * growth, align_corners)
    return weighted_sum(scores.softmax(1), widen(acts))


def _mask_scores(
    acts: Tensor,
    images: Tensor,
    score: Any,
    variants: int,
    perturb: Callable[[Tensor, Tensor, Tensor], Tensor],
    align_corners: bool,
) -> Tensor:
    """Mean score (N, K) of each image under each of its channels' masks.

    ``perturb(masks (n, 1, *size), images (n, C, *size), cases (n,))`` gives (n, variants, C, *size).
    """
    check_rank(acts, images)
    acts = widen(acts)
    flat = acts.flatten(2)
    dead = ~(flat.amax(2) > flat.amin(2))  # their masks are all zero, so one is scored for all
    first = dead.int().argmax(1, keepdim=True)
    scored = ~dead | (torch.arange(dead.shape[1], device=dead.device) == first)
    scores = acts.new_zeros(dead.shape)
    for pairs in scored.nonzero().split(max(1, piece(images[0]) // variants)):
        cases = pairs[:, 0]
        masks = minmax(resize(acts[cases, pairs[:, 1]], images.shape[2:], align_corners=align_corners))
        composed = perturb(masks.to(images.dtype)[:, None], images[cases], cases)
        logits = score.logit(composed.flatten(0, 1), cases.repeat_interleave(variants))
        scores[cases, pairs[:, 1]] = logits.view(-1, variants).mean(1).to(scores.dtype)
    return torch.where(dead, scores.gather(1, first), scores)


def ablation_cam(acts: Tensor, targets: Sequence[tuple[int, ...]], *, forward_from: Callable[..., Tensor]) -> Tensor:
    """Ablation-CAM: channels weighted by the share of the score that is lost without them.

    a_k = (y - y_k) / y, y_k the score with channel k of the layer set to 0; map = sum_k a_k A_k (Desai and Ramaswamy,
    WACV 2020). No gradient. Passes per image: one forward for every channel that is not zero, plus one.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    targets : sequence of N tuples of int
        Output indices of each case's class.
    forward_from : callable
        ``forward_from(acts, cases) -> (n, C)``: logits with the layer's output replaced.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed. A negative score flips the sign, by the definition; a score of 0 gives a zero map.
    """
    wide = widen(acts)
    everything = torch.arange(len(acts), device=acts.device)
    clean = explained(forward_from(acts, everything), targets).to(wide.dtype)
    drop = wide.new_zeros(acts.shape[:2])
    used = (acts != 0).flatten(2).any(2).nonzero()
    for pairs in used.split(piece(acts[0])) if len(used) else ():
        cases, channels = pairs.unbind(1)
        ablated = acts[cases]
        ablated[torch.arange(len(pairs), device=acts.device), channels] = 0
        without = explained(forward_from(ablated, cases), [targets[i] for i in cases.tolist()])
        drop[cases, channels] = clean[cases] - without.to(wide.dtype)
    return weighted_sum(divide_or_zero(drop, clean[:, None].expand_as(drop)), wide)


def rise(
    images: Tensor,
    ids: Sequence[str],
    *,
    score: Any,
    masks: int = 4000,
    cells: int = 7,
    keep: float = 0.5,
    seed: int = 0,
) -> Tensor:
    """RISE: mean of random masks, each weighted by the probability of the image seen through it.

    map = sum_i f(X M_i) M_i / (masks keep), f the softmax probability; M_i is a grid of `cells` per axis, each 1 with
    probability `keep`, upsampled linearly to one cell more than the input and cropped at a random place (Petsiuk
    et al., BMVC 2018, arXiv:1806.07421, equation 6). Beyond its outermost centres the grid is mirrored, as in the
    authors' code. Passes per image: `masks` forward. Looks at no layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    ids : sequence of N str
        Case ids; with `seed` they fix the masks.
    score : callable
        ``score(images, cases) -> (n,)``.
    masks, cells : int
    keep : float
        In (0, 1].
    seed : int

    Returns
    -------
    Tensor, shape (N, *size)
        At least 0.

    Raises
    ------
    ValueError
        No mask or cell, or `keep` out of range.
    """
    check_least(1, masks=masks, cells=cells)
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} must be above 0 and at most 1")
    images = widen(images)
    maps = torch.zeros_like(images[:, 0])
    for case, case_id in enumerate(ids):
        drawn = random_masks(masks, cells, keep, images.shape[2:], seeded(seed, case_id))
        for grids, *weights in zip(*(part.to(images).split(piece(images[0])) for part in drawn), strict=True):
            behind = _stretch(grids, weights)
            cases = torch.full((len(behind),), case, device=images.device)
            probability = score(behind[:, None] * images[case], cases)
            maps[case] += torch.tensordot(probability.to(behind), behind, 1)
    return maps / (masks * keep)


def random_masks(count: int, cells: int, keep: float, size: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw RISE's masks: grids (count, cells, ..) of 0 and 1, then per axis the weights (count, length, cells).

    A row of weights is the linear interpolation of one pixel from the cells, the random shift included.
    """
    grids = (torch.rand((count, *[cells] * len(size)), generator=generator) < keep).double()
    weights = []
    for length in size:
        cell = -(-length // cells)  # rounded up as in the authors' code, or the crop could be too small
        shift = torch.randint(cell, (count, 1), generator=generator)
        place = (torch.arange(length) + shift + 0.5).double() * cells / ((cells + 1) * cell) - 0.5
        last = cells - 1
        place = (last - (last - place.abs()).abs()).clamp(min=0)  # mirrored at the first and the last centre
        weights.append((1 - (place[..., None] - torch.arange(cells)).abs()).clamp(min=0))
    return [grids, *weights]


def _stretch(grids: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Masks (n, *size) from grids (n, cells, ..) and the weights (n, length, cells) of each axis."""
    for axis, weight in enumerate(weights, start=1):
        grids = torch.einsum("n...c,nlc->n...l", grids.movedim(axis, -1), weight).movedim(-1, axis)
    return grids
