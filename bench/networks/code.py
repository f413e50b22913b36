"""A user's own code, which is run only where the command line or Python names it."""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from bench.types import UserError

LIBRARIES = {"torch", "torchvision", "timm", "bench"}


def user_function(target: str, setting: str) -> Callable[..., Any]:
    """Import ``package.module:function`` of a user, also from the current folder; `setting` is for the UserError."""
    place, _, name = target.partition(":")
    if not place or not name:
        raise UserError(f"{setting}={target} must be package.module:function")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function: Any = getattr(import_module(place), name)
    except (Exception, SystemExit) as error:  # whatever a user's module does when it is imported
        raise UserError(f"{setting}={target} cannot be imported from {Path.cwd()} ({place_of(error)})") from error
    if not callable(function):
        raise UserError(f"{setting}={target} is no function")
    return function


def place_of(error: BaseException) -> str:
    """One line about an error in a user's code: its kind, its message, and file and line of where it was raised."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not is_library(frame.filename)]
    return f"{text}, {Path(theirs[-1].filename).name} line {theirs[-1].lineno}" if theirs else text


def is_library(file: str) -> bool:
    """Whether a file is of Python, of an installed package or of this program."""
    path = Path(file)
    own, standard = Path(__file__).parents[1], Path(sysconfig.get_paths()["stdlib"])
    return file.startswith("<") or "site-packages" in path.parts or own in path.parents or standard in path.parents


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
