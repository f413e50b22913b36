"""ROAD: remove positions and fill the hole so that neither its shape nor its colour tells where it was."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from .baselines import shared_baseline
from .faithfulness import pieces
from .ranking import order, ranks

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

# Weight of a pixel's eight neighbours (Rong et al., equation 3); they sum to 1.
NEIGHBOURS = {(dy, dx): (1 / 6 if dy == 0 or dx == 0 else 1 / 12) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx}


def road(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Remove and debias: probability when shares of the positions are imputed, most or least relevant first.

    The ``floor(share * H * W)`` highest (MoRF) or lowest (LeRF) ranked positions are replaced by noisy linear
    imputation: every missing pixel is the weighted mean of its neighbours, known or missing, plus normal noise that
    follows from `seed` and the case's id. Zero baselines leave a hole that the network has never seen; this does not.
    Costs ``2 * len(shares)`` forward passes a map; on two CPU cores also about .05 s a removal at 224x224.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    shares : sequence of float
        Removed shares of the image, each from 0 to below 1.
    noise : float
        Standard deviation in normalized space.
    seed : int

    Returns
    -------
    dict
        - ``morf`` (N,): mean probability over the shares, most relevant removed first; lower is better;
        - ``lerf`` (N,): the same, least relevant first; higher is better;
        - ``combined`` (N,): ``(lerf - morf) / 2``, -.5 to .5, higher is better;
        - ``morf_curve``, ``lerf_curve`` (N, len(shares)).

    Raises
    ------
    ValueError
        For a share outside 0..1 or none.

    References
    ----------
    Rong, Leemann, Borisov, Kasneci, Kasneci: A consistent and efficient evaluation strategy for attribution methods,
    ICML 2022. The combination is pytorch-grad-cam's.
    """
    if not shares or not all(0 <= share < 1 for share in shares):
        raise ValueError(f"shares must be from 0 to below 1, not {list(shares)}")
    images, rank = batch.images, ranks(order(heatmaps, batch.ids)).view(heatmaps.shape)
    grain = shared_baseline(batch, score, "noise", seed=seed)
    positions = rank[0].numel()
    counts = torch.tensor([int(share * positions + 1e-9) for share in shares], device=rank.device)

    def scores(cases: Tensor) -> Tensor:
        # Every removal of every case: missing (n, 2, shares, H, W) is composed piece by piece.
        grid = torch.meshgrid(cases, torch.arange(2), torch.arange(len(counts)), indexing="ij")
        removals = torch.stack([axis.flatten() for axis in grid], dim=1).to(rank.device)
        parts = [images.new_zeros(0)]
        for part in removals.split(pieces(images, score, times=4)):  # solving needs some four times the images' memory
            case, way, count = part[:, 0], part[:, 1, None, None], counts[part[:, 2], None, None]
            missing = torch.where(way == 0, rank[case] < count, rank[case] >= positions - count)
            filled = impute(images[case], missing) + noise * grain[case] * missing[:, None]
            parts.append(score(filled, case))
        return torch.cat(parts).view(len(cases), 2, len(counts))

    curves = score.per_map(("road", tuple(shares), noise, seed), scores)
    morf, lerf = curves.mean(2).unbind(1)
    return {
        "morf": morf,
        "lerf": lerf,
        "combined": (lerf - morf) / 2,
        "morf_curve": curves[:, 0],
        "lerf_curve": curves[:, 1],
    }


def impute(images: Tensor, missing: Tensor) -> Tensor:
    """Fill missing pixels so that each is the weighted mean of its neighbours inside the image.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W)
    missing : Tensor, shape (N, H, W), bool
        Not all of an image.

    Returns
    -------
    Tensor, shape (N, C, H, W)
        The images where nothing is missing.
    """
    return (impute_directly if images.device.type == "cpu" else impute_iteratively)(images, missing)


def impute_directly(images: Tensor, missing: Tensor) -> Tensor:
    """`impute` by factorizing every image's sparse system, all channels at once: the quicker way on a CPU."""
    # Factorization lets the other threads run. They use NumPy alone: threads of PyTorch's own would slow the network.
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        filled = list(threads.map(_solve, images.double().numpy(), missing.numpy()))
    return torch.where(missing[:, None], torch.from_numpy(np.stack(filled)).to(images), images)


def _solve(values: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Values (C, H, W) with those in the hole (H, W) replaced by their neighbours' weighted means, float64."""
    places = _dissection(*hole.shape)
    rows, columns = np.divmod(places[hole.ravel()[places]], hole.shape[1])
    unknowns = len(rows)
    if unknowns == 0:
        return values
    # Index of each unknown, -1 for known pixels, -2 outside the image; one pixel of border.
    index = np.full((hole.shape[0] + 2, hole.shape[1] + 2), -2)
    index[1:-1, 1:-1] = -1
    index[rows + 1, columns + 1] = np.arange(unknowns)
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    diagonal, right = np.zeros(unknowns), np.zeros((unknowns, len(values)))
    entries = []
    for (dy, dx), weight in NEIGHBOURS.items():
        neighbour = index[rows + 1 + dy, columns + 1 + dx]
        diagonal += weight * (neighbour > -2)
        known = neighbour == -1
        right[known] += weight * padded[:, rows[known] + 1 + dy, columns[known] + 1 + dx].T
        (here,) = np.nonzero(neighbour >= 0)
        entries.append((np.full(len(here), -weight), here, neighbour[here]))
    entries.append((diagonal, np.arange(unknowns), np.arange(unknowns)))
    data, i, j = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.csc_matrix((data, (i, j)), shape=(unknowns, unknowns))
    # Symmetric and diagonally dominant: no pivoting is needed; the unknowns are in a good order already.
    factors = splu(matrix, permc_spec="NATURAL", diag_pivot_thresh=0, options={"SymmetricMode": True})
    filled = values.copy()
    filled[:, rows, columns] = factors.solve(right).T
    return filled


@lru_cache(maxsize=8)
def _dissection(height: int, width: int) -> np.ndarray:
    """Pixels (H * W,) in nested dissection order: both halves of the grid before the line that parts them.

    Eliminated in this order, the system of a whole 224x224 grid fills in three quarters of what minimum degree leaves,
    without the time to find that order (George, 1973: Nested dissection of a regular finite element mesh).
    """

    def order(block: np.ndarray) -> list[np.ndarray]:
        if block.size <= 8:
            return [block.ravel()]
        block = block if block.shape[0] >= block.shape[1] else block.T
        middle = block.shape[0] // 2
        return [*order(block[:middle]), *order(block[middle + 1 :]), block[middle]]

    return np.concatenate(order(np.arange(height * width).reshape(height, width)))


def impute_iteratively(images: Tensor, missing: Tensor, tolerance: float = 1e-7) -> Tensor:
    """`impute` for many images at once by conjugate gradients: the quicker way on a GPU."""
    hole = missing[:, None].double()
    start = images.double() * (1 - hole)
    degree = _neighbour_sum(torch.ones_like(hole))

    def apply(x: Tensor) -> Tensor:
        return (degree * x - _neighbour_sum(x)) * hole

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    solution = torch.zeros_like(start)
    residual = _neighbour_sum(start) * hole
    direction, size = residual, dot(residual, residual)
    for step in range(10 * max(1, int(missing.sum(dtype=torch.long)))):
        # Asking waits for the device, so not at every step.
        if step % 20 == 0 and float(residual.abs().max()) < tolerance:
            break
        applied = apply(direction)
        # A system that is solved already has no residual left: 0 / 0 becomes 0.
        length = size / dot(direction, applied).clamp(min=1e-300)
        solution, residual = solution + length * direction, residual - length * applied
        before, size = size, dot(residual, residual)
        direction = residual + size / before.clamp(min=1e-300) * direction
    return (start + solution).to(images.dtype)


def _neighbour_sum(x: Tensor) -> Tensor:
    """Weighted sum of each pixel's neighbours, zeros beyond the border."""
    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    parts = [
        weight * padded[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        for (dy, dx), weight in NEIGHBOURS.items()
    ]
    return torch.stack(parts).sum(0)
