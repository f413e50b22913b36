"""A function and its parameters become a `Bound`: checked before the run begins, not on image 40,000."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from bench.options import did_you_mean, named_function
from bench.types import Bound, UserError

# What the runner hands to a method or metric, by parameter name.
GIVEN_TO_METHOD = (
    "acts", "grads", "images", "ids", "targets", "score", "forward_from", "gradient", "logits", "module", "head",
    "outputs", "once",
)  # fmt: skip
GIVEN_TO_METRIC = ("heatmaps", "batch", "score", "explain")
# Kinds of parameters, by their annotation.
KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "Sequence[float]": "a list of numbers",
}


def bind(name: str, node: Any, given: Sequence[str] = (), group: str | None = None) -> Bound:
    """Bind the parameters of a config node to the function that it names.

    The node has ``_target_``, parameters, and for methods and metrics ``about`` and ``relu``. `given` is what the
    runner hands over: `GIVEN_TO_METHOD`, `GIVEN_TO_METRIC`, nothing for data sets and networks, which have a `group`.
    UserError for a parameter that does not exist, is missing or, for methods and metrics, is of the wrong kind.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{name} is not a config node with a _target_")
    parameters = dict(node)
    about, relu = parameters.pop("about", None) or {}, parameters.pop("relu", True)
    group = group or ("metric" if given == GIVEN_TO_METRIC else "method")
    function = named_function(parameters.get("_target_"), f"{name}: _target_", group)
    arguments = {key: value for key, value in parameters.items() if key != "_target_"}
    signature = inspect.signature(function)
    accepted = [key for key in signature.parameters if key not in given]
    for key, value in arguments.items():
        if key not in accepted:
            raise UserError(f"{name} has no parameter {key!r}; {did_you_mean(key, accepted)}")
        # Parameters of data sets and networks are not checked: their names may look like numbers.
        if given and (wanted := wanted_instead(value, signature.parameters[key].annotation)):
            raise UserError(f"{name}.{key}={written(value)} must be {wanted}")
    wants = tuple(key for key in given if key in signature.parameters)
    for key, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in arguments and key not in wants:
            raise UserError(f"{name} needs {key}=")
    call = partial(function, **arguments)
    return Bound(name=name, call=call, wants=wants, about=dict(about), parameters=parameters, relu=bool(relu))


def bind_function(function: Callable[..., Any], given: Sequence[str]) -> Bound:
    """Bind a function that has no config node: with its own defaults, under its own name."""
    name = getattr(function, "__name__", "function")
    wants = tuple(key for key in given if key in inspect.signature(function).parameters)
    return Bound(name=name, call=function, wants=wants, about={}, parameters={}, relu=True)


def wanted_instead(value: Any, annotation: Any) -> str | None:
    """Say what kind of value a parameter takes, e.g. ``a whole number``; None where `value` is of that kind.

    Parameters
    ----------
    value : object
        As it comes from YAML; an interpolation that is not resolved, such as ``${seed}``, passes.
    annotation : object
        Of the parameter in the function's signature, a string. Any value passes for one that is not in `KINDS`, with
        or without ``| None``.
    """
    kind = str(annotation).removesuffix(" | None")
    if kind not in KINDS or (value is None and kind != annotation) or str(value).startswith("${"):
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = {
        "bool": isinstance(value, bool),
        "int": whole,
        "float": whole or isinstance(value, float),
        "str": isinstance(value, str),
        "Sequence[float]": isinstance(value, list | tuple) and not any(wanted_instead(one, "float") for one in value),
    }
    return None if fits[kind] else KINDS[kind]


def written(value: Any) -> str:
    """Python value as the right side of an override."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    quoted = text.replace("\\'", "\\\\'").replace("'", "\\'")
    return text if re.fullmatch(r"[\w.+-]+", text) else f"'{quoted}'"
