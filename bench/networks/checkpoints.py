"""Weights files as training programs write them become the state dict of one network."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.types import UserError

# Where programs put the state dict, and what their wrappers put in front of the names in it.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
# Heads of torchvision's networks that are for training only: a file may lack them, or hold them for a network without.
AUXILIARY = ("aux_classifier.", "aux1.", "aux2.", "AuxLogits.")
# What they save beside it: settings, and numpy's numbers, which are made of a dtype and bytes. None of it runs code.
_number = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    argparse.Namespace, np.dtype, _number, (_number, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in "? i1 u1 i2 i4 i8 f2 f4 f8".split()),
]  # fmt: skip
ALLOWS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)  # pairs like that of numpy's older name
EXPANDS, SLACK = 3, 2**22  # a file may hold tied weights twice; torch.save does not compress


def load_weights(name: str, module: nn.Module, weights: str, state: Mapping[str, Tensor]) -> None:
    """Load a state dict whose names may have prefixes of a wrapper; UserError, with what to do, if it does not fit."""
    state, own = without_prefixes(state, set(module.state_dict())), module.state_dict()
    state = {key: value for key, value in state.items() if key in own or not key.startswith(AUXILIARY)}
    state |= {key: value for key, value in own.items() if key not in state and key.startswith(AUXILIARY)}
    try:
        module.load_state_dict(state)
    # Other names or shapes; a quantized layer or a module of the user's own, which load in ways of their own.
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        other = [key for key in own if key in state and own[key].shape != state[key].shape]
        classes = other and len(other) <= 4 and set(own) == set(state)
        advice = "a network of your own: model=custom"
        if classes:
            number = len(state[other[-1]])
            advice = f"it has {number} classes: set model.num_classes={number}"
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"the weights {weights} do not fit {name} ({advice}): {detail}") from error


def without_prefixes(state: Mapping[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """Take prefixes from the names, one after another, as long as that gives more names that the network knows."""
    names = list(state)
    for _ in range(4):
        fits = len(known & set(names))
        shorter = {prefix: [name.removeprefix(prefix) for name in names] for prefix in PREFIXES}
        best = max(shorter.values(), key=lambda some: len(known & set(some)))
        if len(known & set(best)) == fits:  # one more prefix may lie below the one that all have
            common = [shorter[prefix] for prefix in PREFIXES if all(name.startswith(prefix) for name in names)]
            if fits or not common:
                break
            best = common[0]
        names = best
    return dict(zip(names, state.values(), strict=True)) if len(set(names)) == len(names) else dict(state)


def read_weights(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """State dict in a .pth file (loaded with weights_only, so no code in it runs) or a .safetensors file.

    Raises
    ------
    UserError
        No such file, not a weights file, or one that would fill far more memory than its size. `names` are the
        alternatives that the message lists.
    """
    if not path.is_file():
        fault = "a folder or pipe, no file" if path.exists() else "no such file"
        raise UserError(
            f"model.weights={path}: {fault}; it takes a .pth or .safetensors file, random, or {', '.join(names)}"
        )
    from safetensors.torch import load_file

    size = path.stat().st_size
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            check_archive(path, size)
            with torch.serialization.safe_globals(HARMLESS) if ALLOWS else nullcontext():
                state = torch.load(path, weights_only=True, map_location="cpu")
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a file of another kind can make the unpickler fail in any way
        foreign = re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error))
        if foreign:
            raise UserError(
                f"{path} is not a weights file alone: it also holds {foreign[1]}, which could run code; save it again "
                "with torch.save(network.state_dict(), …)"
            ) from error
        detail = " ".join(str(error).split())[:120]
        if path.suffix != ".safetensors":  # of which torch says only that it is none
            with path.open("rb") as file:
                detail = f"it begins with {file.read(24)!r}" if size else "it is empty"
        raise UserError(f"{path} is not a weights file (.pth or .safetensors): {detail}") from error
    keys, state = list(state) if isinstance(state, Mapping) else [], unwrapped(state)
    if not state:
        holds = ", ".join(map(str, keys[:5]))[:100] or "something else"
        raise UserError(
            f"{path} holds no state dict (names to tensors) but {holds}; save it again with "
            "torch.save(network.state_dict(), …)"
        )
    if any(value.is_meta or value.is_complex() or value.layout != torch.strided for value in state.values()):
        raise UserError(f"{path} holds tensors without values, sparse or complex ones, which are no weights")
    check_growth(path, size, sum(value.numel() * value.element_size() for value in state.values()))
    return state


def unwrapped(state: Any) -> dict[str, Tensor] | None:
    """Find the state dict in what a training program has saved; None where there is none."""
    for _ in range(4):
        if not isinstance(state, Mapping) or not state:
            return None
        if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
            return dict(state)
        inner = [state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)]
        if not inner:
            return None
        state = inner[0]
    return None


def check_archive(path: Path, size: int) -> None:
    """Raise UserError for a zip archive that expands to far more than its own size; nothing is unpacked for it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_growth(path, size, sum(entry.file_size for entry in archive.infolist()))


def check_growth(path: Path, size: int, bytes_: int) -> None:
    """Raise UserError where a file of `size` bytes stands for far more."""
    if bytes_ > EXPANDS * size + SLACK:
        raise UserError(
            f"{path} has {size / 1e6:.1f} MB and expands to {bytes_ / 1e6:.0f} MB, as no weights file does; save it "
            "again with torch.save(network.state_dict(), …)"
        )
