"""Loading: every case in order, bad pictures named, the same with worker processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from bench.datasets.images import read_image
from bench.loading import Bad, samples
from bench.transforms import InputSpec
from bench.types import Case

SPEC = InputSpec(16, 16, (0.0,) * 3, (1.0,) * 3)


def load(path: str) -> tuple[Tensor, None]:
    return read_image(path), None


@pytest.mark.parametrize("workers", [0, 2])
def test_all_cases_in_order(tmp_path: Path, workers: int) -> None:
    cases = []
    for i in range(40):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (20, 10), (i, 0, 0)).save(path)
        if i in (3, 39):
            path.write_bytes(path.read_bytes()[:40])
        nothing = torch.zeros(0, 4)
        cases.append(Case(str(i), str(i), "", (), partial(load, str(path)), nothing, nothing, torch.zeros(0).bool()))
    found = list(samples(cases, SPEC, "stretch", workers, torch.device("cpu")))
    assert [item.case_id if isinstance(item, Bad) else item.case.id for item in found] == [str(i) for i in range(40)]
    assert [i for i, item in enumerate(found) if isinstance(item, Bad)] == [3, 39]
    assert all(item.image[0].mean() == pytest.approx(i / 255) for i, item in enumerate(found) if i not in (3, 39))
    assert "3.png" in found[3].reason
