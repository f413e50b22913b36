"""Batch sizes, memory format and compilation: chosen once, kept, and never fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import speed
from bench.models import Network
from bench.provenance import kept_speed
from bench.speed import Speed, choose_speed, forwards, measured, set_precision
from bench.transforms import InputSpec
from bench.types import UserError

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
    assert json.loads(path.read_text()) == first

    def other(*_: object) -> dict[str, Any]:
        path.write_text(json.dumps(first))  # somebody else was quicker
        return {**first, "batch": 99}

    path.unlink()
    monkeypatch.setattr(speed, "measure", other)
    assert measured(network, CPU, "float32") == first
    assert [p.name for p in cache.iterdir()] == [path.name]  # no temporary file stays


@pytest.mark.parametrize("damage", ["", "{", "{}", "[1]"])
def test_a_damaged_answer_is_measured_again_and_mended(network: Network, cache: Path, damage: str) -> None:
    first = measured(network, CPU, "float32")
    (path,) = cache.iterdir()
    path.write_text(damage)
    assert set(measured(network, CPU, "float32")) == set(first)
    assert set(json.loads(path.read_text())) == set(first)


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


def test_no_compiler_is_one_notice(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nhere")

    monkeypatch.setattr(torch, "compile", broken)
    forward = forwards(network.module, 16, CPU, "float32")
    for _ in range(2):
        assert forward(Speed(4, 4, True, True)) is network.module
    assert [record.message for record in caplog.records] == [
        "compile: not possible here (no C++ compiler here); going on without"
    ]
    assert forward(Speed(4, 4, True, False)) is network.module


def test_compiled_gives_the_same_logits(network: Network) -> None:
    forward = forwards(network.module, 16, CPU, "float32")(Speed(4, 4, True, True))
    if forward is network.module:
        pytest.skip("no compiler here")
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(forward(images), network.module(images), rtol=1e-4, atol=1e-5)


def test_provenance_gives_back_what_it_was_given() -> None:
    asked = Speed(16, 4, False, True)
    assert kept_speed({**vars(asked), "device": "cpu"}) == asked
    for wrong in ({"batch": 0}, {"score_batch": "4"}, {"compiled": 1}, {"channels_last": None}):
        assert kept_speed({**vars(asked), **wrong}) is None
    assert kept_speed({"batch": 16, "score_batch": 16}) is None  # of an earlier version


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="tf32"):
        set_precision("tf32", CPU)
    set_precision("float32", CPU)
    assert not torch.backends.cudnn.allow_tf32
