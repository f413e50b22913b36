"""Whether the map of a network that knows nothing is more complex than that of the trained one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..sanity import Randomized, random_parts


def efficient_mprt(heatmaps: Tensor, batch: Any, *, explain: Any, bins: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """Relative rise of the map's complexity when all weights are random (Hedstroem et al. 2024, eMPRT).

    ``(h(m') - h(m)) / h(m)``, m' the map of the random network and h the entropy of the map's histogram. No similarity
    is measured, which noise decides. It divides by h(m): a map that is 0 nearly everywhere rises most.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    explain : callable
        ``explain(change=function of the network) -> heatmaps`` (N, H, W), with ``explain.module`` and
        ``explain.running``, see `metrics.sanity.cut`. All methods and layers share one forward and one backward pass.
    bins : int
        Of the histogram, from the map's smallest to its largest value; at least 2.
    seed : int
        Of the random weights, see `metrics.sanity.Randomized`.

    Returns
    -------
    dict
        ``rise`` (N,): at least -1, higher is better; -1, the worst, where either map is constant: a method does not
        pass by showing nothing.

    Raises
    ------
    ValueError
        For ``bins`` below 2, or a network without weights.

    References
    ----------
    Hedstroem, Weber, Lapuschkin, Hoehne: A fresh look at sanity checks for saliency maps, xAI 2024, section 4.2.
    """
    if bins < 2:
        raise ValueError(f"needs bins of at least 2, not {bins}")
    (names,) = random_parts(explain.module, explain.running, "cascading", 1)
    after = explain(change=Randomized(names, seed))
    before, random = ([histogram_entropy(one, bins) for one in maps.cpu().numpy()] for maps in (heatmaps, after))
    rises = [(new - old) / old if old > 0 else -1.0 for old, new in zip(before, random, strict=True)]
    return {"rise": heatmaps.new_tensor(rises, dtype=torch.float32)}


def histogram_entropy(heatmap: NDArray[Any], bins: int) -> float:
    """Shannon entropy in nats of the counts of a map's values in equal bins over their range; 0 for a constant map."""
    values = heatmap.astype(np.float64).ravel()
    low, high = values.min(), values.max()
    if low == high:
        return 0.0
    counts = np.histogram((values - low) / (high - low), bins=bins, range=(0, 1))[0]
    shares = counts[counts > 0] / len(values)
    return -math.fsum(shares * np.log(shares))
