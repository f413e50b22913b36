"""A user's own code: imported only where the user names it, told from other code by all that it uses."""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from bench.types import UserError

LIBRARIES = ("site-packages", sysconfig.get_paths()["stdlib"], "<frozen")


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
    own, standard = Path(__file__).parent, Path(sysconfig.get_paths()["stdlib"])
    return file.startswith("<") or "site-packages" in path.parts or own in path.parents or standard in path.parents


def identity(function: Any) -> str:
    """Hash of a function: 8 hex digits, equal in every process with one version of Python.

    Beside its compiled code count its defaults, the variables around it and the globals that it names: their values
    or, for functions, their code in turn. An object that can be called counts with its attributes. Modules, and what is
    written in a library, count by name.
    """
    digest = hashlib.sha256()
    for piece in pieces(function, {}):
        digest.update(piece)
    return digest.hexdigest()[:8]


def pieces(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    """Yield bytes that differ where a value does; `seen`, by address, ends circles and keeps addresses taken."""
    if id(value) in seen:
        return
    values = not isinstance(value, ModuleType | type)  # the module torch has the methods of its tensors, too
    if values and hasattr(value, "detach"):  # a tensor of torch's, which this module does not load
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    if values and hasattr(value, "tobytes"):
        yield f"{value.dtype} {value.shape}".encode() + value.tobytes()
        return
    yield f"{type(value).__name__}(".encode()
    inner = members(value)
    if inner is None:
        yield re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()
    else:
        seen[id(value)] = value
        yield from chain.from_iterable(pieces(one, seen) for one in inner)
    yield b")"


def members(value: Any) -> list[Any] | None:
    """Values that make up a value; None for one that its text says all of."""
    if isinstance(value, ModuleType):
        return [value.__name__]
    if isinstance(value, FunctionType):
        code, names = value.__code__, set(names_in(value.__code__))
        if any(place in code.co_filename for place in LIBRARIES):
            return [value.__module__, value.__qualname__]
        around = {name: value.__globals__[name] for name in names & value.__globals__.keys()}
        return [code, value.__defaults__, value.__kwdefaults__, [contents(cell) for cell in value.__closure__ or ()],
                around]  # fmt: skip
    if isinstance(value, CodeType):
        return [value.co_code, value.co_names, value.co_varnames, *value.co_consts]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, type):
        return [value.__module__, value.__qualname__, [one for one in vars(value).values() if callable(one)]]
    if isinstance(value, Mapping):
        return [one for pair in sorted(value.items(), key=lambda pair: str(pair[0])) for one in pair]
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, list | tuple):
        return list(value)
    return [type(value), vars(value)] if hasattr(value, "__dict__") else None


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that a piece of code looks up, and those that functions in it do."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from names_in(one)


def contents(cell: Any) -> Any:
    """Value of a variable around a function; None where it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
