"""Hash of the code that a network is written in."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

LIBRARIES = {"torch", "torchvision", "timm", "bench"}


def code_hash(module: nn.Module, function: Callable[..., Any] | None = None) -> str:
    """Hash of a network's text and of the files that its classes and a user's function are written in: 16 hex digits.

    Files of torch, torchvision, timm and this program are left out: they change with a version.
    """
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # a function's address is another one each time
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    places = {type(part).__module__ for part in module.modules()} | {getattr(function, "__module__", None) or ""}
    for place in sorted(place for place in places if place.partition(".")[0] not in LIBRARIES):
        file = getattr(sys.modules.get(place), "__file__", None)
        if file and Path(file).is_file():
            digest.update(place.encode() + Path(file).read_bytes())
    return digest.hexdigest()
