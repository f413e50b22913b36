"""Controls: maps that need no network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.filters import sobel

from methods.control import center, edges, random, uniform


def images(n=3, size=(12, 17), channels=3):
    return torch.randn(n, channels, *size, generator=torch.Generator().manual_seed(0))


def test_random_follows_from_seed_and_id_alone():
    maps = random(["a", "b", "c"], images())
    assert maps.shape == (3, 12, 17)
    assert torch.equal(random(["c"], images(1))[0], maps[2])
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(random(["a"], images(1), seed=1)[0], maps[0])


def test_random_is_the_same_in_another_process():
    code = "import torch; from methods.control import random; print(random(['x/1'], torch.zeros(1, 1, 2, 2)).tolist())"
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == f"{random(['x/1'], torch.zeros(1, 1, 2, 2)).tolist()}\n"


def test_random_is_uniform():
    values = random(["a"], images(1, (200, 200))).flatten()
    assert 0 <= values.min() and values.max() < 1
    share = torch.histc(values, 10, 0, 1) / len(values)
    assert (share - 0.1).abs().max() < 0.01


@pytest.mark.parametrize("size", [(12, 17), (7, 7), (224, 224), (4, 5, 6)])
def test_center_is_symmetric_and_falls_away_from_the_middle(size):
    bump = center(images(2, size))
    assert bump.shape == (2, *size)
    for axis in range(1, bump.ndim):
        assert torch.equal(bump, bump.flip(axis))
    middle = [slice((s - 1) // 2, s // 2 + 1) for s in size]
    peak = torch.zeros(size, dtype=torch.bool)
    peak[tuple(middle)] = True
    assert torch.equal(bump[0] == bump.max(), peak)
    line = bump[(0, slice(None), *[s // 2 for s in size[1:]])]
    assert (line.diff()[size[0] // 2 :] < 0).all()
    assert bump.min() > 0


def test_center_has_the_stated_width():
    bump = center(images(1, (1, 1000)), sigma=0.25)[0, 0]
    # one standard deviation, 250 pixels, from the middle at 500: pixel 749 covers 749 to 750, its centre 749.5
    assert bump[749].item() == pytest.approx(np.exp(-((249.5 / 250) ** 2) / 2), rel=1e-6)


@pytest.mark.parametrize("size", [(12, 17), (6, 7, 8), (30,)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_edges_are_skimages_sobel(size, channels):
    x = images(2, size, channels).double()
    weights = np.array([0.299, 0.587, 0.114]) if channels == 3 else np.full(channels, 1 / channels)
    expected = [np.abs(sobel(np.tensordot(weights, case.numpy(), 1))) for case in x]  # signed for one axis
    np.testing.assert_allclose(edges(x), expected, atol=1e-6)


def test_uniform():
    assert torch.equal(uniform(images(2, (4, 5, 6))), torch.ones(2, 4, 5, 6))
