"""Methods whose channel weights need more gradients than the score's on the image itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .common import divide_or_zero, minmax, weighted_sum, widen
from .multipass import check_least, check_rank, explained, normal_noise, resize


def smooth_grad_cam_pp(
    acts: Tensor,
    images: Tensor,
    ids: Sequence[str],
    *,
    gradient: Callable[..., tuple[Tensor, Tensor, Tensor]],
    samples: int = 10,
    sigma: float = 0.3,
    seed: int = 0,
) -> Tensor:
    """Smooth Grad-CAM++: Grad-CAM++ with powers of the gradient averaged over noisy images.

    D_p = mean over samples of g^p on X + sigma n; alpha = D_2 / (2 D_2 + sum(A_k) D_3), 0 where the denominator is 0;
    a_k = sum(alpha relu(D_1)); map = sum_k a_k A_k (Omeiza et al., 2019, arXiv:1908.01224). The paper prints D_1 as the
    numerator; with D_2 it is Grad-CAM++ without noise, as intended. Passes per image: `samples` forward and backward.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
        Of the image without noise.
    images : Tensor, shape (N, C, *size)
    ids : sequence of N str
        Case ids; with `seed` they fix the noise.
    gradient : callable
        ``gradient(images, cases) -> (acts, grads, logits)`` at the layer.
    samples : int
    sigma : float
        Standard deviation of the noise, in units of the normalized input.
    seed : int

    Returns
    -------
    Tensor, shape (N, *spatial)

    Raises
    ------
    ValueError
        No sample, or a negative `sigma`.
    """
    check_least(1, samples=samples)
    check_least(0, sigma=sigma)
    acts = widen(acts)
    everything = torch.arange(len(images), device=images.device)
    first, second, third = (torch.zeros_like(acts) for _ in range(3))
    for noise in normal_noise(ids, samples, images, seed):
        grads = widen(gradient(images + sigma * noise, everything)[1])
        first += grads / samples
        second += grads.square() / samples
        third += grads.pow(3) / samples
    total = acts.flatten(2).sum(2).view(*acts.shape[:2], *[1] * (acts.ndim - 2))
    alpha = divide_or_zero(second, 2 * second + total * third)
    return weighted_sum((alpha * first.relu()).flatten(2).sum(2), acts)


def finer_cam(
    acts: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    forward_from: Callable[..., Tensor],
    references: int = 3,
    gamma: float = 1.0,
    weighting: str = "probability",
) -> Tensor:
    """Finer-CAM: Grad-CAM of the difference between the class and the classes most like it.

    F = sum_d w_d (y - gamma y_d) over the `references` other outputs whose logits are nearest to y; w_d is
    1 / references (``uniform``) or the probability p_d over their sum (``probability``, the authors' default, which is
    differentiated too); a_k = mean of dF / dA_k; map = sum_k a_k A_k (Zhang et al., CVPR 2025, arXiv:2501.11309).
    Passes per image: one forward and one backward.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    targets : sequence of N tuples of int
        Output indices of each case's class; members of a group are never references.
    forward_from : callable
        ``forward_from(acts, cases) -> (n, C)``: logits with the layer's output replaced, with a graph back to `acts`.
    references : int
        Fewer are taken where the network has fewer other outputs.
    gamma : float
        Strength of the comparison; 0 gives Grad-CAM.
    weighting : {"probability", "uniform"}

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map, before the ReLU.

    Raises
    ------
    ValueError
        No other output, no reference, or an unknown `weighting`.
    """
    check_least(1, references=references)
    if weighting not in ("probability", "uniform"):
        raise ValueError(f"weighting={weighting} is unknown; it takes probability, uniform")

    def difference(logits: Tensor) -> Tensor:
        return explained(logits, targets) - gamma * _nearest_others(logits, targets, references, weighting)

    leaf, score = _score_from(acts, forward_from, difference)
    grads = torch.autograd.grad(score.sum(), leaf)[0]
    return weighted_sum(widen(grads).flatten(2).mean(2), widen(acts))


def _nearest_others(logits: Tensor, targets: Sequence[tuple[int, ...]], references: int, weighting: str) -> Tensor:
    """Weighted mean (N,) of the outputs outside the target whose logits are nearest to it, see `finer_cam`."""
    if any(len(set(target)) >= logits.shape[1] for target in targets):
        raise ValueError("needs a network with another output than the class to compare it with")
    distance = (logits - explained(logits, targets)[:, None]).abs().detach()
    for row, target in zip(distance, targets, strict=True):
        row[list(target)] = torch.inf
    distance, nearest = distance.topk(min(references, logits.shape[1] - 1), dim=1, largest=False)
    near = logits.gather(1, nearest)
    rank = near if weighting == "probability" else torch.zeros_like(near)
    weights = rank.masked_fill(distance == torch.inf, -torch.inf).softmax(1)  # a group's own members may be left over
    return (weights * near).sum(1)


def shapley_cam(
    acts: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    forward_from: Callable[..., Tensor],
    utility: str = "rest",
) -> Tensor:
    """ShapleyCAM: Grad-CAM corrected by the curvature of the score.

    a_k = mean of (g - H A / 2)_k, H the second derivative of the utility by the layer's activations, g its gradient
    (Cai, 2025, arXiv:2501.06261); map = sum_k a_k A_k. The utility is the paper's ReST, y + log p (``rest``), or the
    logit (``logit``, pytorch-grad-cam's default), whose H is 0 for a piecewise linear network: then this is Grad-CAM.
    Passes per image: one forward, one backward and one backward of that.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    targets : sequence of N tuples of int
    forward_from : callable
        As in `finer_cam`.
    utility : {"rest", "logit"}

    Returns
    -------
    Tensor, shape (N, *spatial)
        Signed map, before the ReLU.

    Raises
    ------
    ValueError
        An unknown `utility`.
    """
    if utility not in ("rest", "logit"):
        raise ValueError(f"utility={utility} is unknown; it takes rest, logit")

    def value(logits: Tensor) -> Tensor:
        own = explained(logits, targets)
        return own if utility == "logit" else 2 * own - logits.logsumexp(1)

    leaf, score = _score_from(acts, forward_from, value)
    grads = torch.autograd.grad(score.sum(), leaf, create_graph=True)[0]
    curved = torch.zeros_like(acts)
    if grads.requires_grad:  # the gradient of a linear function has no graph
        product = torch.autograd.grad((grads * acts.detach()).sum(), leaf, allow_unused=True)[0]
        curved = curved if product is None else product
    weights = (widen(grads.detach()) - widen(curved) / 2).flatten(2).mean(2)
    return weighted_sum(weights, widen(acts))


def _score_from(
    acts: Tensor, forward_from: Callable[..., Tensor], read: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Give the activations as a leaf, and ``read(logits)`` with a graph back to them."""
    leaf = acts.detach().clone().requires_grad_()
    with torch.enable_grad():
        return leaf, read(forward_from(leaf, torch.arange(len(acts), device=acts.device)))


def opti_cam(
    acts: Tensor,
    images: Tensor,
    targets: Sequence[tuple[int, ...]],
    *,
    logits: Callable[[Tensor, Tensor], Tensor],
    steps: int = 50,
    rate: float = 0.1,
) -> Tensor:
    """Opti-CAM: the weighted mean of channels that, as a mask, scores highest.

    map = sum_k softmax(u)_k A_k; u starts equal and climbs the logit of X n(up(map)) by Adam, n stretching to 0 .. 1
    (Zhang et al., Computer Vision and Image Understanding 2024, arXiv:2301.07002; rate and steps of the authors' code,
    without its stop, which looks at the whole batch). A constant channel, which cannot change the mask, gets no weight.
    Passes per image: `steps` forward and backward.

    Parameters
    ----------
    acts : Tensor, shape (N, K, *spatial)
    images : Tensor, shape (N, C, *size)
    targets : sequence of N tuples of int
    logits : callable
        ``logits(images, cases) -> (n, C)`` with a graph back to the images.
    steps : int
    rate : float
        Adam's learning rate.

    Returns
    -------
    Tensor, shape (N, *spatial)
        At least 0 where the channels are.

    Raises
    ------
    ValueError
        Fewer than 0 steps.
    """
    check_least(0, steps=steps)
    check_rank(acts, images)
    acts = widen(acts)
    flat = acts.flatten(2)
    dead = ~(flat.amax(2) > flat.amin(2))
    everything = torch.arange(len(acts), device=acts.device)
    u = torch.zeros_like(flat[:, :, 0], requires_grad=True)
    optimizer = torch.optim.Adam([u], lr=rate)
    with torch.enable_grad():
        for _ in range(steps):
            masks = minmax(resize(_mixture(u, dead, acts), images.shape[2:], align_corners=False))
            masked = images.detach() * masks.to(images.dtype)[:, None]
            score = explained(logits(masked, everything), targets)
            # backward() would leave gradients in the network's parameters
            u.grad = -torch.autograd.grad(score.sum(), u)[0]
            optimizer.step()
    return _mixture(u.detach(), dead, acts)


def _mixture(u: Tensor, dead: Tensor, acts: Tensor) -> Tensor:
    weights = u.masked_fill(dead, torch.finfo(u.dtype).min).softmax(1)
    return weighted_sum(weights, acts)
