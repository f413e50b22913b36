"""Scenes in float64, so that a slow reference may be compared to 1e-6."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metrics import ranking


@pytest.fixture
def scene(make_batch, make_scorer, network, maps, cams):
    """``scene((H, W), only=None)``: a batch for all adversarial and real maps and some CAMs, or for those given."""

    def build(size, only=None):
        named = maps(*size) | {f"cam {i}": m for i, m in enumerate(cams(2, *size, seed=7))}
        heatmaps = torch.stack(list(named.values())) if only is None else only
        batch = make_batch(size, n=len(heatmaps))
        batch.images, batch.black = batch.images.double(), batch.black.double()
        double = network.double()

        def probability(case, image):
            """Probability of a case's class on another image (C, H, W)."""
            with torch.no_grad():
                return double(image[None]).softmax(1)[0, batch.targets[case][0]].item()

        return SimpleNamespace(
            names=list(named),
            maps=heatmaps,
            batch=batch,
            network=double,
            scorer=lambda: make_scorer(double, batch.targets),
            probability=probability,
        )

    return build


@pytest.fixture
def sequence():
    """``sequence(heatmap, case)``: positions (y, x) from the highest to the lowest, ties in the case's own order."""

    def build(heatmap, case):
        height, width = heatmap.shape
        ties = {p: i for i, p in enumerate(ranking.order(torch.zeros(1, height, width), [case])[0].tolist())}
        values = heatmap.flatten().tolist()
        flat = sorted(range(height * width), key=lambda p: (-values[p], ties[p]))
        return [divmod(p, width) for p in flat]

    return build


@pytest.fixture
def solved():
    """``solved(image, missing)``: the image (C, H, W) with what is missing (H, W) imputed, numpy arrays."""
    return solve


def solve(image, missing):
    """Every missing pixel the weighted mean of its neighbours inside the picture: one dense system (C, H, W)."""
    height, width = missing.shape
    places = np.argwhere(missing).tolist()
    index = {tuple(place): i for i, place in enumerate(places)}
    result = image.copy()
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), len(image)))
    for i, (y, x) in enumerate(places):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width:
                    weight = 1 / 6 if dy == 0 or dx == 0 else 1 / 12
                    matrix[i, i] += weight
                    if (y + dy, x + dx) in index:
                        matrix[i, index[y + dy, x + dx]] -= weight
                    else:
                        right[i] += weight * image[:, y + dy, x + dx]
    if places:
        result[:, missing] = np.linalg.solve(matrix, right).T
    return result
