"""The scorer: values, batches, smaller ones where memory runs out, padding, bfloat16, equal maps scored once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bench.maps.scorer import Scorer, clock


class Watched(nn.Module):
    """A small network that notes the size of every batch and runs out of memory above `limit` images."""

    def __init__(self, limit: int = 1000) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 7))
        self.limit, self.sizes = limit, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("a test's")
        self.sizes.append(len(images))
        return self.body(images)


IMAGES = torch.randn(21, 3, 8, 8, generator=torch.Generator().manual_seed(1))
CASES = torch.arange(21) % 3
TARGETS = [(0,), (1, 2), (6,)]


def expected(module: Watched) -> Tensor:
    probability = module.body(IMAGES).detach().softmax(1)
    return torch.stack([probability[i, list(TARGETS[i % 3])].sum() for i in range(21)])


def expected_logits(module: Watched) -> Tensor:
    logits = module.body(IMAGES).detach()
    return torch.stack([logits[i, list(TARGETS[i % 3])].exp().sum().log() for i in range(21)])


@pytest.mark.parametrize("size", [1, 4, 7, 21, 64])
def test_values_at_any_batch_size(size: int) -> None:
    module = Watched()
    score = Scorer(module, TARGETS, size)
    torch.testing.assert_close(score(IMAGES, CASES), expected(module))
    torch.testing.assert_close(score.logit(IMAGES, CASES), expected_logits(module))
    assert max(module.sizes) <= size and sum(module.sizes) == score.passes == 2 * 21
    assert not score(IMAGES, CASES).requires_grad
    assert score(IMAGES[:0], CASES[:0]).shape == (0,)


def test_halves_where_memory_runs_out_and_stays_there() -> None:
    module = Watched(limit=5)
    score = Scorer(module, TARGETS, 16)
    torch.testing.assert_close(score(IMAGES, CASES), expected(module))
    assert score.batch_size == 4 and score.passes == 21
    score(IMAGES, CASES)
    assert set(module.sizes) == {4, 1}


def test_one_image_that_does_not_fit_is_an_error_and_so_is_any_other() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Scorer(Watched(limit=0), TARGETS, 16)(IMAGES, CASES)
    with pytest.raises(RuntimeError, match="channels"):
        Scorer(Watched(), TARGETS, 16)(IMAGES[:, :2], CASES)


def test_after_an_error_the_scorer_still_works() -> None:
    module = Watched(limit=0)
    score = Scorer(module, TARGETS, 2)
    for ask in (partial(score, IMAGES, CASES), lambda: score.once("shared", partial(score, IMAGES, CASES))):
        with pytest.raises(torch.OutOfMemoryError):
            ask()
    module.limit = 1000
    torch.testing.assert_close(score.once("shared", partial(score, IMAGES, CASES)), expected(module))


def test_padding_keeps_one_batch_size_and_the_values() -> None:
    module = Watched()
    for size in (8, 64):
        score = Scorer(module, TARGETS, size, pad=True)
        torch.testing.assert_close(score(IMAGES, CASES), expected(module))
        assert set(module.sizes) == {size} and score.passes == 21  # padding is not counted
        module.sizes.clear()


def test_a_padded_batch_is_halved_from_its_whole_size() -> None:
    module = Watched(limit=10)
    score = Scorer(module, TARGETS, 16, pad=True)
    torch.testing.assert_close(score(IMAGES[:1], CASES[:1]), expected(module)[:1])
    assert score.batch_size == 8 and module.sizes == [8]


def test_bfloat16_is_near_and_not_equal() -> None:
    module = Watched()
    scores = Scorer(module, TARGETS, 8, bfloat16=True)(IMAGES, CASES)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected(module), rtol=0, atol=0.05)
    assert not torch.equal(scores, expected(module))


def test_what_is_shared_is_computed_once() -> None:
    score, calls = Scorer(Watched(), TARGETS, 16), []

    def shared() -> Tensor:
        calls.append(1)
        return score(IMAGES, CASES)

    first = score.once("shared", shared)
    assert score.once("shared", shared) is first and calls == [1]
    assert score.once("other", shared) is not first


class Maps:
    """A stand-in for a metric: it scores `number` images a case, which follow from the case's map."""

    def __init__(self, score: Scorer, number: int = 2) -> None:
        self.score, self.number, self.calls = score, number, list[list[int]]()

    def __call__(self, key: str, names: list[object] | None, *, shift: int = 0) -> Tensor:
        def measure(cases: Tensor) -> Tensor:
            self.calls.append(cases.tolist())
            clean = self.score.once("clean", lambda: self.score(IMAGES[:3], torch.arange(3)))
            assert clean.shape == (3,)
            images = IMAGES[(3 * torch.arange(self.number) + cases[:, None] + shift).flatten()]
            return self.score(images, cases.repeat_interleave(self.number)).view(len(cases), self.number)

        self.score.maps = names
        return self.score.per_map(key, measure)


def test_equal_maps_are_scored_once_and_the_saving_is_counted() -> None:
    module = Watched()
    score = Scorer(module, TARGETS, 16)
    metric = Maps(score)
    plain = expected(module)[[0, 3, 1, 4, 2, 5]].view(3, 2)
    torch.testing.assert_close(metric("deletion", ["a", "b", "b"]), plain)
    assert metric.calls == [[0, 1, 2]]  # a name means something within its case only
    assert (score.passes, score.saved) == (3 + 6, 0)
    torch.testing.assert_close(metric("deletion", ["a", "b", "b"], shift=1), plain)  # not computed again
    assert metric.calls == [[0, 1, 2]] and (score.passes, score.saved) == (9, 6)
    mixed = metric("deletion", ["a", "new", "b"], shift=3)
    assert metric.calls[1:] == [[1]] and (score.passes, score.saved) == (9 + 2, 6 + 4)
    torch.testing.assert_close(mixed[[0, 2]], plain[[0, 2]])
    torch.testing.assert_close(mixed[1], expected(module)[[4, 7]])
    torch.testing.assert_close(metric("deletion", ["a", "b", "b"], shift=3), plain)
    metric("insertion", ["a", "b", "b"])  # another computation shares nothing
    assert metric.calls[2:] == [[0, 1, 2]] and (score.passes, score.saved) == (11 + 6, 10 + 6)


def test_without_names_every_map_is_scored() -> None:
    score = Scorer(Watched(), TARGETS, 16)
    metric = Maps(score)
    first = metric("deletion", None)
    assert torch.equal(metric("deletion", None), first)
    assert metric.calls == [[0, 1, 2]] * 2 and score.saved == 0


def test_an_error_under_per_map_leaves_no_half_result() -> None:
    score = Scorer(Watched(), TARGETS, 16)
    score.maps = ["a", "b", "c"]

    def fails(_cases: Tensor) -> Tensor:
        raise ValueError("a metric's")

    with pytest.raises(ValueError, match="a metric's"):
        score.per_map("x", fails)
    torch.testing.assert_close(score.per_map("x", lambda cases: cases * 1.0), torch.tensor([0.0, 1, 2]))
    with pytest.raises(ValueError, match="shorter|longer"):
        score.per_map("y", lambda cases: torch.zeros(len(cases) + 1))


@pytest.mark.parametrize("read", [Scorer.__call__, Scorer.logit])
def test_gradient_mode_is_the_callers_again(read: Callable) -> None:
    with torch.enable_grad():
        read(Scorer(Watched(), TARGETS, 8), IMAGES, CASES)
        assert torch.is_grad_enabled()


def test_the_clock_runs_forward() -> None:
    began = clock(torch.device("cpu"))
    assert clock(torch.device("cpu")) >= began


@pytest.mark.parametrize("probability", ["softmax", "sigmoid", "none"])
def test_whether_the_class_is_on_top(probability: str) -> None:
    module = Watched()
    score = Scorer(module, TARGETS, 4, probability=probability)
    result = score.with_top(IMAGES, CASES)
    best = module.body(IMAGES).argmax(1).tolist()
    assert result[:, 1].tolist() == [float(top in TARGETS[i % 3]) for i, top in enumerate(best)]
    assert 0 < result[:, 1].mean() < 1 and score.passes == 21
    torch.testing.assert_close(result[:, 0], score(IMAGES, CASES))
