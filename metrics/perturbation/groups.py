"""SaCo: are groups of positions that the map ranks higher worth more to the network, one group at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..baselines import shared_baseline
from ..faithfulness import clean_score, pieces, step_counts
from ..geometry import constant_rows
from ..ranking import order, ranks


def saco(
    heatmaps: Tensor,
    batch: Any,
    *,
    score: Any,
    groups: int = 10,
    baseline: str = "mean",
    kernel: int = 11,
    sigma: float = 5.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Salience-guided faithfulness coefficient: do higher groups of positions lose more, by how much higher they are.

    The positions are cut by rank into `groups` equal groups; each ALONE is replaced by the baseline, unlike in
    deletion, where what came before is gone too. With s the mean of the map over a group and d the drop of the
    probability, over all pairs i before j:
    ``sum (s_i - s_j) * sign(d_i - d_j) / sum (s_i - s_j)``. The authors take sums over groups, which is the same for
    groups of one size, and count equal drops as right, so that a network which ignores the image makes every map
    perfect; here equal drops count for nothing. Does not depend on a positive factor of the map or an added constant.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    score : callable
    groups : int
        2 or more; group ``i`` ends before rank ``floor((i + 1) * P / groups)``. As many forward passes a map.
    baseline : {"zero", "blur", "black", "mean", "noise", "minimum"}
        See `metrics.baselines.baseline_images`; the authors' is the image's mean.
    kernel, sigma, seed
        Of the baselines ``blur`` and ``noise``.

    Returns
    -------
    dict
        ``coefficient`` (N,): -1 to 1, higher is better; 0 for a constant map, and on average over random maps.

    Raises
    ------
    ValueError
        For fewer than 2 groups, an unknown baseline or an even kernel.

    References
    ----------
    Wu, Kang, Tang, Hong, Yan: On the faithfulness of vision transformer explanations, CVPR 2024.
    """
    if groups < 2:
        raise ValueError(f"saco: groups={groups} must be at least 2")
    counts = step_counts(groups, heatmaps[0].numel())
    positions = order(heatmaps, batch.ids)
    rank = ranks(positions).view(heatmaps.shape)
    blank = shared_baseline(batch, score, baseline, kernel, sigma, seed)
    clean = clean_score(batch, score)
    limits = torch.tensor(counts, device=rank.device)

    def lost(cases: Tensor) -> Tensor:
        """Drop of the probability (n, groups) without each group."""
        grid = torch.stack([cases.repeat_interleave(groups), torch.arange(groups).repeat(len(cases))], 1)
        scores = [clean.new_zeros(0)]
        for part in grid.to(rank.device).split(pieces(batch.images, score)):
            case, first, end = part[:, 0], limits[part[:, 1]], limits[part[:, 1] + 1]
            first, end = (edge.view(-1, *[1] * (rank.ndim - 1)) for edge in (first, end))
            group = (rank[case] >= first) & (rank[case] < end)
            scores.append(score(torch.where(group[:, None], blank[case], batch.images[case]), case))
        return clean[cases.to(clean.device), None] - torch.cat(scores).view(len(cases), groups)

    drops = score.per_map(("saco", groups, baseline, kernel, sigma, seed), lost).double()
    flat = heatmaps.flatten(1).double()
    flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    sizes = [after - before for before, after in zip(counts[:-1], counts[1:], strict=True)]
    used = [i for i, size in enumerate(sizes) if size]  # more groups than positions: some are empty
    means = [part.mean(1) for part in flat.gather(1, positions).split(sizes, dim=1)]
    salience, drops = torch.stack(means, dim=1)[:, used], drops[:, used]
    first, second = torch.triu_indices(len(used), len(used), 1, device=flat.device).unbind(0)
    weight = salience[:, first] - salience[:, second]
    agreement = (weight * (drops[:, first] - drops[:, second]).sign()).sum(1)
    whole = weight.sum(1)
    coefficient = torch.where((whole > 0) & ~constant_rows(flat), agreement / whole, 0)
    return {"coefficient": coefficient.to(clean)}
