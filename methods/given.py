"""Maps that no network is asked for: another program's, and maps of known quality made from the planted truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

from .common import seeded

FRAMES = ("original", "input")
NOTHING = 1e-3  # a value below this share of the largest is rounding


def external(outside: Callable[[str, str], Tensor], *, root: str, frame: str = "original") -> Tensor:
    """Take the maps that another program made, from a folder with one file for each case or image.

    Parameters
    ----------
    outside : callable
        ``outside(root, frame) -> maps`` (N, H, W) at input size, NaN for a case without a map.
    root : str
        Folder of ``.npy``, ``.npz``, ``.png`` or ``.tif`` files, each named like a case (``000012/cat.npy`` in the
        results' ``case_id``) or like an image (``000012.npy``), which then is the map of all its cases.
    frame : {"original", "input"}
        What a map covers, in any number of positions: the whole picture as its file has it, or the network's input.

    Returns
    -------
    Tensor, shape (N, H, W)

    Raises
    ------
    ValueError
        For an unknown frame.
    """
    if frame not in FRAMES:
        raise ValueError(f"frame={frame} is unknown; it takes {', '.join(FRAMES)}")
    return outside(root, frame)


def planted_map(
    images: Tensor,
    ids: Sequence[str],
    truth: Sequence[tuple[Tensor, Tensor]],
    *,
    blur: float = 0,
    shift: int = 0,
    missing: int = 0,
    noise: float = 0,
    inverted: bool = False,
    power: float = 1,
    seed: int = 0,
) -> Tensor:
    """Show each planted part for the class by its value, then spoil the map in a known degree.

    Within a part's box the map is its value, elsewhere 0, scaled to a maximum of 1; then, in this order: parts left
    out, shift, blur, noise, inversion, power.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
        Only their size and device are used.
    ids : sequence of N str
        Case ids, which noise follows from.
    truth : sequence of N (Tensor (P, 4), Tensor (P,))
        Boxes of the parts, xyxy in pixels, and their values.
    blur : float
        Standard deviation of a Gaussian in pixels, 0 beyond the border.
    shift : int
        Pixels to the right; what leaves the picture is lost.
    missing : int
        So many of the parts for the class, the last ones, are left out; at least one stays.
    noise : float
        Share of uniform noise in [0, 1) in the mixture with the map, 0 to 1.
    inverted : bool
        1 - map.
    power : float
        Of the map's values: the order of positions stays as it is.
    seed : int
        Of the noise.

    Returns
    -------
    Tensor, shape (N, H, W), float32
        In 0 to 1.

    Raises
    ------
    ValueError
        The data set has no known truth.
    """
    if not truth or not all(len(parts) for parts, _ in truth):
        raise ValueError("needs pictures whose truth is known: dataset=planted")
    height, width = images.shape[2:]
    maps = torch.zeros(len(images), height, width, device=images.device)
    for heatmap, (parts, values) in zip(maps, truth, strict=True):
        speaking = (values > NOTHING * values.abs().max()).nonzero()[:, 0].tolist()
        for i in speaking[: max(1, len(speaking) - missing)]:
            x0, y0, x1, y1 = parts[i].round().int().tolist()
            heatmap[y0:y1, x0:x1] = values[i] / values.max()
    if shift:
        maps = pad(maps, (shift, 0))[:, :, :width]
    if blur:
        maps = _blurred(maps, blur)
    if noise:
        grain = [torch.rand(height, width, generator=seeded(seed, case)) for case in ids]
        maps = (1 - noise) * maps + noise * torch.stack(grain).to(maps)
    return (1 - maps if inverted else maps).clamp(0, 1) ** power


def _blurred(maps: Tensor, sigma: float) -> Tensor:
    """Give maps (N, H, W) convolved with a Gaussian cut at 4 standard deviations, then scaled to a maximum of 1."""
    reach = int(4 * sigma + 0.5)
    taps = torch.exp(-torch.arange(-reach, reach + 1, device=maps.device).float().square() / (2 * sigma**2))
    taps = (taps / taps.sum()).view(1, 1, -1)
    for _ in range(2):  # along rows, then columns
        rows = conv1d(maps.flatten(0, 1)[:, None], taps, padding=reach)[:, 0]
        maps = rows.view(maps.shape).mT
    return maps / maps.amax((1, 2), keepdim=True)
