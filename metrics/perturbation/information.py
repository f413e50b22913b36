"""Performance information curves: how the network does against how much the picture still tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..faithfulness import pieces
from ..ranking import generator, order, ranks
from ..road import impute

SHARES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)


def performance_information_curve(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    shares: Sequence[float] = SHARES,
    known: float = 0.01,
    bins: int = 100,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Softmax and accuracy information curves (SIC, AIC): what the network sees once the map's highest positions show.

    The picture begins blurred: a random share `known` of its pixels and its corners are kept, the same for all maps of
    a case, all others are interpolated. Then the ``floor(share * H * W)`` highest positions are kept, too. A picture's
    information is the bytes of its lossless WebP file (OpenCV), at 8 bits: the clean image's own minimum is 0 there and
    its maximum 255. It is scaled so that the blurred picture is 0 and the clean one 1, and cut to that; so is the
    probability. Of both performances, the scaled probability and whether the class is on top, the running maximum over
    the shares is taken, as the authors do. The curve is linear between these points, blurred and clean among them, read
    at ``bins + 1`` equal values of information from 0 to 1, and its area a trapezoid
    over them; of points with equal information the highest counts. Depends on the order of positions alone.

    The authors' code differs in two things: it interpolates between pixels on triangles, here each missing pixel is the
    weighted mean of its neighbours (`metrics.road.impute`); and it leaves out pictures of a probability under .8, for
    AIC those that the network gets wrong or gets right when blurred, too.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
        With ``score.with_top(images, cases)``, ``score.once`` and ``score.per_map``.
    shares : sequence of float
        Ascending, above 0 and below 1; costs as many forward passes a map, and two a case for all maps together. On a
        CPU also about .1 s a share at 224x224.
    known : float
        From 0 to below 1.
    bins : int
        Intervals of the curves, 1 or more.
    seed : int
        Of the pixels that are kept, with the case's id.

    Returns
    -------
    dict
        - ``sic`` (N,), 0 to 1, higher is better: area of the scaled probability; NaN where the clean image's is not
          above the blurred one's, or its file not larger;
        - ``aic`` (N,), 0 to 1, higher is better: area of 1 where the network's highest output is the class's, else 0;
          NaN where the clean image's file is not larger;
        - ``sic_curve``, ``aic_curve`` (N, bins + 1).

    Raises
    ------
    ValueError
        For other shares or numbers, without OpenCV, or for images of other than 1 or 3 channels.

    References
    ----------
    Kapishnikov, Bolukbasi, Viegas, Terry: XRAI: better attributions through regions, ICCV 2019, and the authors' code,
    github.com/PAIR-code/saliency.
    """
    rising = all(a < b for a, b in zip(shares[:-1], shares[1:], strict=True))
    if not shares or not rising or not 0 < shares[0] <= shares[-1] < 1 or not 0 <= known < 1 or bins < 1:
        raise ValueError(f"shares must rise from above 0 to below 1, not {list(shares)}; known={known}, bins={bins}")
    images, rank = batch.images, ranks(order(heatmaps, batch.ids)).view(heatmaps.shape)
    positions = rank[0].numel()
    counts = torch.tensor([int(share * positions + 1e-9) for share in shares], device=rank.device)
    everyone = torch.arange(len(images), device=images.device)

    def start() -> tuple[Tensor, Tensor, Tensor]:
        kept = torch.stack([_kept(rank.shape[1:], known, f"{seed}:{case}") for case in batch.ids]).to(rank.device)
        return kept, _measure(images, impute(images, ~kept), everyone, score), _measure(images, images, everyone, score)

    kept, blurred, clean = score.once(("information", known, seed), start)

    def points(cases: Tensor) -> Tensor:
        grid = torch.stack([cases.repeat_interleave(len(counts)), torch.arange(len(counts)).repeat(len(cases))], 1)
        parts = [clean.new_zeros(0, 3)]
        for part in grid.to(rank.device).split(pieces(images, score, 4)):
            case, limit = part[:, 0], counts[part[:, 1], None, None]
            shown = (rank[case] < limit) | kept[case]
            parts.append(_measure(images, impute(images[case], ~shown), case, score))
        return torch.cat(parts).view(len(cases), len(counts), 3)

    measured = score.per_map(("information", tuple(shares), known, seed), points)
    whole = torch.cat([blurred[:, None], measured, clean[:, None]], 1)
    scaled = ((whole - blurred[:, None]) / (clean - blurred)[:, None]).clamp(0, 1)
    scaled = torch.where((clean > blurred)[:, None], scaled, torch.nan)
    information = scaled[..., 2]
    values = torch.stack([scaled[..., 0], whole[..., 1]], -1).cummax(1).values
    curves = [_curves(information, values[..., i], bins) for i in range(2)]
    areas = [torch.trapezoid(curve, dim=1) / bins for curve in curves]
    return {"sic": areas[0], "aic": areas[1], "sic_curve": curves[0], "aic_curve": curves[1]}


def _kept(size: Sequence[int], known: float, key: str) -> Tensor:
    """Pixels that even the blurred picture keeps, bool: random ones and the corners."""
    height, width = size
    mask = torch.zeros(height * width, dtype=torch.bool)
    mask[torch.randperm(height * width, generator=generator(f"known:{key}"))[: int(known * height * width)]] = True
    mask = mask.view(height, width)
    mask[0, 0] = mask[0, -1] = mask[-1, 0] = mask[-1, -1] = True
    return mask


def _measure(originals: Tensor, pictures: Tensor, cases: Tensor, score: Any) -> Tensor:
    """Probability, whether the class is on top, and bytes of pictures (n, C, H, W); shape (n, 3)."""
    low = originals.amin((1, 2, 3))[cases, None, None, None]
    span = originals.amax((1, 2, 3))[cases, None, None, None] - low
    levels = ((pictures - low) / span.clamp(min=torch.finfo(pictures.dtype).tiny) * 255).round().clamp(0, 255)
    sizes = [file_size(picture) for picture in levels.byte().cpu()]
    answers = score.with_top(pictures, cases)
    return torch.cat([answers, torch.tensor(sizes).to(answers)[:, None]], 1)


def file_size(picture: Tensor) -> int:
    """Bytes of a picture's lossless WebP file; uint8 (C, H, W), C is 1 or 3 (red, green, blue)."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError("information curves need OpenCV: pip install opencv-python-headless") from error
    if len(picture) not in (1, 3):
        raise ValueError(f"information curves take pictures of 1 or 3 channels, not {len(picture)}")
    bgr = picture.expand(3, -1, -1).flip(0).permute(1, 2, 0).contiguous().numpy()
    return len(cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1])  # above 100: lossless


def _curves(information: Tensor, values: Tensor, bins: int) -> Tensor:
    """Piecewise linear curves (N, bins + 1) through points (N, L) at equal steps of information; NaN stays NaN."""
    # By information, then by value.
    by_value = values.argsort(dim=1, stable=True)
    place = by_value.gather(1, information.gather(1, by_value).argsort(dim=1, stable=True))
    x, y = information.gather(1, place), values.gather(1, place)
    shares = torch.arange(bins + 1, dtype=x.dtype) / bins  # on the CPU: a GPU's last one may be below 1, before a jump
    grid = shares.to(x.device).expand(len(x), -1).contiguous()
    right = torch.searchsorted(x.contiguous(), grid, right=True).clamp(1, x.shape[1] - 1)
    x0, x1, y0, y1 = (axis.gather(1, at) for axis in (x, y) for at in (right - 1, right))
    part = torch.where(x1 > x0, (grid - x0) / (x1 - x0), 1).clamp(0, 1)
    curve = y0 + part * (y1 - y0)
    undefined = information.isnan().any(1) | values.isnan().any(1)
    return curve.masked_fill(undefined[:, None], torch.nan)
