"""The scorer: full batches, smaller ones where memory runs out, bfloat16, padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.scorer import Scorer
from metrics import faithfulness
from metrics.faithfulness import deletion, insertion
from metrics.road import road
from metrics.sensitivity import sensitivity_n


class Watched(nn.Module):
    """A small network that notes the size of every batch and runs out of memory above `limit` images."""

    def __init__(self, limit: int = 1000) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 7))
        self.limit, self.sizes = limit, []

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("a test's")
        self.sizes.append(len(images))
        return self.body(images)


IMAGES = torch.randn(21, 3, 8, 8, generator=torch.Generator().manual_seed(1))
CASES = torch.arange(21) % 3
TARGETS = [(0,), (1, 2), (6,)]


def expected(module: nn.Module) -> Tensor:
    probability = module(IMAGES).detach().softmax(1)
    return torch.stack([probability[i, list(TARGETS[i % 3])].sum() for i in range(21)])


def test_halves_where_memory_runs_out_and_stays_there() -> None:
    module = Watched(limit=5)
    score = Scorer(module, TARGETS, 16)
    found = score(IMAGES, CASES)
    assert score.batch_size == 4
    assert module.sizes == [4] * 5 + [1]
    module.limit = 1000
    torch.testing.assert_close(found, expected(module))


def test_one_image_that_does_not_fit_is_an_error_and_so_is_any_other() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(Watched(limit=0), TARGETS, 16)(IMAGES, CASES)
    with pytest.raises(RuntimeError, match="channels"):
        Scorer(Watched(), TARGETS, 16)(IMAGES[:, :2], CASES)


def test_padding_keeps_one_batch_size_and_the_values() -> None:
    module = Watched()
    found = Scorer(module, TARGETS, 8, pad=True)(IMAGES, CASES)
    assert module.sizes == [8, 8, 8]
    torch.testing.assert_close(found, expected(module))
    padded_small = Scorer(module, TARGETS, 64, pad=True)(IMAGES, CASES)
    assert module.sizes[-1] == 64
    torch.testing.assert_close(padded_small, expected(module))


def test_bfloat16_is_near_and_not_equal() -> None:
    module = Watched()
    found = Scorer(module, TARGETS, 8, bfloat16=True)(IMAGES, CASES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected(module), rtol=0, atol=0.05)
    assert not torch.equal(found, expected(module))


@pytest.mark.parametrize("metric", [deletion, insertion, road, sensitivity_n])
@pytest.mark.parametrize("size", [3, 4, 40])  # neither a power of two nor small beside what is composed at once
def test_batches_are_full_across_cases_and_pieces(
    metric: Callable[..., object], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Batch:
        images = IMAGES[:3]
        ids = ["a", "b", "c"]
        black = torch.zeros(3)

    monkeypatch.setitem(faithfulness.PIECE, "cpu", 40 * IMAGES[0].numel() + 1)
    module = Watched()
    metric(
        torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2)), Batch(), score=Scorer(module, TARGETS, size)
    )
    sizes = [found for found in module.sizes if found != 3 or size == 3]  # without the clean and fully perturbed images
    assert sizes and set(sizes[:-1]) <= {size} and sizes[-1] <= size
