"""From config nodes to callables; with __main__ the only module that knows Hydra."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.kinds import wanted_instead
from bench.types import Bound, UserError

CONF = Path(__file__).parent / "conf"
# For hydra/launcher=ray: GPUs that a job gets where this machine has any.
OmegaConf.register_new_resolver("bench_gpus", lambda: int(Path("/dev/nvidia0").exists()), replace=True)
GROUPS = ("method", "metric", "model", "dataset", "experiment")
SEVERAL = ("method", "metric")
ALLOWED = ("methods.", "metrics.", "bench.")

# What the runner hands to a method or metric, by parameter name.
GIVEN_TO_METHOD = (
    "acts", "grads", "images", "ids", "targets", "score", "forward_from", "gradient", "logits", "module", "head",
    "once",
)  # fmt: skip
GIVEN_TO_METRIC = ("heatmaps", "batch", "score", "explain")


def options(group: str) -> list[str]:
    """Names of a config group, sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def check_overrides(arguments: Sequence[str]) -> None:
    """Check the names on the command line before Hydra sees them: its own messages leave out lists.

    Raises
    ------
    UserError
        An unknown name (with the nearest ones), or a list where one name is meant.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    if any(word.startswith("=") for word in words):
        raise UserError("an override needs a name before its =")
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise UserError(one_line(error)) from error
    for override in overrides:
        group = override.key_or_group
        if group not in GROUPS or override.is_delete():
            continue
        value = override.value()
        if override.is_sweep_override() and not {"-m", "--multirun"} & set(arguments):
            listed = str(override.input_line).split("=", 1)[1]
            together = f"'{group}=[{listed}]' (one shared pass), or " if group in SEVERAL else ""
            raise UserError(f"{group}={listed} is several values: write {together}-m {group}={listed} to sweep")
        choices = list(value.list) if isinstance(value, ChoiceSweep) else [value]
        for choice in choices:
            if isinstance(choice, list) and group not in SEVERAL:
                raise UserError(
                    f"{group}= takes one name, not a list; sweep with: -m {group}={','.join(map(str, choice))}"
                )
            for name in choice if isinstance(choice, list) else [choice]:
                check_name(group, name)


def check_name(group: str, name: Any) -> None:
    """Raise UserError, with the nearest names, unless `name` is an option of the group."""
    known = options(group)
    text = str(getattr(name, "text", name))
    if name is None or text in known:
        return
    raise UserError(f"unknown {group} {text!r}; {did_you_mean(text, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``did you mean a, b?`` or, where nothing is near, the whole list."""
    known = list(known)
    near = get_close_matches(name, known, 3, 0.5)
    return f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"


def one_line(error: BaseException) -> str:
    """Take the line breaks out of an error's message."""
    return " ".join(str(error).split())


def compose_config(words: Sequence[str], settings: Mapping[str, Any] | None = None) -> DictConfig:
    """Compose the config of a run outside the command line.

    Parameters
    ----------
    words : sequence of str
        Overrides as on the command line.
    settings : mapping, optional
        More of them, as Python values.

    Raises
    ------
    UserError
        As on the command line.
    """
    asked = [*words, *(f"{name}={written(value)}" for name, value in (settings or {}).items())]
    check_overrides(asked)
    # Hydra keeps one composer for the whole process: the caller may be a Hydra program itself.
    mine, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=asked)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    finally:
        GlobalHydra.instance().hydra = mine


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


def plain(node: Any) -> Any:
    """Turn a config node into plain dicts and lists, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def resolve(target: Any) -> Callable[..., Any]:
    """Find the function that a ``_target_`` names, in this program's own modules only.

    Raises
    ------
    UserError
        It is missing, lies elsewhere, or does not exist.
    """
    if not isinstance(target, str) or not target.startswith(ALLOWED):
        raise UserError(f"_target_={target} is refused: a config may only name functions in {', '.join(ALLOWED)}")
    try:
        return get_method(target)
    except (ImportError, ValueError, HydraException) as error:
        raise UserError(f"_target_={target} does not exist") from error


def bind(name: str, node: Any, given: Sequence[str] = ()) -> Bound:
    """Bind a node's parameters to its target, so that a wrong one fails now and not on image 40,000.

    Raises
    ------
    UserError
        A parameter that does not exist, is missing or, a method's or metric's, of the wrong kind.
    """
    if node is None or not hasattr(node, "items"):
        raise UserError(f"{name} is not a config node with a _target_")
    parameters = dict(plain(node))
    about, relu = parameters.pop("about", None) or {}, parameters.pop("relu", True)
    function = resolve(parameters.get("_target_"))
    arguments = {key: value for key, value in parameters.items() if key != "_target_"}
    signature = inspect.signature(function)
    accepted = [key for key in signature.parameters if key not in given]
    for key, value in arguments.items():
        if key not in accepted:
            raise UserError(f"{name} has no parameter {key!r}; {did_you_mean(key, accepted)}")
        # Of data sets and networks names may look like numbers.
        if given and (wanted := wanted_instead(value, signature.parameters[key].annotation)):
            raise UserError(f"{name}.{key}={written(value)} must be {wanted}")
    wants = tuple(key for key in given if key in signature.parameters)
    for key, parameter in signature.parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in arguments and key not in wants:
            raise UserError(f"{name} needs {key}=")
    return Bound(name, partial(named_errors, name, function, **arguments), wants, dict(about), parameters, bool(relu))


def bind_function(function: Callable[..., Any], given: Sequence[str]) -> Bound:
    """Bind a function that has no config node: with its own defaults, under its own name."""
    wants = tuple(key for key in given if key in inspect.signature(function).parameters)
    return Bound(getattr(function, "__name__", "function"), function, wants, {}, {}, True)


def named_errors(name: str, function: Callable[..., Any], /, *values: Any, **arguments: Any) -> Any:
    """Call a method or metric; a ValueError that it raises itself is about its parameters or the layer: the user's."""
    try:
        return function(*values, **arguments)
    except ValueError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if Path(frame.filename).parent.name in ("methods", "metrics"):
            raise UserError(f"{name}: {error}") from error
        raise


def bind_all(node: DictConfig | dict[str, Any], given: Sequence[str]) -> list[Bound]:
    """Bind every member of a multi-select group.

    Raises
    ------
    UserError
        As `bind`, or settings of something that does not exist.
    """
    group, parts = "method" if given is GIVEN_TO_METHOD else "metric", []
    for name, member in node.items():
        settings = plain(member)
        if isinstance(settings, dict) and "_target_" not in settings:
            check_name(group, name)  # settings that an experiment has for what was not chosen
        else:
            parts.append(bind(str(name), member, given))
    return parts


def build(group: str, node: DictConfig | dict[str, Any], **more: Any) -> Any:
    """Call the target of a single-select group's node (dataset, model); what it does not take of `more` is left out."""
    values = dict(plain(node))
    function = resolve(values.get("_target_"))
    taken = inspect.signature(function).parameters
    if "name" not in taken:
        values.pop("name", None)
    missing = [key for key, value in values.items() if value == "???"]
    if missing:
        raise UserError(f"{missing[0]}= is missing; add {group}.{missing[0]}=VALUE")
    defaults = {key: value for key, value in more.items() if key in taken}
    return bind(str(node["name"]), {**defaults, **values}).call()


def explain(error: BaseException) -> str:
    """One line for an error of Hydra's or OmegaConf's: the override at fault and how to mend it."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    text = "; ".join(dict.fromkeys(one_line(cause) for cause in causes))
    unknown = re.search(r"Could not override '([^']+)'", text)
    return f"there is no setting {unknown[1]!r}; {nearest_settings(unknown[1])}" if unknown else text


def nearest_settings(key: str) -> str:
    """Say what there is instead of a setting that does not exist, e.g. ``method.grad_entropy.bin``."""
    group, _, rest = key.partition(".")
    if group not in GROUPS or not rest:
        settings = [str(name) for name in OmegaConf.load(CONF / "config.yaml")]
        return did_you_mean(key, dict.fromkeys([*settings, *GROUPS]))
    name, _, parameter = rest.partition(".")
    if group not in SEVERAL:
        return f"the settings of a {group} are in its yaml: python -m bench {group}=NAME --cfg job --package {group}"
    if name not in options(group):
        return did_you_mean(name, options(group))
    node = plain(OmegaConf.load(CONF / group / f"{name}.yaml"))[name]
    known = [*inspect.signature(resolve(node["_target_"])).parameters, "relu"]
    given = GIVEN_TO_METHOD if group == "method" else GIVEN_TO_METRIC
    if parameter in node:
        return f"{name} is not part of this run; add it with {group}="
    if parameter in known and parameter not in given:
        return f"add it with +{key}=VALUE"
    return did_you_mean(parameter, [key for key in known if key not in given])
