"""The paper's entropy CAMs (equations 3 to 5) and what "entropy of a feature map" can mean.

The paper names no estimator. `entropy` offers five readings; the tests compare each with a public implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import entropy_estimators as estimators
from .common import divide_or_zero, minmax, weighted_sum, widen, without_rounding

ESTIMATORS = ("histogram", "value", "magnitude", "softmax", "local")
NORMALIZATIONS = (None, "sum", "range", "softmax")

Once = Callable[[Hashable, Callable[[], Tensor]], Tensor]

# Values per block: temporaries of this size stay in the processor's cache (3 ns a value, against 13 without blocks).
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
    invert: bool = False,
    normalize: str | None = None,
    once: Once | None = None,
) -> Tensor:
    """Grad Entropy-CAM: channels weighted by the entropy of their gradient.

    a_k = H(g_k); map = sum_k a_k A_k (Boketsu-Boulu and Rouhafzay, equations 3 and 4). Entropy is never negative, so
    the map cannot show evidence against the class. It vanishes (`histogram`, `value`) where each channel's gradient is
    constant, as at the last layer before global average pooling.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)
        Activations of one layer and the gradient of the score with respect to them.
    estimator, bins, radius, base
        Passed to `entropy`, which says what they mean.
    signed : bool
        Multiply each weight by the sign of the channel's mean gradient.
    invert, normalize
        Passed to `reweight`, which says what they mean.
    once : callable or None
        ``once(key, function)`` computes ``function()`` once per layer: variants share their entropies.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Map before the ReLU.

    Raises
    ------
    ValueError
        As `entropy` and `reweight`.
    """
    grads = widen(grads)
    options = {"estimator": estimator, "bins": bins, "radius": radius, "base": base}
    weights = reweight(grads, invert=invert, normalize=normalize, find=partial(_shared, once, "grads"), **options)
    if signed:
        sign = grads.flatten(2).mean(2).sign()
        weights = weights * sign.view(*sign.shape, *[1] * (weights.ndim - 2))
    return weighted_sum(weights, widen(acts))


def feature_entropy(
    acts: Tensor,
    *,
    estimator: str = "histogram",
    bins: int = 256,
    radius: int = 2,
    base: float = 2.0,
    invert: bool = False,
    normalize: str | None = None,
    once: Once | None = None,
) -> Tensor:
    """Feature Entropy-CAM: channels weighted by the entropy of their own activations. It does not know the class.

    a_k = H(A_k); map = sum_k a_k A_k (Boketsu-Boulu and Rouhafzay, equation 5).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    estimator, bins, radius, base
        Passed to `entropy`, which says what they mean.
    invert, normalize
        Passed to `reweight`, which says what they mean.
    once : callable or None
        As in `grad_entropy`.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Map before the ReLU.

    Raises
    ------
    ValueError
        As `entropy` and `reweight`.
    """
    acts = widen(acts)
    options = {"estimator": estimator, "bins": bins, "radius": radius, "base": base}
    weights = reweight(acts, invert=invert, normalize=normalize, find=partial(_shared, once, "acts"), **options)
    return weighted_sum(weights, acts)


def consensus_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """Consensus-CAM: positive evidence, weighted by how many channels agree on it.

    c_k = relu(g_k A_k); map = T H(c / T) / log K at each position, T = sum_k c_k and H the entropy over the K
    channels: 0 where a single channel speaks for the class, T where all do equally. The paper asks how a channel is
    spread over positions, which loses sign and class; this asks how a position's evidence is spread over channels,
    which keeps both. Ours; docs/methods.md has measurements.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        At least 0; all 0 with one channel.
    """
    evidence = (widen(grads) * widen(acts)).relu_()
    # T H(c / T) = T log T - sum_k c_k log c_k needs no division
    agreed = torch.special.entr(evidence).sum(1) - torch.special.entr(evidence.sum(1))
    return agreed.clamp_(min=0) / math.log(max(evidence.shape[1], 2))


def reweight(
    x: Tensor,
    *,
    invert: bool = False,
    normalize: str | None = None,
    find: Callable[..., Tensor] | None = None,
    **options: Any,
) -> Tensor:
    """Channel weights from entropies: unchanged, inverted, or brought to a common scale.

    Parameters
    ----------
    x : Tensor, shape (N, K, *spatial)
    invert : bool
        Weight by the distance to the largest possible entropy, the log of the number of levels (histogram, local: at
        most `bins`) or positions: a channel that is focused on few levels or places counts most.
    normalize : str or None
        Over all weights of a case. ``sum`` divides by their sum: all images and layers have one scale, and the ranks
        within a map stay. ``range`` stretches them to 0 .. 1, which removes the level that all channels share.
        ``softmax`` is the softmax.
    find : callable or None
        Replaces `entropy`, with the same arguments.
    **options
        Passed to `entropy`.

    Returns
    -------
    Tensor, shape (N, K), for ``local`` (N, K, *spatial)
        At least 0.

    Raises
    ------
    ValueError
        As `entropy`, and for an unknown normalization.
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"unknown normalize {normalize!r}; choose one of sum, range, softmax or null")
    weights = (find or entropy)(x, **options)
    if invert:
        largest = _largest(x.shape[2:], **options).to(weights)
        weights = without_rounding(largest - weights, largest)
    flat = weights.flatten(1)
    if normalize == "sum":
        flat = divide_or_zero(flat, flat.sum(1, keepdim=True))
    elif normalize == "range":
        flat = minmax(flat)
    elif normalize == "softmax":
        flat = flat.softmax(1)
    return flat.view_as(weights)


def _shared(once: Once | None, name: str, x: Tensor, **options: Any) -> Tensor:
    """Entropies of a layer's tensor `name`, computed once for all methods; `local`'s are too large to keep."""
    find = partial(entropy, x, **options)
    return find() if once is None or options["estimator"] == "local" else once((name, *sorted(options.items())), find)


def _largest(
    spatial: torch.Size, *, estimator: str = "histogram", bins: int = 256, base: float = 2.0, radius: int = 2
) -> Tensor:
    """Largest possible entropy: of as many levels or equal shares as possible; for ``local`` one per position."""
    count = estimators.neighbours(spatial, radius) if estimator == "local" else torch.tensor(math.prod(spatial))
    if estimator in ("histogram", "local"):
        count = count.clamp(max=bins)
    return count.double().log() / math.log(base)


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
        At least 0. A constant channel has 0; by ``magnitude`` (unless it is zero) and ``softmax`` log Z, the maximum.
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
    finite = None  # all are, almost always: one look at the whole is seven times faster than one at each row
    if rows.numel() and not (rows.amax() - rows.amin()).isfinite():
        finite = (rows.amax(1) - rows.amin(1)).isfinite()
        rows = rows.where(finite[:, None], 0)  # NaN has no level; set to NaN again below
    nats = _in_blocks(rows, x.shape[2:], estimator, bins, radius)
    if finite is not None:
        nats[~finite] = torch.nan
    return (nats / math.log(base)).view(*x.shape[:2], *nats.shape[1:])


def _in_blocks(rows: Tensor, spatial: torch.Size, estimator: str, bins: int, radius: int) -> Tensor:
    """Entropies in nats of rows (R, Z), block by block, so that the temporaries stay small."""
    options: dict[str, Any] = {}
    per_row = max(rows.shape[1], bins)  # numbers that a row needs: its own or `histogram`'s counts
    if estimator == "histogram":
        options = {"bins": bins}
    elif estimator == "local":  # which keeps one comparison per distance between two neighbours
        options = {"spatial": spatial, "bins": bins, "radius": radius}
        per_row = int(len(estimators.offsets(len(spatial), radius)) / 26 * rows.shape[1])
    block = _CPU_BLOCK if rows.device.type == "cpu" else _DEVICE_BLOCK
    blocks = rows.split(max(1, block // max(1, per_row)))
    function = partial(getattr(estimators, estimator), **options)
    return torch.cat([function(part) for part in blocks]) if len(blocks) > 1 else function(rows)
