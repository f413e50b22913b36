"""Tell a function of a user's from others of the same name, by its code and all that its code uses."""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

LIBRARIES = ("site-packages", sysconfig.get_paths()["stdlib"], "<frozen")


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
    if hasattr(value, "detach"):  # a tensor of torch's, which this module does not load
        value = value.detach().cpu()
        value = (value.float() if "bfloat16" in str(value.dtype) else value).numpy()
    if hasattr(value, "tobytes"):
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
