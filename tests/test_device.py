"""Every method and metric on a GPU, a pretended one and, if there is one, a real one: the numbers are the CPU's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from contract import METHODS, METRICS, make_batch, make_network, maps, measure, part
from pretended_gpu import GPU, PretendedGpu
from torch import Tensor

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC
from bench.config import bind_all, build, compose_config, plain
from bench.maps.heatmaps import degenerate, map_ids, upsample
from bench.runs.execution import set_precision
from bench.runs.facts import Opener
from bench.runs.rows import map_columns
from bench.runs.run import run
from bench.runs.setup import prepare_run
from bench.store.folders import find_folders
from bench.store.parts import read_part
from bench.types import Batch

GPUS = ["pretended"] + [pytest.param("real", marks=pytest.mark.gpu)] * torch.cuda.is_available()


@pytest.fixture(params=GPUS)
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """Tolerance, relative and absolute, between the GPU's numbers and the CPU's."""
    if request.param == "real":
        set_precision("float32", GPU)
        yield 1e-3
        return
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a pretended GPU")
    with PretendedGpu():
        yield 1e-5


def moved(value: Any) -> Any:
    if isinstance(value, list):
        return [moved(each) for each in value]
    return value.to(GPU) if isinstance(value, Tensor) else value


def on_gpu(batch: Batch) -> Batch:
    return Batch(**{field.name: moved(getattr(batch, field.name)) for field in dataclasses.fields(batch)})


def test_a_gpu_refuses_what_is_on_the_cpu(near: float) -> None:
    gpu, cpu = torch.ones(2, device="cuda"), torch.ones(2)
    for wrong in (
        lambda: gpu + cpu, lambda: torch.stack([gpu, cpu]), lambda: torch.where(cpu > 0, gpu, 0),
        lambda: cpu[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda: gpu.__setitem__(torch.tensor([0, 1]), cpu), lambda: gpu + gpu.new_zeros(2, device="cpu"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="same device|indices should be"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        gpu.numpy()
    assert (gpu + cpu.to(gpu)).device == GPU and (gpu.cpu() + cpu).device.type == "cpu"
    assert (gpu * torch.tensor(2.0)).tolist() == [2, 2] and gpu[torch.tensor([0])].item() == 1


@pytest.mark.parametrize("name", METHODS)
def test_method_on_a_gpu(name: str, near: float) -> None:
    method, batch = part("method", name), make_batch()
    expected = maps(method, make_network(), batch)
    native = maps(method, make_network().to(GPU), on_gpu(batch))
    assert native.device == GPU and upsample(native, (32, 48)).device == GPU
    torch.testing.assert_close(native.cpu(), expected, rtol=near, atol=near * float(expected.abs().max()))
    assert degenerate(native) == degenerate(expected)
    seen: dict[Any, Any] = {}
    assert map_ids(native, seen) == map_ids(2 * native, seen) == map_ids(expected, {})
    for one, other in zip(*(map_columns(some, [True, False]) for some in (native, expected)), strict=True):
        assert one["map_shape"] == other["map_shape"] and (one["map"] is None) == (other["map"] is None)


@pytest.mark.parametrize("name", METRICS)
def test_metric_on_a_gpu(name: str, near: float) -> None:
    metric, batch = part("metric", name), make_batch()
    heatmaps = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(2))
    expected = measure(metric, heatmaps, make_network(), batch)
    measured = measure(metric, heatmaps.to(GPU), make_network().to(GPU), on_gpu(batch))
    for one, other in zip(measured, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            ours, theirs = torch.tensor(one[key]), torch.tensor(value)
            torch.testing.assert_close(ours, theirs, rtol=near, atol=near, equal_nan=True, msg=f"{key}: {ours}")


def test_run_on_a_gpu(near: float, tmp_path: Path) -> None:
    words = [
        "model=resnet18", "model.weights=random", "method=[grad_cam,grad_entropy,rise,center]", "layer=[layer4]",
        "method.rise.masks=8", "dataset.scenes=3", "batch=2", "score_batch=16", "loader_workers=0", "quiet=true",
        "metric=[deletion,insertion,pointing_game]", "metric.deletion.steps=3", "metric.insertion.steps=3",
    ]  # fmt: skip
    parts = []
    for device in ("cuda", "cpu"):
        node = plain(compose_config([*words, f"device={device}", f"out={tmp_path / device}"]))
        methods, metrics = bind_all(node["method"], GIVEN_TO_METHOD), bind_all(node["metric"], GIVEN_TO_METRIC)
        network = Opener(partial(build, "model", node["model"]), None)
        config = node | {"worker": ""}
        run(
            config,
            network,
            prepare_run(config, network, build("dataset", node["dataset"]), methods, metrics, lambda _: {}),
        )
        (folder,) = find_folders(tmp_path / device)
        (path,) = folder.parts
        parts.append(read_part(path))
    (ours, note), (theirs, cpu_note) = parts
    assert len(note["entries"]) == 4 and len(ours) == 4 * len(note["cases"]) > 0
    assert note["made"]["device"] != cpu_note["made"]["device"]
    frames = ours.to_pandas(), theirs.to_pandas()
    unstable = [name for name in frames[0] if name.endswith(".correlation")]
    one, other = (frame.drop(columns=unstable) for frame in frames)
    pd.testing.assert_frame_equal(one, other, rtol=near, atol=near)
    # Of three changes of a probability by some 1e-5: weights that differ by 3e-6 of themselves move it by .0015.
    one, other = (frame[unstable] for frame in frames)
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=50 * near)
