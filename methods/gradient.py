"""CAM methods whose channel weights come from the gradient of the score."""

from __future__ import annotations

from torch import Tensor

from methods.common import divide_or_zero, weighted_sum, widen


def grad_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by the mean of their gradient.

    a_k = mean over positions of g_k; map = sum_k a_k A_k (Selvaraju et al., ICCV 2017, equations 1 and 2).

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)
        Activations of one layer and the gradient of the score with respect to them.

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map, before the ReLU.
    """
    acts, grads = widen(acts), widen(grads)
    return weighted_sum(grads.flatten(2).mean(2), acts)


def hirescam(acts: Tensor, grads: Tensor) -> Tensor:
    """HiResCAM: gradient times activation at each position, summed over channels.

    map = sum_k g_k A_k (Draelos and Carin, 2020, arXiv:2011.11293, equation 6).

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map. Over the positions it sums to the score minus bias terms for a piecewise linear network.
    """
    return weighted_sum(widen(grads), widen(acts))


def respond_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """Respond-CAM: channels weighted by the mean of their gradient where they are active.

    a_k = sum(g_k A_k) / sum(A_k); map = sum_k a_k A_k (Zhao et al., 2018, arXiv:1806.00102). A channel whose
    activations sum to 0 has no such weight and is left out. XGrad-CAM (Fu et al., BMVC 2020) is the same formula.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map. Its sum is sum(g A): the score minus bias terms for a piecewise linear network.
    """
    acts, grads = widen(acts), widen(grads)
    response = (grads * acts).flatten(2).sum(2)
    return weighted_sum(divide_or_zero(response, acts.flatten(2).sum(2)), acts)
