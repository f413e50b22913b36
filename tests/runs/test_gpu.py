"""On a machine with a GPU: the CPU's numbers, recovery from too little memory, and the speed of scoring."""

from __future__ import annotations

import time

import pytest
import torch

from bench.datasets.collage import collage
from bench.datasets.transforms import collate, prepare
from bench.maps.capture import capture
from bench.maps.scorer import Scorer
from bench.networks.sources import efficientnet_lite
from bench.runs.execution import measure, set_precision
from methods.entropy import entropy
from methods.entropy_estimators import levels
from metrics.faithfulness import deletion, insertion

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
LAYERS = ["blocks.4.2.bn2.act", "bn2.act"]


@pytest.fixture(scope="module")
def network():
    return efficientnet_lite(name="efficientnet_lite0", weights="default", layers=LAYERS, size=224, resize=256)


def batch_on(network, device: str, number: int = 8):
    set_precision("float32", torch.device(device))
    samples = [prepare(case, network.spec, "stretch") for case in collage(scenes=number)]
    return collate(samples, network.spec, torch.device(device))


def test_equal_to_the_cpu(network) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        batch, module = batch_on(network, device), network.module.to(device)
        captured = capture(module, batch.images, batch.targets, LAYERS)
        maps = torch.nn.functional.interpolate(captured.layers["bn2.act"].acts.sum(1, keepdim=True).cpu(), (224, 224))
        score = Scorer(module, batch.targets, 16)
        aucs = [f(maps[:, 0].to(device), batch, score=score)["auc"].cpu() for f in (deletion, insertion)]
        found[device] = (captured, aucs)
    for name in LAYERS:
        for kind in ("acts", "grads"):
            ours, theirs = (getattr(found[device][0].layers[name], kind).cpu() for device in ("cuda", "cpu"))
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    for ours, theirs in zip(found["cuda"][1], found["cpu"][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_constant_channels_have_no_entropy() -> None:
    """A GPU that divides by multiplying makes 49 / 49 a little less than 1, and noise a map."""
    for size in range(1, 300):
        for estimator in ("histogram", "value", "local"):
            constant = torch.full((1, 3, size), 0.1, device="cuda")
            assert (entropy(constant, estimator=estimator) == 0).all(), (size, estimator)


@pytest.mark.parametrize("bins", [7, 100, 256])
def test_levels_are_the_cpus(bins: int) -> None:
    rows = torch.randn(500, 196, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # many lie on edges
    torch.testing.assert_close(levels(rows.cuda(), bins).cpu(), levels(rows, bins), rtol=0, atol=0)


def test_recovers_from_too_little_memory(network) -> None:
    batch, module = batch_on(network, "cuda", 2), network.module.cuda()
    images, cases = batch.images[:1].expand(4096, -1, -1, -1), torch.zeros(4096, dtype=torch.long, device="cuda")
    expected = Scorer(module, batch.targets, 16)(images[:16], cases[:16])
    held = torch.cuda.memory_reserved() + 2**30
    torch.cuda.set_per_process_memory_fraction(held / torch.cuda.get_device_properties(0).total_memory)
    try:
        score = Scorer(module, batch.targets, 4096)
        found = score(images, cases)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert score.batch_size < 4096
    torch.testing.assert_close(found[:16], expected, rtol=0, atol=1e-3)


def test_prints_images_per_second(network, capsys: pytest.CaptureFixture[str]) -> None:
    batch, device = batch_on(network, "cuda", 16), torch.device("cuda")
    network.module.cuda()
    found = measure(network, device, "float32")
    maps = torch.rand(16, 224, 224, device=device)
    score = Scorer(network.module, batch.targets, found["batch"])
    speeds = []
    for _ in range(3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        deletion(maps, batch, score=score, steps=56)
        torch.cuda.synchronize()
        speeds.append(16 * 55 / (time.perf_counter() - began))
    raw = 1 / found["seconds_per_image"]
    with capsys.disabled():
        print(f"\ndeletion: {max(speeds):.0f} images/s, raw forwards {raw:.0f} images/s at batch {found['batch']}")
    assert len(speeds) == 3
