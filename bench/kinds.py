"""What kind of value a method's or metric's parameter takes, by its annotation."""

from __future__ import annotations

from typing import Any

KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "Sequence[float]": "a list of numbers",
}


def wanted_instead(value: Any, annotation: Any) -> str | None:
    """Say what a parameter takes where `value` is none, e.g. ``a whole number``; None where it is one or nobody knows.

    Parameters
    ----------
    value : object
        As it comes from YAML; an interpolation that is not resolved, such as ``${seed}``, passes.
    annotation : object
        Of the parameter in the function's signature, a string; known are those of `KINDS`, also with ``| None``.
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
