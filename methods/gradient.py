"""CAM methods whose channel weights come from the gradient of the score."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import divide_or_zero, first_component, minmax, orient, weighted_sum, widen


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

    map = sum_k g_k A_k (Draelos and Carin, 2020, arXiv:2011.11293).

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


def xgrad_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """XGrad-CAM: the same formula as `respond_cam`, under its later name.

    a_k = sum(g_k A_k / sum(A_k)); map = sum_k a_k A_k (Fu et al., BMVC 2020, arXiv:2008.02312).

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map, before the ReLU.
    """
    return respond_cam(acts, grads)


def grad_cam_pp(acts: Tensor, grads: Tensor) -> Tensor:
    """Grad-CAM++: positive gradients, each weighted so that every occurrence of the class counts.

    a_k = sum(alpha relu(g_k)) with alpha = g_k^2 / (2 g_k^2 + sum(A_k) g_k^3), 0 where the denominator is 0;
    map = sum_k a_k A_k (Chattopadhay et al., WACV 2018, arXiv:1710.11063, equation 19). Where g > 0, alpha is
    1 / (2 + sum(A_k) g). It is computed in that form: no square underflows, and no epsilon outweighs real gradients.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        At least 0 where the activations are. It depends on the unit of the score: alpha falls as g grows.
    """
    acts, grads = widen(acts), widen(grads)
    positive, total = grads.flatten(2).relu(), acts.flatten(2).sum(2, keepdim=True)
    denominator = torch.addcmul(acts.new_tensor(2), positive, total)
    if (total < 0).any():  # otherwise it is at least 2, and three passes over the layer are saved
        positive.masked_fill_(denominator == 0, 0)
        denominator.masked_fill_(denominator == 0, 1)
    return weighted_sum(positive.div_(denominator).sum(2), acts)


def layer_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """LayerCAM: positive gradient times activation at each position.

    map = sum_k relu(g_k) A_k (Jiang et al., IEEE Transactions on Image Processing, 2021).

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
    """
    return weighted_sum(widen(grads).relu(), widen(acts))


def grad_cam_elementwise(acts: Tensor, grads: Tensor) -> Tensor:
    """Element-wise Grad-CAM: positive products of gradient and activation.

    map = sum_k relu(g_k A_k), as pytorch-grad-cam defines it; `layer_cam` where no activation is negative.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        At least 0.
    """
    return (widen(grads) * widen(acts)).relu_().sum(1)


def eigen_grad_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """Eigen-Grad-CAM: first principal component of gradient times activation.

    As `eigen_cam` on g A (pytorch-grad-cam), which makes it class-discriminative.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed so that it correlates positively with `activation_sum`.
    """
    acts = widen(acts)
    return orient(first_component(widen(grads) * acts), acts)


def seg_eigen_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """Seg-Eigen-CAM: first principal component of absolute gradient times activation.

    Chung and Ying, Applied Sciences 2025, 15(13), 7562, equations 10 to 13.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        The value farthest from 0 is positive; if two are equally far, the sign is that of `eigen_cam`.
    """
    acts = widen(acts)
    maps = orient(first_component(widen(grads).abs() * acts), acts)
    flat = maps.flatten(1)
    flip = flat.amin(1).abs() > flat.amax(1).abs() * (1 + 1e-5)  # with two positions, both are equally far
    return maps * torch.where(flip, -1, 1).view(-1, *[1] * (maps.ndim - 1))


def refine_cam(acts: Tensor, grads: Tensor) -> Tensor:
    """RefineCAM: product over layers of Grad-CAM++ maps, each stretched to 0 .. 1; this is one layer's factor.

    n(M) = (M - min M) / (max M - min M) of M = relu(Grad-CAM++ map). The run upsamples its layers' factors linearly and
    multiplies them, so that only what every layer shows remains (Domeniconi et al., 2026, arXiv:2605.14641). Each is
    divided by its maximum first, which changes the product by one positive factor per picture only.

    Parameters
    ----------
    acts, grads : Tensor, shape (N, K, *spatial)

    Returns
    -------
    Tensor, shape (N, *spatial)
        In [0, 1]; a constant map becomes 0 everywhere, and so does the product.
    """
    return minmax(grad_cam_pp(acts, grads).relu())
