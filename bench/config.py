"""From config nodes to bound functions; with `bench.__main__` the only module that knows Hydra."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind, bind_function, written
from bench.cli import LAUNCHERS
from bench.options import CONF, GROUPS, check_name, conf_node, did_you_mean, named_function, names
from bench.types import Bound, UserError

__all__ = [
    "CONF", "GIVEN_TO_METHOD", "GIVEN_TO_METRIC", "bind", "bind_all", "bind_function", "build", "check_name",
    "check_overrides", "compose_config", "explain", "guard_hydra", "plain", "written",
]  # fmt: skip

# For hydra/launcher=ray: GPUs that a job gets where this machine has any.
OmegaConf.register_new_resolver("bench_gpus", lambda: int(Path("/dev/nvidia0").exists()), replace=True)
SEVERAL = ("method", "metric")
# What may write log messages; Python's logging would call any function that a config names.
LOGGING = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "colorlog.ColoredFormatter")


def check_overrides(arguments: Sequence[str]) -> None:
    """Check the names on the command line before Hydra sees them, whose own messages do not list the alternatives.

    Raises
    ------
    UserError
        An unknown name (with the nearest ones), a list where one name is meant, or a setting that would let Hydra
        call a function.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    if any(word.startswith("=") for word in words):
        raise UserError("an override needs a name before its =")
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise UserError(one_line(error)) from error
    for override in overrides:
        check_hydra_override(override)
        if override.key_or_group in GROUPS and not override.is_delete():
            check_choice(override, sweeps=bool({"-m", "--multirun"} & set(arguments)))


def check_choice(override: Override, sweeps: bool) -> None:
    """Raise UserError unless an override such as ``model=vgg16`` names what its group has, and as many as it takes."""
    group, value = override.key_or_group, override.value()
    if override.is_sweep_override() and not sweeps:
        listed = str(override.input_line).split("=", 1)[1]
        together = f"'{group}=[{listed}]' (one shared pass), or " if group in SEVERAL else ""
        raise UserError(f"{group}={listed} is several values: write {together}-m {group}={listed} to sweep")
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        if isinstance(choice, list) and group not in SEVERAL:
            raise UserError(f"{group}= takes one name, not a list; sweep with: -m {group}={','.join(map(str, choice))}")
        for name in choice if isinstance(choice, list) else [choice]:
            check_name(group, name)


def check_hydra_override(override: Override) -> None:
    """Raise UserError for a setting of Hydra's own that names a function to call; see `check_hydra`."""
    key, text = override.key_or_group, str(override.input_line)
    if (override.package or "").split(".")[0] == "hydra":
        raise UserError(f"{text} is refused: it would put a config of another group into Hydra's own settings")
    if re.split(r"[./@]", key)[0] != "hydra":
        return
    logs = re.match(r"hydra\.(job|hydra)_logging\b", key) and not key.endswith(".level")
    if logs or re.search(r"_target_|callbacks|\(\)", text):
        raise UserError(f"{text} is refused: it could make Hydra call any function")
    if key == "hydra/launcher" and not override.is_delete():
        name = str(getattr(override.value(), "text", override.value()))
        if name not in LAUNCHERS:
            raise UserError(f"unknown hydra/launcher {name!r}; {did_you_mean(name, LAUNCHERS)}")


def guard_hydra() -> None:
    """Check every config that Hydra composes from now on in this process, before it acts on it; see `check_hydra`.

    The command line calls this: files in ``--config-dir`` can set what `check_overrides` refuses as a word.
    """
    load = ConfigLoaderImpl.load_configuration
    if hasattr(load, "__wrapped__"):  # it is guarded already
        return

    @wraps(load)
    def load_configuration(self: ConfigLoaderImpl, *values: Any, **more: Any) -> DictConfig:
        node = load(self, *values, **more)
        check_hydra(OmegaConf.to_container(node.hydra, resolve=False))
        return node

    # Hydra has no public place between composing a config and acting on it.
    setattr(ConfigLoaderImpl, load.__name__, load_configuration)


def check_hydra(settings: Any) -> None:
    """Raise UserError where Hydra's own settings name a function other than its launchers, sweepers and log handlers.

    Parameters
    ----------
    settings : dict
        The node ``hydra``, interpolations not resolved.
    """
    if settings.get("callbacks"):
        raise UserError("hydra.callbacks is refused: it could make Hydra call any function")
    for kind in ("launcher", "sweeper"):
        node = settings.get(kind)
        target = str(node.get("_target_")) if isinstance(node, dict) else str(node)
        if not target.startswith(("hydra._internal.", "hydra_plugins.hydra_")):
            raise UserError(f"hydra.{kind}._target_={target} is refused: it is not one of Hydra's")
    parts: list[Any] = [settings["job_logging"], settings["hydra_logging"]]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            parts += part.values()
            called = [part[key] for key in ("class", "()") if key in part and part[key] not in LOGGING]
        else:
            parts += part if isinstance(part, list) else []
            called = [part] if isinstance(part, str) and part.startswith("${") and part.endswith("}") else []
        if called:
            raise UserError(f"{called[0]} is refused in Hydra's logging; it takes {', '.join(LOGGING)}")


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
    overrides = [*words, *(f"{name}={written(value)}" for name, value in (settings or {}).items())]
    check_overrides(overrides)
    # Hydra keeps one composer for the whole process: the caller may be a Hydra program itself.
    callers, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    finally:
        GlobalHydra.instance().hydra = callers


def plain(node: Any) -> Any:
    """Turn a config node into plain dicts and lists, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def bind_all(node: Mapping[Any, Any], given: Sequence[str]) -> list[Bound]:
    """Bind every member of a multi-select group: methods with `GIVEN_TO_METHOD`, metrics with `GIVEN_TO_METRIC`.

    Raises
    ------
    UserError
        As `bind`, or settings of something that does not exist.
    """
    parts = []
    for name, settings in plain(node).items():
        if isinstance(settings, dict) and "_target_" not in settings:
            # An experiment may have settings for methods and metrics that this run leaves out.
            check_name("method" if given == GIVEN_TO_METHOD else "metric", name)
        else:
            parts.append(bind(str(name), settings, given))
    return parts


def build(group: str, node: Mapping[Any, Any], **more: Any) -> Any:
    """Call the function of a single-select group's node (dataset, model).

    `more` are parameters, or functions that give them, for a target that takes them; the node's own values go first.
    """
    values = dict(plain(node))
    taken = inspect.signature(named_function(values.get("_target_"), f"{group}._target_", group)).parameters
    name = str(values["name"])
    if "name" not in taken:
        del values["name"]
    missing = [key for key, value in values.items() if value == "???"]
    if missing:
        raise UserError(f"{missing[0]}= is missing; add {group}.{missing[0]}=VALUE")
    defaults = {key: value() if callable(value) else value for key, value in more.items() if key in taken}
    return bind(name, {**defaults, **values}, (), group).call()


def explain(error: BaseException) -> str:
    """One line for an error of Hydra's or OmegaConf's: the override at fault and how to mend it."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    text = "; ".join(dict.fromkeys(one_line(cause) for cause in causes))
    unknown = re.search(r"Could not override '([^']+)'", text)
    return f"there is no setting {unknown[1]!r}; {nearest_settings(unknown[1])}" if unknown else text


def nearest_settings(key: str) -> str:
    """Name the settings nearest to one that does not exist, e.g. ``method.grad_entropy.bin``."""
    group, _, rest = key.partition(".")
    if group not in GROUPS or not rest:
        settings = [str(name) for name in OmegaConf.load(CONF / "config.yaml")]
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


def one_line(error: BaseException) -> str:
    """Take the line breaks out of an error's message."""
    return " ".join(str(error).split())
