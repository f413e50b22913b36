"""What stands in an image where its evidence was taken away."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from .ranking import drawn


def baseline_images(batch: Any, name: str, kernel: int = 11, sigma: float = 5.0, seed: int = 0) -> Tensor:
    """Fully perturbed version of each image, in normalized space.

    ======= =====================================================================================
    zero    0 in normalized space, about the data set's mean colour
    blur    Gaussian of ``kernel`` taps along each axis, zero padding on the normalized image (RISE)
    black   black of the picture before normalization
    mean    the image's own mean of each channel
    noise   standard normal in normalized space, fixed by ``seed`` and the case's id
    minimum the image's own smallest value over all channels (Quantus's "black")
    ======= =====================================================================================

    Parameters
    ----------
    batch : Batch
        Its ``images`` (N, C, *spatial), ``ids`` and ``black`` are used.
    name : str
    kernel : int
        Taps along a side, odd.
    sigma : float
        In pixels, above 0.
    seed : int

    Returns
    -------
    Tensor, shape (N, C, *spatial)

    Raises
    ------
    ValueError
        For an unknown name, an even kernel or a sigma of 0.
    """
    images = batch.images
    if name == "zero":
        return torch.zeros_like(images)
    if name == "blur":
        return blur(images, kernel, sigma)
    if name == "black":
        return batch.black.to(images).view(1, -1, *[1] * (images.ndim - 2)).expand_as(images)
    if name == "mean":
        return images.mean(dim=tuple(range(2, images.ndim)), keepdim=True).expand_as(images)
    if name == "noise":
        return drawn(torch.randn, images, [f"{seed}:{case}" for case in batch.ids])
    if name == "minimum":
        return images.amin(dim=tuple(range(1, images.ndim)), keepdim=True).expand_as(images)
    raise ValueError(f"unknown baseline '{name}': zero, blur, black, mean, noise or minimum")


def shared_baseline(batch: Any, score: Any, name: str, kernel: int = 11, sigma: float = 5.0, seed: int = 0) -> Tensor:
    """`baseline_images`, made once for all metrics, methods and layers."""
    key = ("baseline", name, kernel, sigma, seed)
    return score.once(key, lambda: baseline_images(batch, name, kernel, sigma, seed))


def gaussian_taps(kernel: int, sigma: float, rank: int = 2) -> Tensor:
    """Taps (kernel, kernel) of RISE's blur, along `rank` axes: SciPy's Gaussian filter on a single one in zeros.

    SciPy reflects what would fall outside of the small array, so the taps sum to 1 though they end early.
    """
    if kernel < 1 or kernel % 2 == 0 or sigma <= 0:
        raise ValueError(f"blur needs an odd kernel and a sigma above 0, not kernel={kernel} and sigma={sigma}")
    delta = np.zeros((kernel,) * rank)
    delta[(kernel // 2,) * rank] = 1
    return torch.from_numpy(gaussian_filter(delta, sigma))


def blur(images: Tensor, kernel: int, sigma: float) -> Tensor:
    """Images (N, C, *spatial) convolved with `gaussian_taps`, zeros beyond the border."""
    channels, rank = images.shape[1], images.ndim - 2
    if rank == 2:
        taps = gaussian_taps(kernel, sigma).to(images).expand(channels, 1, kernel, kernel)
        return torch.nn.functional.conv2d(images, taps, padding=kernel // 2, groups=channels)
    # Axis by axis: along three, all taps at once would be eleven times as many.
    line = gaussian_taps(kernel, sigma, 1).to(images)
    for axis in range(2, images.ndim):
        shape = [1] * images.ndim
        shape[axis], padding = kernel, [0] * rank
        padding[axis - 2] = kernel // 2
        taps = line.view(shape).expand(channels, 1, *shape[2:])
        images = torch.nn.functional.conv3d(images, taps, padding=padding, groups=channels)
    return images
