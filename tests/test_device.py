"""Every method and metric on a GPU, pretended and, where there is one, real: the CPU's numbers, nothing left on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from contract import METHODS, METRICS, make_batch, make_network, maps, measure, part
from hydra import compose, initialize_config_dir
from pretended_gpu import GPU, PretendedGpu
from torch import Tensor

from bench.analysis.reading import read_rows
from bench.config import CONF, GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, build, plain
from bench.maps.heatmaps import degenerate, upsample
from bench.runs.execution import set_precision
from bench.runs.rows import map_columns
from bench.runs.run import run
from bench.runs.store import find_runs
from bench.types import Batch

GPUS = ["pretended"] + [pytest.param("real", marks=pytest.mark.gpu)] * torch.cuda.is_available()


@pytest.fixture(params=GPUS)
def near(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[float]:
    """How near to the CPU's the numbers of the GPU must be."""
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
    there, here = torch.ones(2, device="cuda"), torch.ones(2)
    for wrong in (
        lambda: there + here, lambda: torch.stack([there, here]), lambda: torch.where(here > 0, there, 0),
        lambda: here[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda: there.__setitem__(torch.tensor([0, 1]), here), lambda: there + there.new_zeros(2, device="cpu"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="same device|indices should be"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    assert (there + here.to(there)).device == GPU and (there.cpu() + here).device.type == "cpu"
    assert (there * torch.tensor(2.0)).tolist() == [2, 2] and there[torch.tensor([0])].item() == 1


@pytest.mark.parametrize("name", METHODS)
def test_method_on_a_gpu(name: str, near: float) -> None:
    method, batch = part("method", name), make_batch()
    expected = maps(method, make_network(), batch)
    found = maps(method, make_network().to(GPU), on_gpu(batch))
    assert found.device == GPU and upsample(found, (32, 48)).device == GPU
    torch.testing.assert_close(found.cpu(), expected, rtol=near, atol=near * float(expected.abs().max()))
    kept = [map_columns(some, degenerate(some), [True, False]) for some in (found, expected)]
    for one, other in zip(*kept, strict=True):
        assert one["degenerate"] == other["degenerate"] and one["map_shape"] == other["map_shape"]


@pytest.mark.parametrize("name", METRICS)
def test_metric_on_a_gpu(name: str, near: float) -> None:
    metric, batch = part("metric", name), make_batch()
    heatmaps = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(2))
    expected = measure(metric, heatmaps, make_network(), batch)
    found = measure(metric, heatmaps.to(GPU), make_network().to(GPU), on_gpu(batch))
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            ours, theirs = torch.tensor(one[key]), torch.tensor(value)
            torch.testing.assert_close(ours, theirs, rtol=near, atol=near, equal_nan=True, msg=f"{key}: {ours}")


def test_run_on_a_gpu(near: float, tmp_path: Path) -> None:
    asked = [
        "model=resnet18", "model.weights=random", "method=[grad_cam,grad_entropy,rise,center]", "layer=[layer4]",
        "method.rise.masks=8",        "dataset.scenes=3", "batch=2", "score_batch=16", "loader_workers=0",
        "metric=[deletion,insertion,pointing_game]", "metric.deletion.steps=3", "metric.insertion.steps=3",
    ]  # fmt: skip
    for device in ("cuda", "cpu"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = compose("config", overrides=[*asked, f"device={device}", f"out={tmp_path / device}"])
        methods, metrics = bind_all(node.method, GIVEN_TO_METHOD), bind_all(node.metric, GIVEN_TO_METRIC)
        run(plain(node), build("model", node.model), build("dataset", node.dataset), methods, metrics)
    runs = list(zip(find_runs(tmp_path / "cuda"), find_runs(tmp_path / "cpu"), strict=True))
    assert len(runs) == 4
    for found, expected in runs:
        assert found.provenance["device"] != expected.provenance["device"]
        pd.testing.assert_frame_equal(read_rows(found), read_rows(expected), rtol=near, atol=near)
