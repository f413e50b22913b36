"""The scorer: one queue of full batches, smaller ones where memory runs out, bfloat16, padding."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bench.maps import scorer
from bench.maps.scorer import Scorer, clock
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


class Batch:
    images = IMAGES[:3]
    ids = ["a", "b", "c"]
    black = torch.zeros(3)


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
    monkeypatch.setitem(faithfulness.PIECE, "cpu", 40 * IMAGES[0].numel() + 1)
    module = Watched()
    metric(
        torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2)), Batch(), score=Scorer(module, TARGETS, size)
    )
    sizes = [found for found in module.sizes if found != 3 or size == 3]  # without the clean and fully perturbed images
    assert sizes and set(sizes[:-1]) <= {size} and sizes[-1] <= size


def maps_of(seed: int) -> Tensor:
    return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [7, 64, 500])
def test_methods_and_metrics_fill_each_others_batches(size: int) -> None:
    def measure(score: Scorer, found: dict, metric: Callable, seed: int) -> None:
        more = {"cell": 2} if metric is sensitivity_n else {}
        found[seed, metric.__name__] = metric(maps_of(seed), Batch(), score=score, **more)

    module, alone, together = Watched(), {}, {}
    tasks = [(metric, seed) for seed in range(6) for metric in (deletion, insertion, road, sensitivity_n)]
    for metric, seed in tasks:  # as of six methods
        measure(Scorer(module, TARGETS, 7), alone, metric, seed)
    module.sizes.clear()
    score = Scorer(module, TARGETS, size)
    score.together(partial(measure, score, together, *task) for task in tasks)
    # What is shared is not waited for: clean, zero, blurred, sensitivity-n's sets. So beside these four only the last.
    assert len([found for found in module.sizes if found != size]) <= 4 + 1
    assert sum(module.sizes) == 3 * 3 + 3 * 100 + 6 * 3 * (27 + 27 + 2 * 9)
    assert together.keys() == alone.keys()
    for key, columns in alone.items():
        torch.testing.assert_close(together[key], columns, rtol=1e-5, atol=1e-6)


def test_a_function_begins_only_where_a_batch_is_not_full() -> None:
    began, module = [], Watched()
    score = Scorer(module, TARGETS, 10)

    def ask(number: int) -> None:
        began.append((number, len(module.sizes)))
        for _ in range(2):
            score(IMAGES, CASES)

    score.together(partial(ask, number) for number in range(3))
    # Two batches of the first function's 21 and one that the second's fill up, and so on.
    assert [number for number, _ in began] == [0, 1, 2]
    assert began[0][1] == 0 and began[1][1] == 2 and began[2][1] > 3
    assert set(module.sizes[: began[2][1]]) == {10} and sum(module.sizes) == 6 * 21


def test_memory_that_runs_out_in_the_queue_halves_the_batch_for_all() -> None:
    module, found = Watched(limit=5), {}
    score = Scorer(module, TARGETS, 16)

    def ask(number: int) -> None:
        found[number] = score(IMAGES[number:], CASES[number:])

    score.together(partial(ask, number) for number in range(4))
    assert score.batch_size == 4 and set(module.sizes[:-1]) == {4}
    module.limit = 1000
    for number in range(4):
        torch.testing.assert_close(found[number], expected(module)[number:])


def test_an_error_of_one_function_comes_out_and_frees_what_the_others_hold() -> None:
    score, held = Scorer(Watched(), TARGETS, 100), []

    def wait() -> None:
        images = IMAGES.clone()
        held.append(weakref.ref(images))
        score(images, CASES)
        raise AssertionError("it must not go on")

    def fail() -> None:
        raise ValueError("a metric's")

    with pytest.raises(ValueError, match="a metric's"):
        score.together([wait, wait, fail, wait])
    assert len(held) == 2 and not any(reference() is not None for reference in held)


def test_what_a_finished_function_held_is_freed() -> None:
    score, held, freed = Scorer(Watched(), TARGETS, 40), [], []

    def ask() -> None:
        freed.extend(reference() is None for reference in held)
        images = IMAGES.clone()
        held.append(weakref.ref(images))
        score(images, CASES)

    gc.disable()
    try:
        score.together([ask] * 5)
    finally:
        gc.enable()
    # The second's 21 images fill up the first's batch of 40; the third and the fourth begin for the next one.
    assert freed == [False] + [True, False] + [True, False, False] + [True, True, True, False]
    assert len(score(IMAGES, CASES)) == 21  # and nothing of them is left in the queue


def test_what_is_shared_is_computed_once_by_functions_that_wait_for_each_other() -> None:
    module, calls = Watched(), []
    score = Scorer(module, TARGETS, 16)

    def shared() -> Tensor:
        calls.append(1)
        return score(IMAGES, CASES)

    def ask() -> None:
        score(IMAGES[:5], CASES[:5])
        score.once("shared", shared)

    score.together([ask] * 4)
    assert calls == [1]
    # 4 x 5 wait: 16 of them go; the rest fill up the batches of the shared 21.
    assert module.sizes == [16, 16, 9]


def test_what_is_computed_at_once_may_finish_what_others_wait_for() -> None:
    score, found = Scorer(Watched(), TARGETS, 32), []

    def wait() -> None:
        found.append(score(IMAGES[:5], CASES[:5]))

    def share() -> None:
        found.append(score.once("shared", lambda: score(IMAGES, CASES)))

    score.together([wait, share])
    assert [len(scores) for scores in found] == [21, 5]
    assert score.model.sizes == [26]


def test_of_a_method_that_rests_two_want_the_map() -> None:
    module, calls, found = Watched(), [], []
    score = Scorer(module, TARGETS, 100)

    def native() -> Tensor:
        calls.append(1)
        return score(IMAGES, CASES)

    def want() -> None:
        found.append(score.once("map", native, rests=True))

    score.together([want, lambda: score(IMAGES[:9], CASES[:9]), want])
    assert calls == [1] and module.sizes == [30] and found[0] is found[1]


def test_of_a_map_that_fails_others_make_one() -> None:
    score, calls, found = Scorer(Watched(), TARGETS, 100), [], []

    def native() -> Tensor:
        calls.append(1)
        scores = score(IMAGES, CASES)
        if len(calls) == 1:
            raise ValueError("the first time")
        return scores

    def want() -> None:
        try:
            found.append(score.once("map", native, rests=True))
        except ValueError:
            found.append(None)

    score.together([want] * 4)
    assert len(calls) == 2 and found[0] is None and all(scores is found[1] for scores in found[1:])


def test_functions_that_rest_for_nothing_are_an_error_and_not_an_endless_loop() -> None:
    score = Scorer(Watched(), TARGETS, 100)
    with pytest.raises(RuntimeError, match="none of them does"):
        score.together([lambda: score.rest(lambda: False)])


def test_an_error_in_what_is_shared_leaves_the_scorer_as_it_was() -> None:
    score = Scorer(Watched(limit=0), TARGETS, 2)
    for ask in (lambda: score(IMAGES, CASES), lambda: score.once("shared", lambda: score(IMAGES, CASES))):
        with pytest.raises(torch.OutOfMemoryError):
            ask()
    score.model.limit = 1000
    assert len(score(IMAGES[:4, :, :], CASES[:4])) == 4
    score.together([lambda: score(IMAGES[:3], CASES[:3])] * 2)
    assert score.model.sizes == [1] * 4 + [1] * 6


def test_only_images_of_one_kind_share_a_batch() -> None:
    sizes = []

    def network(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape))
        return images.mean((2, 3)) @ images.new_ones(3, 7)

    score, found = Scorer(network, TARGETS, 100), []
    kinds = [IMAGES, IMAGES[..., :6], IMAGES.double(), IMAGES]
    score.together([lambda images=images: found.append(score(images, CASES)) for images in kinds])
    assert [len(scores) for scores in found] == [21] * 4
    assert sorted(sizes) == [(21, 3, 8, 6), (21, 3, 8, 8), (42, 3, 8, 8)]


@pytest.mark.parametrize("setting", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_settings_of_one_function_do_not_reach_another(setting: Callable) -> None:
    module, found, modes = Watched(), [], []
    score = Scorer(module, TARGETS, 100)

    def unusual() -> None:
        with setting():
            found.append(score(IMAGES, CASES))

    def usual() -> None:
        modes.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        found.append(score(IMAGES, CASES))

    def at_a_map() -> None:
        with setting():
            found.append(score.once("map", lambda: score(IMAGES, CASES), rests=True))

    def map_first() -> None:
        found.append(score.once("map", lambda: score(IMAGES, CASES), rests=True))

    score.together([usual, unusual, usual, unusual, map_first, at_a_map, usual])
    assert modes == [(False, False)] * 3 and not torch.is_inference_mode_enabled()
    for scores in found:
        torch.testing.assert_close(scores.clone(), expected(module), rtol=1e-6, atol=1e-6)


def test_each_function_keeps_its_own_gradient_mode() -> None:
    score, modes = Scorer(Watched(), TARGETS, 100), []

    def without() -> None:
        with torch.no_grad():
            score(IMAGES, CASES)
            modes.append(torch.is_grad_enabled())

    def with_it() -> None:
        modes.append(torch.is_grad_enabled())
        score(IMAGES, CASES)
        modes.append(torch.is_grad_enabled())

    score.together([without, with_it])
    assert modes == [True, False, True] and torch.is_grad_enabled()


def test_seconds_are_each_functions_own(monkeypatch: pytest.MonkeyPatch) -> None:
    now, spent, device = [100.0], {}, torch.device("cpu")
    monkeypatch.setattr(scorer.time, "perf_counter", lambda: now[0])

    def network(images: Tensor) -> Tensor:
        now[0] += len(images)
        return images.mean((2, 3)) @ torch.ones(3, 7)

    score = Scorer(network, TARGETS, 30)

    def use(name: str, own: float, images: int, shared: bool = False) -> None:
        began = clock(device)
        now[0] += own
        score(IMAGES[:images], CASES[:images])
        if shared:
            score.once("shared", lambda: score(IMAGES, CASES))
        spent[name] = clock(device) - began

    began = clock(device)
    score.together([partial(use, "a", 1000, 10), partial(use, "b", 2000, 15, True), partial(use, "c", 4000, 20)])
    assert clock(device) - began == 7000 + 10 + 15 + 21 + 20
    assert spent == pytest.approx({"a": 1010, "b": 2000 + 15 + 21, "c": 4020})


def test_a_gpus_seconds_count_where_its_work_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pending, spent, device = [100.0], [0.0], {}, torch.device("cpu")
    monkeypatch.setattr(scorer.time, "perf_counter", lambda: now[0])

    def finish(_device: torch.device) -> None:
        now[0], pending[0] = now[0] + pending[0], 0.0

    monkeypatch.setattr(scorer, "finish", finish)

    def network(images: Tensor) -> Tensor:
        pending[0] += len(images)
        return images.mean((2, 3)) @ torch.ones(3, 7)

    score = Scorer(network, TARGETS, 30)

    def use(name: str, own: float, images: int, shared: bool) -> None:
        began = clock(device)
        pending[0] += own
        ask = partial(score, IMAGES[:images], CASES[:images])
        score.once("shared", ask) if shared else ask()
        spent[name] = clock(device) - began

    score.together([partial(use, "a", 1000, 20, False), partial(use, "b", 2000, 10, True)])
    assert spent == pytest.approx({"a": 1020, "b": 2010}) and now[0] == 100 + 3030


def test_seconds_of_a_batch_that_memory_did_not_hold_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now, spent, device = [0.0], [], torch.device("cpu")
    monkeypatch.setattr(scorer.time, "perf_counter", lambda: now[0])

    def network(images: Tensor) -> Tensor:
        now[0] += len(images)
        if len(images) > 8:
            raise torch.OutOfMemoryError("a test's")
        return images.mean((2, 3)) @ torch.ones(3, 7)

    score = Scorer(network, TARGETS, 16)

    def ask() -> None:
        began = clock(device)
        score(IMAGES, CASES)
        spent.append(clock(device) - began)

    score.together([ask, ask])
    assert sum(spent) == pytest.approx(now[0]) and now[0] == 16 + 2 * 21


def test_a_padded_batch_is_halved_from_its_whole_size() -> None:
    module = Watched(limit=10)
    score = Scorer(module, TARGETS, 16, pad=True)
    assert len(score(IMAGES[:1], CASES[:1])) == 1
    assert score.batch_size == 8 and module.sizes == [8]
