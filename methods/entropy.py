"""The paper's entropy CAMs (equations 3 to 5) and what "entropy of a feature map" can mean.

The paper names no estimator; `entropy` offers five readings, each tied to a public implementation by the tests.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from methods import estimators
from methods.common import weighted_sum, widen

ESTIMATORS = ("histogram", "value", "magnitude", "softmax", "local")

# Values per block: a block's temporaries stay in the processor's cache (measured: 3 ns a value, in one piece 13).
_CPU_BLOCK, _DEVICE_BLOCK = 2**19, 2**26


def grad_entropy(
    acts: Tensor,
    grads: Tensor,
    *,
    estimator: str = "histogram",
    bins: int = 256,
    radius: int = 2,
    base: float = 2.0,
    signed: bool = False,
) -> Tensor:
    """Grad Entropy-CAM: channels weighted by the entropy of their gradient.

    a_k = H(g_k); map = sum_k a_k A_k (Boketsu-Boulu and Rouhafzay, equations 3 and 4). Entropy is never negative, so
    the map cannot show evidence against the class, and it vanishes (`histogram`, `value`) where each channel's gradient
    is one constant, as at the last layer before global average pooling.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)
        Activations of one layer and the gradient of the score with respect to them.
    estimator, bins, radius, base
        Passed to `entropy`, which says what they mean.
    signed : bool
        Multiply each weight by the sign of the channel's mean gradient.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Map before the ReLU.

    Raises
    ------
    ValueError
        As `entropy`.
    """
    grads = widen(grads)
    weights = entropy(grads, estimator=estimator, bins=bins, radius=radius, base=base)
    if signed:
        sign = grads.flatten(2).mean(2).sign()
        weights = weights * sign.view(*sign.shape, *[1] * (weights.ndim - 2))
    return weighted_sum(weights, widen(acts))


def feature_entropy(
    acts: Tensor, *, estimator: str = "histogram", bins: int = 256, radius: int = 2, base: float = 2.0
) -> Tensor:
    """Feature Entropy-CAM: channels weighted by the entropy of their own activations; it does not know the class.

    a_k = H(A_k); map = sum_k a_k A_k (Boketsu-Boulu and Rouhafzay, equation 5).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    estimator, bins, radius, base
        Passed to `entropy`, which says what they mean.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Map before the ReLU.

    Raises
    ------
    ValueError
        As `entropy`.
    """
    acts = widen(acts)
    return weighted_sum(entropy(acts, estimator=estimator, bins=bins, radius=radius, base=base), acts)


def entropy(x: Tensor, *, estimator: str = "histogram", bins: int = 256, base: float = 2.0, radius: int = 2) -> Tensor:
    """Entropy of each channel, all channels at once.

    Parameters
    ----------
    x : Tensor, shape (N, K, *spatial)
        Half precision is computed as float32.
    estimator : str
        ``histogram``: the channel's range cut into `bins` equal levels (`numpy.histogram`), entropy of the counts.
        ``value``: entropy of the counts of exact values (`skimage.measure.shannon_entropy`).
        ``magnitude``: p = abs(x) / sum(abs(x)).
        ``softmax``: p = softmax(x).
        ``local``: entropy of `histogram`'s levels in the neighbourhood of each position
        (`skimage.filters.rank.entropy`); positions outside the map do not count.
    bins : int
        Levels of `histogram` and `local`, 2 to 4096.
    base : float
        Of the logarithm; 2 gives bits.
    radius : int
        Of `local`'s neighbourhood in positions: offsets of Euclidean length at most `radius` (a disk, in 3-D a ball).

    Returns
    -------
    Tensor, shape (N, K), for ``local`` (N, K, *spatial)
        At least 0. A constant channel has 0, but log Z, the maximum, by ``magnitude`` (0 if all zero) and ``softmax``.
        NaN where a channel holds a value that is not finite.

    Raises
    ------
    ValueError
        For an unknown estimator or a parameter out of range.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown entropy estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    if not 2 <= bins <= 4096:
        raise ValueError(f"entropy: bins must be 2 to 4096, not {bins}")
    if base <= 1:
        raise ValueError(f"entropy: base must be over 1, not {base}")
    if not 1 <= radius <= 16:
        raise ValueError(f"entropy: radius must be 1 to 16, not {radius}")
    x = widen(x.detach())
    rows = x.reshape(-1, math.prod(x.shape[2:]))
    finite = (rows.amax(1) - rows.amin(1)).isfinite()
    if not finite.all():
        rows = rows.where(finite[:, None], 0)  # a level of NaN is no level; marked again below
    block = _CPU_BLOCK if x.device.type == "cpu" else _DEVICE_BLOCK
    blocks = rows.split(max(1, block // max(rows.shape[1], bins)))
    options: dict[str, dict[str, Any]] = {
        "histogram": {"bins": bins},
        "local": {"spatial": x.shape[2:], "bins": bins, "radius": radius},
    }
    function = partial(getattr(estimators, estimator), **options.get(estimator, {}))
    nats = torch.cat([function(part) for part in blocks])
    nats[~finite] = torch.nan
    return (nats / math.log(base)).view(*x.shape[:2], *nats.shape[1:])
