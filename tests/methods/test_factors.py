"""Deep feature factorization: the factors, and which of them is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.layers.factors import dff, factorize


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def error(x: torch.Tensor, factors: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Relative error (N,) of the product of the factors."""
    columns, places = factors
    return (x - columns.mT @ places).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)


def test_each_step_is_the_plain_one() -> None:
    """One concept after the other gets its best value, by loops over numbers; from the parts of NumPy's SVD."""
    x = drawn(1, 7, 11)
    ours = factorize(x, 3, sweeps=2)
    matrix = x[0].numpy()
    left, values, right = np.linalg.svd(matrix)
    w, h = np.zeros((7, 3)), np.zeros((3, 11))
    for c in range(3):
        u, v = max(
            ((np.maximum(s * left[:, c], 0), np.maximum(s * right[c], 0)) for s in (1, -1)),
            key=lambda pair: np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]),
        )
        size = np.sqrt(values[c] * np.linalg.norm(u) * np.linalg.norm(v))
        w[:, c], h[c] = size * u / np.linalg.norm(u), size * v / np.linalg.norm(v)
    for _ in range(2):
        for c in range(3):
            for k in range(7):
                others = matrix[k] - sum(w[k, o] * h[o] for o in range(3) if o != c)
                w[k, c] = max(0, (others * h[c]).sum() / (h[c] ** 2).sum())
        for c in range(3):
            for z in range(11):
                others = matrix[:, z] - sum(w[:, o] * h[o, z] for o in range(3) if o != c)
                h[c, z] = max(0, (others * w[:, c]).sum() / (w[:, c] ** 2).sum())
    np.testing.assert_allclose(ours[0][0].T.numpy(), w, atol=1e-12)
    np.testing.assert_allclose(ours[1][0].numpy(), h, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_factors_are_scikit_learns() -> None:
    """Its coordinate descent from the same start takes the same steps."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = drawn(1, 20, 30, seed=1)
    start = [part[0].numpy() for part in factorize(x, 4, sweeps=0)]
    model = decomposition.NMF(4, init="custom", solver="cd", shuffle=False, tol=0, max_iter=25)
    columns = model.fit_transform(x[0].numpy(), W=start[0].T.copy(), H=start[1].copy())
    ours = factorize(x, 4, sweeps=25)
    np.testing.assert_allclose(ours[0][0].T.numpy(), columns, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours[1][0].numpy(), model.components_, rtol=1e-6, atol=1e-9)


def test_the_error_never_rises_and_ends_where_no_step_helps() -> None:
    x = drawn(3, 15, 24, seed=2)
    errors = torch.stack([error(x, factorize(x, 4, sweeps)) for sweeps in range(12)])
    assert (errors.diff(dim=0) <= 1e-14).all() and (errors[0] > errors[-1] + 1e-3).all()
    columns, places = factorize(x, 4, sweeps=1000)
    for own, slope in ((columns, places @ (columns.mT @ places - x).mT), (places, columns @ (columns.mT @ places - x))):
        assert (own >= 0).all() and (slope > -1e-7).all()  # the conditions of Karush, Kuhn and Tucker
        assert ((own * slope).abs() < 1e-7).all()


def test_activations_of_few_concepts_are_factorized_exactly() -> None:
    one = drawn(2, 9, 1) @ drawn(2, 1, 12, seed=1)
    assert (error(one, factorize(one, 5)) < 1e-14).all()
    assert not factorize(one, 5)[0][:, 1:].any()  # no concept is made of rounding
    apart = torch.zeros(1, 6, 10, dtype=torch.float64)  # two concepts that share neither channels nor positions
    apart[:, :2, :3], apart[:, 3:, 5:] = drawn(1, 2, 1) @ drawn(1, 1, 3), 2 * drawn(1, 3, 1) @ drawn(1, 1, 5)
    assert (error(apart, factorize(apart, 2)) < 1e-14).all()
    columns, places = drawn(1, 12, 2, seed=1), drawn(1, 2, 30, seed=2)
    columns[:, :4, 0] = columns[:, 4:8, 1] = places[:, 0, :10] = places[:, 1, 10:20] = 0  # so that no others fit
    assert (error(columns @ places, factorize(columns @ places, 2, sweeps=500)) < 1e-9).all()
    assert (error(columns @ places, factorize(columns @ places, 1, sweeps=500)) > 0.1).all()


def layer() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations of two concepts apart, (1, 6, 4, 5), the second's part of their sum, and gradients that want it."""
    first, second = torch.zeros(2, 1, 6, 4, 5, dtype=torch.float64)
    first[:, :3, :2] = drawn(1, 3, 1, 1) * drawn(1, 1, 2, 5) * 5
    second[:, 3:, 2:] = drawn(1, 3, 1, 1, seed=1) * drawn(1, 1, 2, 5, seed=1)
    grads = torch.ones(1, 6, 4, 5, dtype=torch.float64)
    grads[:, :3] = 0.01
    return first + second, second.sum(1), grads


def test_dff_shows_the_concept_that_speaks_for_the_class() -> None:
    acts, second, grads = layer()
    torch.testing.assert_close(dff(acts, grads, concepts=2), second)
    torch.testing.assert_close(dff(acts, grads.flip(1), concepts=2), acts.sum(1) - second)
    assert not dff(acts, -grads, concepts=2).any()
    torch.testing.assert_close(dff(acts, grads, concepts=5), second)  # there are no more


def test_dff_takes_the_concept_with_the_largest_contribution() -> None:
    """Among concepts that overlap, by loops over all of them."""
    acts, grads = drawn(3, 8, 5, 6) - 0.2, drawn(3, 8, 5, 6, seed=3) - 0.4
    ours = dff(acts, grads, concepts=3)
    for n in range(3):
        columns, places = (part[0] for part in factorize(acts[n : n + 1].clamp(min=0).flatten(2), 3))
        parts = [torch.outer(w, h).view(8, 5, 6) for w, h in zip(columns, places, strict=True)]
        worth = [float((part * grads[n]).sum()) for part in parts]
        assert max(worth) > 0
        torch.testing.assert_close(ours[n], parts[int(np.argmax(worth))].sum(0))


def test_dff_knows_neither_places_nor_units() -> None:
    acts, grads = drawn(2, 8, 5, 6), drawn(2, 8, 5, 6, seed=3) - 0.4
    heatmap = dff(acts, grads)
    torch.testing.assert_close(dff(acts.flip(3), grads.flip(3)), heatmap.flip(2))
    torch.testing.assert_close(dff(acts.mT, grads.mT), heatmap.mT)
    torch.testing.assert_close(dff(acts * 1e-20, grads) * 1e20, heatmap)
    torch.testing.assert_close(dff(acts[:, :, None], grads[:, :, None])[:, 0], heatmap)


def test_dff_needs_a_concept() -> None:
    with pytest.raises(ValueError, match="concepts=0 must be at least 1"):
        dff(drawn(1, 2, 3, 3), drawn(1, 2, 3, 3), concepts=0)
