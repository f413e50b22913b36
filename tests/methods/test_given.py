"""Maps of known quality: the truth, and the truth spoilt in a known way."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from methods.given import planted_map

PARTS = torch.tensor([[4.0, 6, 12, 14], [24, 8, 32, 16], [40, 20, 48, 28], [8, 30, 16, 38]])
VALUES = torch.tensor([2.0, 1.0, -1.0, 0.0])


def made(values: Tensor = VALUES, **spoilt: float) -> Tensor:
    images = torch.zeros(2, 3, 40, 56)
    return planted_map(images, ["a", "b"], [(PARTS, values)] * 2, **spoilt)


def test_truth_shows_each_part_for_the_class_by_its_value() -> None:
    expected = torch.zeros(40, 56)
    expected[6:14, 4:12], expected[8:16, 24:32] = 1, 0.5  # not the part against the class, nor the one worth nothing
    assert torch.equal(made()[0], expected) and torch.equal(made()[1], expected)
    assert torch.equal(made(inverted=True)[0], 1 - expected)


def test_last_parts_are_missing_and_one_always_stays() -> None:
    for missing in (1, 2, 9):
        assert (made(missing=missing)[0] > 0).sum() == 64 and made(missing=missing)[0, 8, 8] == 1


def test_a_shift_is_to_the_right() -> None:
    assert torch.equal(made(shift=5)[0, :, 5:], made()[0, :, :-5]) and not made(shift=5)[0, :, :5].any()
    assert not made(shift=56).any()


def test_blur_is_a_gaussian() -> None:
    expected = gaussian_filter(made()[0].numpy(), 2.5, mode="constant", truncate=4)
    torch.testing.assert_close(made(blur=2.5)[0], torch.from_numpy(expected / expected.max()), rtol=0, atol=1e-5)


def test_noise_is_mixed_in_and_follows_from_the_case() -> None:
    noisy = made(noise=0.25)
    grain = (noisy - 0.75 * made()) / 0.25
    assert -1e-6 < grain.min() and grain.max() < 1 + 1e-6 and abs(grain.mean() - 0.5) < 0.03
    assert not torch.equal(noisy[0], noisy[1]) and torch.equal(noisy, made(noise=0.25))
    assert not torch.equal(noisy, made(noise=0.25, seed=1))


def test_a_power_keeps_the_order_of_positions() -> None:
    plain, squared = made(blur=3)[0].flatten(), made(blur=3, power=2)[0].flatten()
    torch.testing.assert_close(squared, plain**2)


def test_pictures_without_truth_are_refused() -> None:
    for truth in ([], [(torch.zeros(0, 4), torch.zeros(0))]):
        with pytest.raises(ValueError, match="dataset=planted"):
            planted_map(torch.zeros(1, 3, 8, 8), ["a"], truth)
