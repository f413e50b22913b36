"""Runs in this process with their passes counted, and the rows and files that they leave."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bench.__main__ import shipped
from bench.config import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, build, compose_config, plain
from bench.runs.facts import Opener, request_of
from bench.runs.run import Outcome, run
from bench.runs.setup import prepare_run
from bench.runs.setup.checks import check
from bench.store.folders import find_folders
from bench.store.parts import read_part


class Counted:
    """A run in this process with its forward and backward passes and its images counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwards = self.backwards = self.images = 0
        self.loaded = False
        grad = torch.autograd.grad

        def counted(*arguments: object, **options: object) -> object:
            self.backwards += 1
            return grad(*arguments, **options)

        monkeypatch.setattr(torch.autograd, "grad", counted)

    def __call__(self, *overrides: str) -> Outcome:
        node = plain(compose_config(["model=resnet18", "model.weights=random", "metric=[]", *overrides]))
        self.forwards = self.backwards = self.images = 0
        network = Opener(partial(self.open, node), request_of(node["model"], node["seed"]))
        methods, metrics = bind_all(node["method"], GIVEN_TO_METHOD), bind_all(node["metric"], GIVEN_TO_METRIC)
        check(node, methods)
        data = build("dataset", node["dataset"])
        config = {**node, "worker": ""}
        defaults = partial(shipped, node["seed"])
        outcome = run(config, network, prepare_run(config, network, data, methods, metrics, defaults))
        self.loaded = network.network is not None
        return outcome

    def open(self, node: dict[str, Any]) -> Any:
        network = build("model", node["model"])

        def count(_module: object, images: Sequence[torch.Tensor], _output: object) -> None:
            self.forwards += 1
            self.images += len(images[0])

        network.module.register_forward_hook(count)
        return network


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def rows_of(root: Path) -> pd.DataFrame:
    """All rows below a results folder, a later part's columns beside the earlier ones'."""
    (folder,) = find_folders(root)
    frames = [read_part(path)[0].to_pandas() for path in folder.parts]
    keys = ["method", "layer", "case_id"]
    frame = pd.concat(frames).groupby(keys, as_index=False, sort=True).first()
    return frame.sort_values(keys, ignore_index=True)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.rglob("part-*.parquet")}
