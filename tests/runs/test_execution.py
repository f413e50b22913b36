"""Batch sizes, memory format and compilation: chosen once, kept, and never fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench.maps.scorer import Scorer
from bench.runs import execution as speed
from bench.runs.execution import Speed, choose_speed, forwards, measured, set_precision
from bench.runs.provenance import speed_of
from bench.store.files import read_json
from bench.types import InputSpec, Network, UserError

CPU = torch.device("cpu")
AUTO = {"batch": "auto", "score_batch": "auto", "compile": "auto", "precision": "float32"}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    return Network("tiny", module, InputSpec(16, 16, (0.5,) * 3, (0.5,) * 3), ["1"], "random", "0")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cam-bench"


def test_what_is_measured_is_kept_and_the_first_answer_stays(
    network: Network, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measured(network, CPU, "float32")
    assert first["batch"] in speed.SIZES["cpu"]
    (path,) = cache.iterdir()
    assert read_json(path) == first

    def other(*_: object) -> dict[str, Any]:
        path.write_text(json.dumps(first))  # somebody else was quicker
        return {**first, "batch": 99}

    path.unlink()
    monkeypatch.setattr(speed, "measure", other)
    assert measured(network, CPU, "float32") == first
    assert [p.name for p in cache.iterdir()] == [path.name]  # no temporary file stays


GOOD = {"batch": 8, "channels_last": True, "seconds_per_image": 0.01}
DAMAGE = [
    "", "{", "{}", "[1]", "null", "\0" * 40, "[" * 100_000, json.dumps({"batch": 8}),
    *(json.dumps({**GOOD, **change}) for change in (
        {"batch": "x"}, {"batch": 0}, {"batch": -4}, {"batch": 1e9}, {"batch": 10**9}, {"batch": None}, {"batch": True},
        {"channels_last": "yes"}, {"channels_last": None}, {"seconds_per_image": "fast"}, {"seconds_per_image": -1.0},
        {"seconds_per_image": float("nan")}, {"seconds_per_image": float("inf")}, {"batch": 16, "hash": "0123456789"},
    )),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_answer_is_measured_again_and_mended(network: Network, cache: Path, damage: str) -> None:
    first = measured(network, CPU, "float32")
    (path,) = cache.iterdir()
    path.write_text(damage)
    again = measured(network, CPU, "float32")
    assert set(again) == set(first) and again["batch"] in speed.SIZES["cpu"]
    assert set(read_json(path)) == set(first) and speed.whole(read_json(path))


def test_a_folder_that_cannot_be_written_is_no_obstacle(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert measured(network, CPU, "float32")["batch"] in speed.SIZES["cpu"]


def test_given_sizes_are_taken_and_nothing_is_measured(
    network: Network, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", lambda *_: pytest.fail("measured"))
    asked = {**AUTO, "batch": 7, "score_batch": 3}
    assert choose_speed(asked, network, CPU, 1e9, lambda _: network.module) == Speed(7, 3, True, False)


def test_compiled_only_where_it_pays_and_works(network: Network, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"batch": 8, "channels_last": True, "seconds_per_image": 0.01}
    monkeypatch.setattr(speed, "measure", lambda *_: answer)

    def works(_: Speed) -> Any:
        return lambda images: images

    even = 2 * speed.COMPILE_SECONDS / speed.SAVED / 0.01
    few, many = 0.9 * even, 1.1 * even
    assert choose_speed(AUTO, network, CPU, few, works) == Speed(16, 8, True, False)
    assert choose_speed(AUTO, network, CPU, many, works) == Speed(16, 8, True, True)
    assert choose_speed(AUTO, network, CPU, many, lambda _: network.module) == Speed(16, 8, True, False)
    assert not choose_speed({**AUTO, "compile": False}, network, CPU, many, works).compiled
    monkeypatch.setattr(speed, "measured", lambda *_: answer)
    assert not choose_speed(AUTO, network, torch.device("cuda"), many, works).compiled
    assert choose_speed({**AUTO, "compile": True}, network, torch.device("cuda"), few, works).compiled


def test_no_compiler_is_one_notice(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nhere")

    monkeypatch.setattr(torch, "compile", broken)
    forward = forwards(network.module, (3, 16, 16), CPU, "float32")
    for _ in range(2):
        assert forward(Speed(4, 4, True, True)) is network.module
    assert [record.message for record in caplog.records] == [
        "compile: not possible here (no C++ compiler here); going on without"
    ]
    assert forward(Speed(4, 4, True, False)) is network.module


def test_compiled_gives_the_same_logits(network: Network) -> None:
    forward = forwards(network.module, (3, 16, 16), CPU, "float32")(Speed(4, 4, True, True))
    if forward is network.module:
        pytest.skip("no compiler here")
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        found = forward(images)
        torch.testing.assert_close(found, network.module(images), rtol=1e-4, atol=1e-5)
        # The weights were constants to the compiler, which only then folds batch norms and lays the weights out.
        network.module[0].weight.zero_()
        assert forward(images).equal(found) and not network.module(images).allclose(found)


def test_compiled_images_keep_one_size_and_format(network: Network) -> None:
    seen = []

    def forward(images: torch.Tensor) -> torch.Tensor:
        seen.append((images.shape, images.is_contiguous()))
        return network.module(images)

    score = Scorer(forward, [(0,)], 4, pad=True)
    images = torch.randn(6, 3, 16, 16)
    cases = torch.zeros(6, dtype=torch.long)
    found = score(images.contiguous(memory_format=torch.channels_last), cases)
    assert set(seen) == {((4, 3, 16, 16), True)}
    torch.testing.assert_close(found, Scorer(network.module, [(0,)], 4)(images, cases))


def test_of_sizes_equally_fast_the_smallest_is_taken(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(_: object, images: torch.Tensor, __: str) -> float:
        each = {4: 1.04, 8: 1.2, 16: 1.0, 32: 1.0}[len(images)]
        return len(images) * (each if images.is_contiguous(memory_format=torch.channels_last) else 2.0) * 1e-5

    monkeypatch.setattr(speed, "timed", timed)
    monkeypatch.setattr(speed, "SECONDS", 0.2)
    found = speed.measure(network, CPU, "float32")
    assert (found["batch"], found["channels_last"]) == (4, True)


def test_one_disturbed_pass_does_not_choose_the_memory_format(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def timed(module: nn.Module, images: torch.Tensor, precision: str) -> float:
        nonlocal calls
        calls += 1
        slower = 1.0 if images.is_contiguous(memory_format=torch.channels_last) else 1.3
        return (9.0 if calls == 1 else slower) * 1e-3 * len(images)

    monkeypatch.setattr(speed, "timed", timed)
    monkeypatch.setattr(speed, "SECONDS", 0.3)
    found = speed.measure(network, CPU, "float32")
    assert found == {"batch": 4, "channels_last": True, "seconds_per_image": pytest.approx(1e-3)}


def test_provenance_gives_back_what_it_was_given() -> None:
    asked = Speed(16, 4, False, True)
    assert speed_of({**vars(asked), "device": "cpu"}) == asked
    for wrong in ({"batch": 0}, {"score_batch": "4"}, {"compiled": 1}, {"channels_last": None}):
        assert speed_of({**vars(asked), **wrong}) is None
    assert speed_of({"batch": 16, "score_batch": 16}) is None  # of an earlier version


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="tf32"):
        set_precision("tf32", CPU)
    set_precision("float32", CPU)
    assert not torch.backends.cudnn.allow_tf32
