"""What `conf/` offers and which functions it may name; loads neither torch nor Hydra."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from bench.identity import user_function
from bench.types import UserError

HERE = Path(__file__).parent
# In a wheel conf/ lies in bench/, in a checkout beside it.
CONF = HERE / "conf" if (HERE / "conf" / "config.yaml").is_file() else HERE.parent / "conf"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST = 50  # levels of a yaml
GROUPS = ("method", "metric", "model", "dataset", "experiment")
SEVERAL = ("method", "metric")  # groups of which a run takes several at a time
# Package whose functions a group's config may name.
PACKAGES = {"method": "methods", "metric": "metrics", "model": "bench.networks", "dataset": "bench.datasets"}


def names(group: str) -> list[str]:
    """Names of a config group, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def conf_node(group: str, name: str) -> dict[str, Any]:
    """Read what ``conf/<group>/<name>.yaml`` says, without composing a config.

    Returns
    -------
    dict
        For a method or metric the node below its name; empty for a name that the program does not ship.
    """
    if name not in names(group):
        return {}
    node = yaml.safe_load((CONF / group / f"{name}.yaml").read_text(encoding="utf-8")) or {}
    return dict((node.get(name) or {}) if group in ("method", "metric") else node)


def check_yaml(text: str) -> None:
    """Raise ValueError for a YAML text of someone else's with aliases, of which ten lines can stand for gigabytes.

    Also for one that is deeper than `DEEPEST`.
    """
    depth = 0
    for event in yaml.parse(text, LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise ValueError("it has aliases (*name), or is too deep")


def check_name(group: str, name: Any, more: Collection[str] = ()) -> None:
    """Raise UserError, with the nearest names, unless `name` is one of the group's or of `more` (None passes)."""
    text = str(getattr(name, "text", name))  # Hydra's parser wraps quoted words
    known = sorted({*names(group), *more})
    if name is not None and text not in known:
        raise UserError(f"unknown {group} {text[:100]!r}; {did_you_mean(text, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean a, b?`` or, where nothing is near, the whole list."""
    known = list(known)
    near = get_close_matches(name, known, 3, 0.5)
    return f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"


def named_function(target: Any, entry: str, group: str = "metric", trust: Collection[str] = ()) -> Callable[..., Any]:
    """Find the function that a config names: one that this program defines for the group, or one of a trusted package.

    Configs and results may come from other people, and naming a function is calling it. So the module is one of the
    group's own package, and the function is written in that module, not imported into it. `entry` is the place of the
    name in the config, for the UserError that says what is wrong. ``package.module:function`` is a user's own, of a
    package in `trust`, which the command line names.
    """
    if isinstance(target, str) and ":" in target:
        if (own := re.split("[.:]", target)[0]) not in trust:
            raise UserError(
                f"{entry}={target} is refused: it would run code of the package {own}; allow that with trust=[{own}]"
            )
        return user_function(target, entry)
    package = PACKAGES[group]
    if not isinstance(target, str) or not re.fullmatch(rf"{re.escape(package)}(\.\w+){{2,}}", target, re.ASCII):
        raise UserError(f"{entry}={target} is refused: a {group} is a function defined in {package}")
    if group in ("model", "dataset") and target not in shipped_targets(group):
        # Its parameters come from the config, too, and some functions of the package unpickle or import what they get.
        raise UserError(f"{entry}={target} is refused: no {group} of conf/{group} names it")
    module, _, name = module_of(target).rpartition(".")
    try:
        function = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not module.startswith(str(error.name)):
            raise  # something that the module imports is not installed
        raise UserError(f"{entry}={target} does not exist") from error
    plain = inspect.isfunction(function) or inspect.isclass(function)
    if not plain or function.__module__ != module or function.__qualname__ != name:
        raise UserError(f"{entry}={target} is refused: it is no function defined in that module")
    return function


@cache
def shipped_targets(group: str) -> set[str]:
    """Functions that the configs of a group name."""
    return {str(conf_node(group, name).get("_target_")) for name in names(group)}


def module_of(target: str) -> str:
    """Full name of what a config names: ``methods.`` and ``metrics.`` are this program's, not the current folder's."""
    return target if target.startswith("bench.") else f"bench.{target}"


def entries(group: str) -> dict[str, str]:
    """Name and description of every option of a config group, sorted by name."""
    return {name: describe(group, name) for name in names(group)}


def describe(group: str, name: str) -> str:
    """One line about an option: its yaml's first comment; for a method or metric the first line of its docstring.

    A network's default layers follow, or the parameters that differ from the function's defaults, so that variants
    can be told apart.
    """
    node = conf_node(group, name)
    if group not in ("method", "metric"):
        lines = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        about = next((line for line in comments if not line.startswith("@")), "").rstrip(".")
        return f"{about} ({', '.join(node['layers'])})" if node.get("layers") else about
    about, defaults = docstring(str(node.pop("_target_", "")))
    node.pop("about", None)
    changed = [f"{key}={value}" for key, value in node.items() if key in defaults and value != defaults[key]]
    changed = [word for word in changed if "${" not in word]
    return f"{about} ({', '.join(changed)})" if changed else about


@cache
def definition(target: str) -> ast.FunctionDef | None:
    """Find a function in its file without importing it; None where there is no such function."""
    module, _, name = module_of(target).rpartition(".")
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return next((one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == name), None)


def docstring(target: str) -> tuple[str, dict[str, Any]]:
    """First line of a function's docstring, without its full stop, and its literal defaults; read without importing it.

    Both are empty for a function that does not exist: the list still shows the other options, and a run that uses this
    one says what is wrong.
    """
    node = definition(target)
    if node is None:
        return "", {}
    words = (ast.get_docstring(node) or "").splitlines() or [""]
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    defaults = {arg.arg: value.value for arg, value in pairs if isinstance(value, ast.Constant)}
    return words[0].rstrip("."), defaults


@cache
def text_parameters(group: str) -> set[str]:
    """Names of the parameters that take text, and no number, in the functions of a group's configs."""
    kinds: dict[str, set[str]] = {}
    for node in map(definition, shipped_targets(group)):
        for one in node.args.kwonlyargs if node else ():
            kinds.setdefault(one.arg, set()).update(re.findall(r"\w+", ast.unparse(one.annotation or one)))
    return {name for name, words in kinds.items() if "str" in words and not words & {"int", "float"}}
