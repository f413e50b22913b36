"""A function and its parameters become a `Bound`: checked before the run begins, not on image 40,000."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import yaml

from bench.identity import identity
from bench.options import CONF, GROUPS, SEVERAL, conf_node, did_you_mean, named_function, names, text_parameters
from bench.types import Bound, UserError

# What the runner hands to a method or metric, by parameter name.
GIVEN_TO_METHOD = (
    "acts", "grads", "images", "shown", "ids", "targets", "score", "forward_from", "gradient", "logits", "module",
    "head", "outputs", "once", "truth", "outside", "layer_name", "reshaped", "attention", "attention_grads",
    "attention_pass",
)  # fmt: skip
GIVEN_TO_METRIC = ("heatmaps", "batch", "native", "score", "explain")
# Kinds of parameters, by their annotation.
KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a word",
    "os.PathLike[str]": "a word",
    "Sequence[float]": "a list of numbers",
    "Sequence[int]": "a list of whole numbers",
    "Sequence[str]": "a list of words",
    "Sequence[int | str]": "a list",
    "Mapping[str, Any]": "several settings",
    "None": "null",
}
# Kinds of the settings in conf/config.yaml.
SETTINGS = {
    "method": "Mapping[str, Any]", "metric": "Mapping[str, Any]", "model": "Mapping[str, Any]",
    "dataset": "Mapping[str, Any]", "layer": "Sequence[str] | str | None", "scale": "Sequence[float] | float",
    "fuse": "str | None", "augment": "Sequence[str] | str | None", "target": "int | str", "transform": "str | None",
    "limit": "int | None", "seed": "int", "against": "Sequence[str] | str | None", "out": "str", "shards": "int",
    "shard": "int", "save_maps": "bool | str", "gallery": "Mapping[str, Any]", "gallery.cases": "int",
    "gallery.images": "Sequence[str]", "reference": "str", "device": "str", "batch": "int | str",
    "score_batch": "int | str", "compile": "bool | str", "precision": "str", "threads": "int | None", "workers": "int",
    "estimate": "bool", "loader_workers": "int | None", "quiet": "bool", "verbose": "bool", "trust": "Sequence[str]",
}  # fmt: skip
# Kinds of what a yaml says about its method or metric.
ABOUT = {
    "needs": "Sequence[str]", "show": "Sequence[str]", "class_mean": "Sequence[str]", "version": "int",
    "category": "str", "unit": "str | Mapping[str, Any]", "higher_is_better": "Mapping[str, Any]",
    "dataset_statistics": "Mapping[str, Any]", "curve_points": "str", "fuse": "str", "folder": "str", "each": "str",
    "size": "str", "fine_tuned": "str", "passes": "int | str | Mapping[str, Any]",
}  # fmt: skip
# Least and largest value of settings and parameters by name. A method's or metric's own limits are in its function;
# these keep numbers from running out of memory or of what a 64-bit integer holds.
BOUNDS: dict[str, tuple[float, float]] = {
    "limit": (1, 10**9), "seed": (0, 2**32 - 1), "shards": (1, 10**6), "shard": (0, 10**6), "gallery.cases": (0, 10**6),
    "batch": (1, 2**16), "score_batch": (1, 2**16), "threads": (1, 1024), "workers": (1, 1024),
    "loader_workers": (0, 1024), "target": (0, 10**6), "bins": (-(10**6), 2**16), "cells": (-(10**6), 128),
    "radius": (-(10**6), 100), "kernel": (-(10**6), 1001), "rate": (0, 10**6), "size": (1, 4096), "resize": (1, 8192),
    "min_area": (0, 10**12), "scale": (0.1, 8), "range": (-(10**12), 10**12), "show": (0, 10**4),
}  # fmt: skip
ANY = (-(10**6), 10**6)
TEXTS = ("method", "metric", "model", "dataset")  # groups whose functions have parameters


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UserError for a setting of conf/config.yaml that is missing, of the wrong kind or out of bounds."""
    for key, kind in SETTINGS.items():
        group, _, member = key.partition(".")
        node = settings.get(group, {})
        if (member or group) not in (node if member else settings):
            raise UserError(f"{key}= is missing; see python -m bench --cfg job")
        value = node[member] if member else settings[group]
        if value == "":
            raise UserError(f"{key}= is empty; it must be {described(kind)}")
        if wanted := wanted_instead(value, kind) or out_of_bounds(value, key):
            raise UserError(f"{key}={written(value)} must be {wanted}")


def bind(
    name: str, node: Any, given: Sequence[str] = (), group: str | None = None, trust: Collection[str] = ()
) -> Bound:
    """Bind the parameters of a config node to the function that it names.

    The node has ``_target_``, parameters, and for methods and metrics ``about`` and ``relu``. `given` is what the
    runner hands over: `GIVEN_TO_METHOD`, `GIVEN_TO_METRIC`, nothing for data sets and networks, which have a `group`.
    A function of a package in `trust` is known by its `identity`, beside its parameters. UserError for a parameter that
    does not exist, is missing, of the wrong kind or out of bounds.
    """
    if not isinstance(node, Mapping):
        raise UserError(f"{name} is not a config node with a _target_")
    parameters = dict(node)
    about, relu = parameters.pop("about", None) or {}, parameters.pop("relu", True)
    if not isinstance(relu, bool):
        raise UserError(f"{name}.relu={written(relu)} must be {KINDS['bool']}")
    if not isinstance(about, Mapping):
        raise UserError(f"{name}.about={written(about)} must be {KINDS['Mapping[str, Any]']}")
    for key, kind in ABOUT.items():
        if key in about and (wanted := wanted_instead(about[key], kind)):
            raise UserError(f"{name}.about.{key}={written(about[key])} must be {wanted}")
    group = group or ("metric" if given == GIVEN_TO_METRIC else "method")
    function = named_function(parameters.get("_target_"), f"{name}: _target_", group, trust)
    arguments = {key: value for key, value in parameters.items() if key != "_target_"}
    try:
        signature = inspect.signature(function)
    except ValueError as error:  # one that is written in C
        raise UserError(f"{name} does not say what it takes; write a function around it") from error
    accepted = [key for key in signature.parameters if key not in given]
    for key, value in arguments.items():
        if key not in accepted:
            raise UserError(f"{name} has no parameter {key!r}; {did_you_mean(key, accepted)}")
        if value == "???":
            raise UserError(f"{name} needs {key}=; add {group}.{name}.{key}=VALUE")
        if wanted := wanted_instead(value, signature.parameters[key].annotation) or out_of_bounds(value, key):
            raise UserError(f"{name if given else group}.{key}={written(value)} must be {wanted}")
    wants = tuple(key for key in given if key in signature.parameters)
    for key, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in arguments and key not in wants:
            raise UserError(f"{name} needs {key}=")
    if ":" in parameters["_target_"] and given:
        parameters["code"] = identity(function)
    call = partial(function, **arguments)
    return Bound(name=name, call=call, wants=wants, about=dict(about), parameters=parameters, relu=relu)


def bind_function(function: Callable[..., Any], given: Sequence[str]) -> Bound:
    """Bind a function that has no config node: with its own defaults, under its own name.

    Its only parameter is its `identity`, so that results of a changed function are not taken for the new one's.
    UserError where it has a parameter without default that nobody gives.
    """
    plain: Any = function
    while isinstance(plain, partial):
        plain = plain.func
    name = getattr(plain, "__name__", type(plain).__name__)
    try:
        parameters = inspect.signature(function).parameters
    except ValueError as error:  # one that is written in C
        raise UserError(f"{name} does not say what it takes; write a function around it") from error
    for key, one in parameters.items():
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD) and key not in given:
            raise UserError(f"{name} needs {key}=; give it a default, or take functools.partial")
    wants = tuple(key for key in given if key in parameters)
    return Bound(name=name, call=function, wants=wants, about={}, parameters={"code": identity(function)}, relu=True)


def wanted_instead(value: Any, annotation: Any) -> str | None:
    """Say what kind of value a parameter takes, e.g. ``a whole number``; None where `value` is of that kind.

    Parameters
    ----------
    value : object
        As it comes from YAML; an interpolation that is not resolved, such as ``${seed}``, passes.
    annotation : object
        Of the parameter in the function's signature, a string. Any value passes for one that is not made of `KINDS`.
    """
    kinds = kinds_of(annotation)
    if not set(kinds) <= set(KINDS) or str(value).startswith("${") or any(fits(value, kind) for kind in kinds):
        return None
    return described(annotation)


def kinds_of(annotation: Any) -> list[str]:
    """Members of a union."""
    return re.split(r" \| (?![^\[]*\])", str(annotation))


def described(annotation: Any) -> str:
    """Kinds in words."""
    return " or ".join(dict.fromkeys(KINDS[kind] for kind in kinds_of(annotation)))


def fits(value: Any, kind: str) -> bool:
    """Whether a value from YAML is of one of the `KINDS`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    members = re.fullmatch(r"Sequence\[(.*)\]", kind)
    if members:
        kinds = kinds_of(members[1])
        return isinstance(value, list | tuple) and all(any(fits(one, each) for each in kinds) for one in value)
    return {
        "bool": isinstance(value, bool),
        "int": whole,
        "float": whole or isinstance(value, float),
        "str": isinstance(value, str),
        "os.PathLike[str]": isinstance(value, os.PathLike),
        "Mapping[str, Any]": isinstance(value, Mapping),
        "None": value is None,
    }[kind]


def out_of_bounds(value: Any, name: str) -> str | None:
    """Say between which bounds the numbers of a parameter are, where one of `value` is not."""
    numbers = [one for one in (value if isinstance(value, list | tuple) else [value]) if fits(one, "float")]
    least, most = BOUNDS.get(name, ANY)
    return None if all(least <= one <= most for one in numbers) else f"from {least} to {most}"


def written(value: Any) -> str:
    """Python value as the right side of an override."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if hasattr(value, "item") and not getattr(value, "shape", ()):  # a number of numpy's
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    if isinstance(value, int | float) or re.fullmatch(
        r"(?!(null|true|false|nan|inf)$)[a-z_][\w.+-]*", text, re.A | re.I
    ):
        return text
    return quoted(text)


NUMBER = r"[+-]?((\d[\d_]*\.?|\.\d)[\d_]*(e[+-]?\d[\d_]*)?|inf|nan)"
PLAIN = r"[\w/\\+.$%*@?|:-]+( +[\w/\\+.$%*@?|:-]+)*"  # what Hydra's grammar takes without quotation marks


def keep_names(word: str) -> str:
    """Quote the value of an override where it is a name that Hydra would take for a number, or could not read.

    Such as ``layer=0.10``, ``out=2024_01_15`` or ``dataset.root=epoch=3 (copy)``. A value that has quotation marks, or
    commas outside a list, is left as it is.
    """
    key, _, value = word.partition("=")
    group, _, parameter = key.lstrip("+").partition(".")
    names = (
        SETTINGS.get(key, "")
        if group not in TEXTS
        else "str" * (parameter.rpartition(".")[2] in text_parameters(group))
    )
    if "str" not in names or "int" in names or re.match(r"['\"{]|\$\{|null$|true$|false$|$", value):
        return word
    if not value.startswith("["):
        return word if "," in value else f"{key}={kept_name(value)}"
    if re.search(r"['\"{$]", value) or not re.fullmatch(r"\[[^\[\]]*\]", value):
        return word
    return f"{key}=[{','.join(kept_name(one.strip()) for one in value[1:-1].split(',')) if value[1:-1] else ''}]"


def kept_name(name: str) -> str:
    """Quote a name where Hydra would take it for a number, or not read it."""
    good = re.fullmatch(PLAIN, name, re.A) and not re.fullmatch(NUMBER, name, re.I | re.A)
    return name if good else quoted(name)


def quoted(text: str) -> str:
    """Text in quotation marks; Hydra takes backslashes as they are but before such a mark."""
    doubled = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text)
    return f"'{doubled}'"


def nearest_settings(key: str) -> str:
    """Name the settings nearest to one that does not exist, e.g. ``method.grad_entropy.bin``."""
    group, _, rest = key.partition(".")
    if group not in GROUPS or not rest:
        settings = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
        return did_you_mean(key, dict.fromkeys([*settings, *GROUPS]))
    name, _, parameter = rest.partition(".")
    if group not in SEVERAL:
        return f"the settings of a {group} are in its yaml: python -m bench {group}=NAME --cfg job --package {group}"
    if name not in names(group):
        return did_you_mean(name, names(group))
    node = conf_node(group, name)
    known = [*inspect.signature(named_function(node["_target_"], name, group)).parameters, "relu"]
    if parameter in node:
        return f"{name} is not part of this run; add it with {group}="
    known = [one for one in known if one not in (GIVEN_TO_METHOD if group == "method" else GIVEN_TO_METRIC)]
    return f"add it with +{key}=VALUE" if parameter in known else did_you_mean(parameter, known)
