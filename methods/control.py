"""Controls that know neither the network nor the class: a method that does not beat them shows nothing.

They look at no layer and return maps at the input's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .common import seeded, widen


def random(ids: Sequence[str], images: Tensor, *, seed: int = 0) -> Tensor:
    """Uniform noise, independent per position, in [0, 1).

    Parameters
    ----------
    ids : sequence of N str
        Case ids. A case's noise follows from `seed` and its id alone, not from its place in the batch.
    images : Tensor, shape (N, C, *spatial)
        Only their size and device are used.
    seed : int

    Returns
    -------
    Tensor, shape (N, *spatial), float32
    """
    maps = [torch.rand(images.shape[2:], generator=seeded(seed, case_id)) for case_id in ids]
    return torch.stack(maps).to(images.device)


def center(images: Tensor, *, sigma: float = 0.25) -> Tensor:
    """Gaussian bump on the middle of the image, sampled at pixel centres: photographers centre their subject.

    Parameters
    ----------
    images : Tensor, shape (N, C, *spatial)
        Only their size and device are used.
    sigma : float
        Standard deviation as a share of each side, so that the bump has the image's shape.

    Returns
    -------
    Tensor, shape (N, *spatial), float32
        In (0, 1], mirror-symmetric along every axis to the last bit.
    """
    size = images.shape[2:]
    exponent = torch.zeros(size, device=images.device)
    for axis, length in enumerate(size):
        # 2 i + 1 - length is a whole number, so that opposite pixels get equal squares and tie exactly
        offset = (2 * torch.arange(length, device=images.device) + 1 - length) / (2 * length)
        shape = [length if other == axis else 1 for other in range(len(size))]
        exponent = exponent + (offset / sigma).square().view(shape) / 2
    return exponent.neg().exp().expand(len(images), *size)


def edges(shown: Tensor) -> Tensor:
    """Sobel gradient magnitude of the luminance of the normalized images.

    Equals ``skimage.filters.sobel``: kernels [1, 2, 1] / 4 and [1, 0, -1], borders repeated, root mean square
    over axes.

    Parameters
    ----------
    shown : Tensor, shape (N, C, *spatial), 1 to 3 spatial axes
        Channels of the images that are looked at: three are weighted as luminance (0.299, 0.587, 0.114), any other
        number is averaged.

    Returns
    -------
    Tensor, shape (N, *spatial)
        At least 0.
    """
    images = widen(shown)
    rank, channels = images.ndim - 2, images.shape[1]
    weights = images.new_tensor((0.299, 0.587, 0.114)) if channels == 3 else images.new_ones(channels) / channels
    grey = (images * weights.view(-1, *[1] * rank)).sum(1, keepdim=True)
    padded = functional.pad(grey, [1, 1] * rank, mode="replicate")[:, 0]
    squares = []
    for derivative in range(1, rank + 1):
        x = padded
        for axis in range(1, rank + 1):
            before, here, after = (x.narrow(axis, start, x.shape[axis] - 2) for start in range(3))
            x = after - before if axis == derivative else (before + 2 * here + after) / 4
        squares.append(x.square())
    return torch.stack(squares).mean(0).sqrt()


def uniform(images: Tensor) -> Tensor:
    """Ones everywhere: the value that a metric gives to no information at all.

    Parameters
    ----------
    images : Tensor, shape (N, C, *spatial)
        Only their size and device are used.

    Returns
    -------
    Tensor, shape (N, *spatial), float32
    """
    return torch.ones(len(images), *images.shape[2:], device=images.device)
