"""Weights files as training programs write them; what is no weights file, or would fill the memory."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from bench.config import build, compose_config
from bench.networks.checkpoints import load_weights, read_weights, without_prefixes
from bench.networks.sources import timm_model, torchvision_model
from bench.types import UserError

State = dict[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": dict,
    "dataparallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "lightning": lambda state: {"epoch": 3, "state_dict": prefixed("model.")(state)},
    "lightning_net": lambda state: {"state_dict": prefixed("net.")(state), "global_step": 7},
    "compiled_lightning": lambda state: {"state_dict": prefixed("model._orig_mod.")(state)},
    "parallel_lightning": lambda state: {"state_dict": prefixed("module.model.")(state)},
    "tutorial": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}, "loss": 0.5},
    "net": lambda state: {"net": state, "acc": 90.0},
    "nested": lambda state: {"model": {"state_dict": state}},
    "torchvision_reference": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, amp=False)},
    "numpy_best": lambda state: {"state_dict": state, "best": np.float64(0.9), "at": np.int64(3), "ok": np.bool_(True)},
    "numpy_float32": lambda state: {"state_dict": state, "best": np.float32(0.9)},
    "integer_keys": lambda state: {0: "first", "state_dict": state, 1: {2: 3}},
    "half": lambda state: {name: v.half() if v.is_floating_point() else v for name, v in state.items()},
}


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    return torchvision_model(name="squeezenet1_1", weights="random", layers=[], seed=5).module.state_dict()


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_checkpoints(form: str, state: State, tmp_path: Path) -> None:
    torch.save(FORMS[form](state), tmp_path / "c.pth")
    got = torchvision_model(name="squeezenet1_1", weights=str(tmp_path / "c.pth"), layers=[]).module.state_dict()
    rounded = {name: value.half().float() if form == "half" else value for name, value in state.items()}
    assert got.keys() == rounded.keys() and all(torch.equal(got[name], rounded[name]) for name in rounded)


@pytest.mark.parametrize(
    ("name", "prefix", "has"),
    [("googlenet", "aux1.", True), ("inception_v3", "AuxLogits.", True), ("fcn_resnet50", "aux_classifier.", False)],
)
def test_heads_for_training_may_be_missing_or_more(name: str, prefix: str, has: bool) -> None:
    """As in files of networks that were fine-tuned with or without them; every other weight is the file's."""
    more = {"weights_backbone": None} if name == "fcn_resnet50" else {"init_weights": False}
    one, other = (get_model(name, weights=None, **more) for _ in range(2))
    own = {key: value.clone() for key, value in one.state_dict().items()}
    assert any(key.startswith(prefix) for key in own) == has
    used = {key: value for key, value in own.items() if not key.startswith(("aux", "Aux"))}
    saved = used if has else used | {f"{prefix}0.weight": torch.zeros(4, 4)}
    load_weights(name, other, "c.pth", {f"model.{key}": value for key, value in saved.items()})
    got = other.state_dict()
    assert got.keys() == own.keys() and all(torch.equal(got[key], used[key]) for key in used)
    del saved[next(iter(used))]
    with pytest.raises(UserError, match="do not fit"):
        load_weights(name, other, "c.pth", saved)


def test_prefixes_that_the_network_has_itself_stay() -> None:
    one = torch.zeros(1)
    assert without_prefixes({"model.a": one, "model.model.b": one}, {"model.a", "model.model.b"}).keys() == {
        "model.a", "model.model.b",
    }  # fmt: skip
    assert without_prefixes({"module.model.a": one}, {"model.a"}).keys() == {"model.a"}
    assert without_prefixes({"model.a": one, "loss.weight": one}, {"a"}).keys() == {"a", "loss.weight"}
    assert without_prefixes({"model.a": one, "a": one}, {"a"}).keys() == {"model.a", "a"}  # two would become one


class Callback:
    """What a training program may pickle beside the weights."""


def test_foreign_objects_are_named_and_not_made(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": state, "callback": Callback()}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"also holds \S*Callback, which could run code; save it again") as raised:
        read_weights(tmp_path / "c.pth", [])
    assert "\n" not in str(raised.value)


def test_allowed_types_do_not_stay_allowed(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # torch lists a set, whose order means nothing
    torch.save({"a": torch.zeros(2), "args": argparse.Namespace()}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="no state dict"):
        read_weights(tmp_path / "c.pth", [])
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_small_file_that_fills_the_memory(tmp_path: Path) -> None:
    """A compressed archive, and tensors that repeat one number; nothing is unpacked for the message."""
    torch.save({"a": torch.zeros(30_000_000)}, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as bomb:
        for entry in stored.infolist():
            bomb.writestr(entry.filename, stored.read(entry))
    torch.save({"a": torch.zeros(1).expand(30_000_000)}, tmp_path / "repeated.pth")
    for name in ("bomb", "repeated"):
        assert (tmp_path / f"{name}.pth").stat().st_size < 500_000
        with pytest.raises(UserError, match=r"has 0\.\d MB and expands to 120 MB"):
            read_weights(tmp_path / f"{name}.pth", [])
    assert read_weights(tmp_path / "stored.pth", [])["a"].shape == (30_000_000,)
    tied = torch.randn(2_000_000)
    torch.save({"a": tied, "b": tied}, tmp_path / "tied.pth")
    assert len(read_weights(tmp_path / "tied.pth", [])) == 2


@pytest.mark.parametrize(
    "state",
    [{}, {0: torch.zeros(1)}, [torch.zeros(1)], {"a": 3}, {"state_dict": {"state_dict": {"net": {}}}}, torch.zeros(3)],
)
def test_no_state_dict(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"no state dict .* but \w+.*; save it again"):
        read_weights(tmp_path / "c.pth", [])


def test_tensors_without_values(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3, device="meta")}, tmp_path / "meta.pth")
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "sparse.pth")
    torch.save({"a": torch.zeros(3, dtype=torch.complex64)}, tmp_path / "complex.pth")
    for name in ("meta", "sparse", "complex"):
        with pytest.raises(UserError, match="without values, sparse or complex"):
            read_weights(tmp_path / f"{name}.pth", [])


@pytest.mark.parametrize("group", ["squeezenet1_1", "timm", "efficientnet_lite0"])
def test_fine_tuned_networks_of_another_number_of_classes(group: str, tmp_path: Path) -> None:
    """The words of the command line."""
    words = {"timm": ["model=timm", "model.name=resnet10t"]}.get(group, [f"model={group}"])
    tuned = build("model", compose_config([*words, "model.num_classes=3", "model.weights=random"]).model, seed=4)
    torch.save({"state_dict": tuned.module.state_dict()}, tmp_path / "tuned.pth")
    words.append(f"model.weights={tmp_path}/tuned.pth")
    again = build("model", compose_config([*words, "model.num_classes=3"]).model)
    assert again.weights_hash == tuned.weights_hash
    assert again.module(torch.zeros(1, *again.spec.shape)).shape == (1, 3)
    with pytest.raises(UserError, match=r"do not fit .* \(it has 3 classes: set model\.num_classes=3\)"):
        build("model", compose_config(words).model)


def test_numbers_of_classes_that_make_no_sense() -> None:
    with pytest.raises(UserError, match=r"model\.num_classes=3 needs weights of that shape"):
        torchvision_model(name="resnet18", weights="default", num_classes=3)
    with pytest.raises(UserError, match="must be a whole number from 1"):
        timm_model(name="resnet18", weights="random", num_classes=0)


def test_a_factory_gets_the_number_of_classes() -> None:
    node = compose_config(["model=custom", f"model.target={__name__}:linear", "model.num_classes=4", "model.size=8"])
    assert build("model", node.model).module(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


def linear(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is not a weights file .*: it is empty"),
        (b"<html>404 not found</html>", r"begins with b'<html>404"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"begins with b'version https://git-lfs"),
    ],
)
def test_what_a_failed_download_left_is_shown(content: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(UserError, match=line):
        read_weights(tmp_path / "c.pth", [])


def test_averaged_weights_under_another_name_are_named(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict_ema": {"a": torch.zeros(3)}}, tmp_path / "c.pth")
    with pytest.raises(UserError, match="but epoch, state_dict_ema; save it again with torch.save"):
        read_weights(tmp_path / "c.pth", [])


def test_a_folder_is_no_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder or pipe, no file"):
        read_weights(tmp_path, [])
