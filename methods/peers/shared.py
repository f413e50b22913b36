"""What the peers share: how a class is chosen by name, and how a picture's score is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..common import package
from ..multipass import explained


def chosen(module: str, extra: str, cam: str, known: Sequence[str]) -> Any:
    """Return the class `cam` of another package; ValueError for one not `known` here, or a package not installed."""
    if cam not in known:
        raise ValueError(f"cam={cam} is unknown; it takes {', '.join(known)}")
    return getattr(package(module, extra), cam)


def score(target: tuple[int, ...], output: Tensor) -> Tensor:
    """Explained score () of one picture's logits (C,)."""
    return explained(output[None], [target])[0]
