"""What the network says of pictures and feature maps of which a part is hidden, or alone is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ..common import minmax, widen
from ..multipass import check_least, piece


def occlusion(images: Tensor, *, score: Any, places: int = 13) -> Tensor:
    """Occlusion: how far the probability falls where a window hides the picture.

    A window of 2 / (`places` + 1) of each side moves by half its length over `places` places an axis and shows 0 in
    normalized space, about the mean colour. map = mean over the windows that hide a pixel of p - p(hidden) (Zeiler and
    Fergus, ECCV 2014, arXiv:1311.2901, section 4.2, who slide a grey square; they give no size). Passes per image:
    `places` to the power of the picture's axes, and one. Looks at no layer.

    Parameters
    ----------
    images : Tensor, shape (N, C, *size)
    score : callable
        ``score(images, cases) -> (n,)``.
    places : int
        Along each axis, from 1.

    Returns
    -------
    Tensor, shape (N, *size)
        Signed: below 0 where hiding helps.

    Raises
    ------
    ValueError
        No place, or more than half as many as pixels along an axis.
    """
    check_least(1, places=places)
    size = images.shape[2:]
    if 2 * places > min(size):
        raise ValueError(f"places={places} must be at most half of the picture's {min(size)} pixels")
    edges = [[round(i * length / (places + 1)) for i in range(places + 2)] for length in size]
    windows = [
        tuple(slice(edge[i], edge[i + 2]) for i, edge in zip(place, edges, strict=True))
        for place in product(range(places), repeat=len(size))
    ]
    maps, hidden = torch.zeros_like(images[:, 0]), torch.zeros(size, device=images.device)
    for window in windows:
        hidden[window] += 1
    for case in range(len(images)):
        clean = score(images[case : case + 1], torch.tensor([case], device=images.device))
        for first in range(0, len(windows), number := piece(images[0])):
            part = windows[first : first + number]
            changed = images[case].repeat(len(part), *[1] * (images.ndim - 1))
            for one, window in zip(changed, part, strict=True):
                one[(slice(None), *window)] = 0
            falls = clean - score(changed, torch.full((len(part),), case, device=images.device))
            for fall, window in zip(falls, part, strict=True):
                maps[case][window] += fall
    return maps / hidden


def recipro_cam(acts: Tensor, targets: Sequence[tuple[int, ...]], *, forward_from: Callable[..., Tensor]) -> Tensor:
    """Recipro-CAM: what each position of the layer, left alone, says for the class.

    map at a position = softmax probability of the network that goes on from the layer's output times a Gaussian of 3
    positions an axis (1/4, 1/2, 1/4) around it, stretched to 0 .. 1 (Byun and Lee, CVPR Workshops 2024,
    arXiv:2209.14074; the probability and the Gaussian as in the authors' code). Passes per image: one forward for each
    position.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    targets : sequence of N tuples of int
    forward_from : callable
        ``forward_from(acts, cases) -> logits`` (n, C) of the network that goes on from the layer.

    Returns
    -------
    Tensor, shape (N, *spatial)
        In 0 to 1; 0 where all positions say the same.
    """
    acts = widen(acts)
    near = [torch.eye(n).mul(0.5) + 0.25 * (torch.ones(n, n).tril(1).triu(-1) - torch.eye(n)) for n in acts.shape[2:]]
    maps = torch.zeros_like(acts[:, 0])
    positions = list(product(*map(range, acts.shape[2:])))
    for case, own in enumerate(acts):
        for first in range(0, len(positions), number := piece(own)):
            part = positions[first : first + number]
            alone = torch.stack(
                [own * gaussian([rows[i] for rows, i in zip(near, at, strict=True)]).to(own) for at in part]
            )
            cases = torch.full((len(part),), case, device=acts.device)
            probability = forward_from(alone, cases).softmax(1)[:, list(targets[case])].sum(1)
            for at, value in zip(part, probability, strict=True):
                maps[(case, *at)] = value
    return minmax(maps)


def gaussian(rows: Sequence[Tensor]) -> Tensor:
    """Outer product (*spatial) of one row (length,) for each axis."""
    whole = rows[0]
    for row in rows[1:]:
        whole = whole[..., None] * row
    return whole
