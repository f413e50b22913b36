"""CAM methods that look at activations only (`cam` also at the classifier's weights)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .common import first_component, orient, top_eigenpair, weighted_sum, widen

KERNELS = ("sigmoid", "rbf", "poly")


def activation_sum(acts: Tensor) -> Tensor:
    """Sum of the activations over channels: the control for every sum-type map.

    map = sum_k A_k; LaFAM (Karjauv and Albayrak, 2024, arXiv:2407.06321).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        Not class-discriminative. A sum, where LaFAM takes the mean: the same map up to the factor K.
    """
    return widen(acts).sum(1)


def cam(acts: Tensor, targets: Sequence[tuple[int, ...]], *, head: Tensor | None, outputs: Tensor) -> Tensor:
    """CAM: channels weighted by the classifier's weights for the class.

    map = sum_k w_ck A_k (Zhou et al., CVPR 2016, arXiv:1512.04150, equation 2). For a network that ends in global
    average pooling and one linear layer it is Grad-CAM of the last feature map times the number of positions.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
        The feature map whose averages go into the linear layer.
    targets : sequence of N tuples of int
        Output indices of each case's class. The score of a group is the logsumexp of its logits, so its weights are its
        members', averaged by the softmax of their logits within the group.
    head : Tensor, shape (classes, K), or None
        Weight of the linear layer; None where the network does not end in average pooling and a linear layer.
    outputs : Tensor, shape (N, classes)
        Logits of the images.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map, before the ReLU.

    Raises
    ------
    ValueError
        The network has no such head, or the layer is not the one in front of it.
    """
    return weighted_sum(_class_weights(acts, targets, head, outputs), widen(acts))


def lift_cam(acts: Tensor, targets: Sequence[tuple[int, ...]], *, head: Tensor | None, outputs: Tensor) -> Tensor:
    """LIFT-CAM: channels weighted by what they contribute to the score, by DeepLIFT from activations of 0.

    a_k = DeepLIFT's contributions of A_k, summed over positions; map = sum_k a_k A_k (Jung and Oh, ICCV 2021,
    arXiv:2102.05228, and the authors' code). In front of global average pooling and one linear layer, the only place
    where it is offered here, they are exactly w_ck mean(A_k): elsewhere they depend on how a network is written down.

    Parameters
    ----------
    acts, targets, head, outputs
        As in `cam`, with the same weights w for a group.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map, before the ReLU. The weights a_k sum to the score minus the linear layer's bias.

    Raises
    ------
    ValueError
        As `cam`.
    """
    weights = _class_weights(acts, targets, head, outputs)
    acts = widen(acts)
    return weighted_sum(weights * acts.flatten(2).mean(2), acts)


def _class_weights(acts: Tensor, targets: Sequence[tuple[int, ...]], head: Tensor | None, outputs: Tensor) -> Tensor:
    """Weights (N, K) of the linear layer for each case's class; ValueError where it does not follow this layer."""
    if head is None:
        raise ValueError(
            "needs the last feature map of a network that ends in global average pooling and one linear layer; "
            "choose that layer or take grad_cam"
        )
    if head.shape[1] != acts.shape[1]:
        raise ValueError(
            f"the linear layer takes {head.shape[1]} features, this layer has {acts.shape[1]} channels; "
            "choose the last layer before the pooling"
        )
    head, outputs = head.to(widen(acts)), outputs.to(widen(acts))
    weights = [row[list(group)].softmax(0) @ head[list(group)] for row, group in zip(outputs, targets, strict=True)]
    return torch.stack(weights)


def eigen_cam(acts: Tensor, *, center: bool = True) -> Tensor:
    """Eigen-CAM: activations projected on their first principal component.

    map = A v, v the first right singular vector of the positions x channels matrix A (Muhammad and Yeasin, IJCNN 2020,
    arXiv:2008.00299).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    center : bool
        Subtract each channel's mean first, as principal component analysis does and pytorch-grad-cam, too; the paper's
        formula does not (False).

    Returns
    -------
    Tensor, shape (N, *spatial)
        Not class-discriminative. The formula leaves its sign open: it is chosen to correlate positively with
        `activation_sum`.
    """
    acts = widen(acts)
    return orient(first_component(acts, center=center), acts)


def kpca_cam(
    acts: Tensor,
    *,
    kernel: str = "sigmoid",
    gamma: float | None = None,
    degree: int = 3,
    coef0: float = 1.0,
    max_positions: int = 2048,
) -> Tensor:
    """KPCA-CAM: first kernel principal component of the positions' channel vectors.

    map = sqrt(l) u, l and u the largest eigenvalue and its eigenvector of the centred kernel matrix (Karmani et al.,
    2024, arXiv:2410.00267; kernels and defaults as in scikit-learn's KernelPCA).

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
        Centred per channel first; x, y below are two positions' vectors.
    kernel : str
        ``sigmoid`` tanh(gamma x.y + coef0), ``rbf`` exp(-gamma |x - y|^2), ``poly`` (gamma x.y + coef0)^degree.
    gamma : float or None
        None: 1 / K. Dead channels count in K.
    degree : int
    coef0 : float
    max_positions : int
        Larger layers are refused: the kernel has positions^2 entries and its eigenvector costs positions^3.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Not class-discriminative; sign as in `eigen_cam`.

    Raises
    ------
    ValueError
        Unknown kernel, or a layer with more than `max_positions` positions.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; choose one of {', '.join(KERNELS)}")
    positions = math.prod(acts.shape[2:])
    if positions > max_positions:
        raise ValueError(
            f"a layer of {' x '.join(map(str, acts.shape[2:]))} needs a {positions} x {positions} kernel per image "
            f"({positions**2 * 8 / 2**20:.0f} MiB); choose a layer of at most max_positions={max_positions} positions"
        )
    acts = widen(acts)
    maps = []
    for case in acts.flatten(2):  # one kernel in memory at a time
        if case.isfinite().all():
            x = (case - case.mean(1, keepdim=True)).double().mT
            gram = _gram(x, kernel, gamma or 1 / len(case), degree, coef0)
            maps.append(_kernel_component(gram).to(acts.dtype))
        else:
            maps.append(acts.new_full((positions,), torch.nan))
    return orient(torch.stack(maps).view(len(acts), *acts.shape[2:]), acts)


def _gram(x: Tensor, kernel: str, gamma: float, degree: int, coef0: float) -> Tensor:
    """Kernel (Z, Z) of the rows of x (Z, K)."""
    product = x @ x.mT
    if kernel == "sigmoid":
        return torch.tanh(gamma * product + coef0)
    if kernel == "poly":
        return (gamma * product + coef0) ** degree
    squares = product.diagonal()
    return torch.exp(-gamma * (squares[:, None] + squares - 2 * product).clamp_min(0))


def _kernel_component(gram: Tensor) -> Tensor:
    """First component (Z,) of a kernel (Z, Z), which is centred here; 0 where all positions are equal."""
    rounding = 16 * len(gram) * torch.finfo(gram.dtype).eps * gram.abs().amax()
    gram = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    value, vector = top_eigenpair(gram[None])
    return value.where(value > rounding, 0).sqrt() * vector[0]


def fem(acts: Tensor, *, k: float = 2.0) -> Tensor:
    """FEM: where each channel is unusually strong, weighted by the channel's mean.

    map = sum_k mean(A_k) [A_k > mean(A_k) + k std(A_k)] (Fuad et al., IPTA 2020, hal-02963298). Gradient-free.
    pytorch-grad-cam weights the activations by the share of strong positions instead.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    k : float
        A position is strong if it is more than `k` (uncorrected) standard deviations above the channel's mean.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Not class-discriminative. A constant channel has no strong position.
    """
    rows = widen(acts).flatten(2)
    mean = rows.mean(2, keepdim=True)
    deviation = rows - mean
    excess = deviation - k * deviation.square().mean(2, keepdim=True).sqrt()
    # by more than rounding: one strong position out of five is exactly 2 deviations up
    strong = excess > deviation.abs_().mul_(16 * torch.finfo(rows.dtype).eps)
    total = weighted_sum(mean[..., 0], strong.to(rows.dtype))
    finite = rows.isfinite().flatten(1).all(1)
    return total.masked_fill(~finite[:, None], torch.nan).view(len(acts), *acts.shape[2:])
