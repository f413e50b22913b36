"""From config nodes to bound functions; with `bench.__main__` the only module that knows Hydra."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.binding import (
    GIVEN_TO_METHOD,
    GIVEN_TO_METRIC,
    bind,
    bind_function,
    check_settings,
    keep_names,
    nearest_settings,
    written,
)
from bench.cli import LAUNCHERS
from bench.options import CONF, GROUPS, SEVERAL, check_name, check_yaml, did_you_mean, named_function, names
from bench.types import Bound, UserError

__all__ = [
    "CONF", "GIVEN_TO_METHOD", "GIVEN_TO_METRIC", "bind", "bind_all", "bind_function", "build", "check_name",
    "check_overrides", "check_settings", "compose_config", "explain", "plain", "written",
]  # fmt: skip

# For hydra/launcher=ray: GPUs that a job gets where this machine has any.
OmegaConf.register_new_resolver("bench_gpus", lambda: int(Path("/dev/nvidia0").exists()), replace=True)
# Settings whose value may be ``package.module:function``, which is imported and called.
LARGEST_FILE = 2**22  # bytes of a config of a user's
CODE = ("model.target", "model.reshape", "target")


def check_overrides(arguments: Sequence[str]) -> list[str]:
    """Check the names on the command line before Hydra sees them, whose own messages do not list the alternatives.

    Returns
    -------
    list of str
        The same words, names quoted where Hydra needs it, see `bench.binding.keep_names`.

    Raises
    ------
    UserError
        An unknown name (with the nearest ones), a list where one name is meant, or a setting that would let Hydra
        call a function.
    """
    arguments = [keep_names(word) if "=" in word and not word.startswith("-") else word for word in arguments]
    words = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    if any(word.startswith("=") for word in words):
        raise UserError("an override needs a name before its =")
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            key, _, value = word.partition("=")
            raise UserError(
                f"{word} cannot be read; quote the value: '{key}=\"{value}\"' ({one_line(error)})"
            ) from error
        check_hydra_override(override)
        if override.key_or_group in GROUPS and not override.is_delete():
            check_choice(override, sweeps=bool({"-m", "--multirun"} & set(arguments)))
    return arguments


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
        if choice is None or isinstance(choice, list) and None in choice:
            raise UserError(f"{group}=null names nothing; there are: {', '.join(names(group))}")
        for name in choice if isinstance(choice, list) else [choice]:
            check_name(group, name)


def check_hydra_override(override: Override) -> None:
    """Raise UserError for a setting of Hydra's own that names a function to call."""
    key, text = override.key_or_group, str(override.input_line)
    if (override.package or "").split(".")[0] == "hydra":
        raise UserError(f"{text} is refused: it would put a config of another group into Hydra's own settings")
    if not is_hydras(override):
        return
    logs = re.match(r"hydra\.(job|hydra)_logging\b", key) and not key.endswith(".level")
    if logs or key == "hydra" or re.search(r"_target_|callbacks|\(\)", text):
        raise UserError(f"{text} is refused: it could make Hydra call any function")
    if key == "hydra/launcher" and not override.is_delete():
        name = str(getattr(override.value(), "text", override.value()))
        if name not in LAUNCHERS:
            raise UserError(f"unknown hydra/launcher {name!r}; {did_you_mean(name, LAUNCHERS)}")


def guard_hydra() -> None:
    """Check every run's config that Hydra composes in this process before Hydra acts on it; see `check_sources`.

    This is done on import: launchers compose configs in processes of their own, which know only our modules. Configs of
    a Hydra program that uses this one as a library are not touched.
    """
    load = ConfigLoaderImpl.load_configuration

    @wraps(load)
    def load_configuration(
        self: ConfigLoaderImpl, config_name: str, overrides: list[str], *more: Any, **rest: Any
    ) -> Any:
        try:
            node = load(self, config_name, overrides, *more, **rest)
        except (yaml.YAMLError, UnicodeError, RecursionError, NotYaml) as error:
            raise UserError(f"a config file cannot be read: {one_line(error)}") from error
        places = self.config_search_path.get_path()
        if any(place.provider == "main" and place.path.removeprefix("file://") == str(CONF) for place in places):
            strange = [source.provider for source in node.hydra.runtime.config_sources]
            if any(provider == "command-line" or provider.startswith("hydra.searchpath") for provider in strange):
                given = OverridesParser.create().parse_overrides(overrides)
                words = [
                    str(one.input_line) for one in given if is_hydras(one) and "searchpath" not in one.key_or_group
                ]
                path = ConfigSearchPathImpl()
                path.config_search_path = [place for place in places if place.provider != "command-line"]
                own = load(ConfigLoaderImpl(path), config_name, words, *more, **rest)
                check_sources(node, own, {one.key_or_group for one in given})
        return node

    read = ConfigRepository.load_config

    @wraps(read)
    def load_config(self: ConfigRepository, config_path: str) -> Any:
        for source in self.get_sources():
            path = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
            if source.provider not in ("main", "hydra", "schema") and source.scheme() == "file" and path.is_file():
                try:
                    if path.stat().st_size > LARGEST_FILE:
                        raise ValueError(f"it has {path.stat().st_size / 1e6:,.0f} MB")
                    check_yaml(path.read_text(encoding="utf-8"))
                except ValueError as error:
                    raise NotYaml(f"{path}: {error}") from error
        return read(self, config_path)

    if not hasattr(load, "__wrapped__"):
        setattr(ConfigRepository, read.__name__, load_config)
        # Hydra has no public place between composing a config and acting on it.
        setattr(ConfigLoaderImpl, load.__name__, load_configuration)


class NotYaml(Exception):
    """A file of ``--config-dir`` that cannot be read."""


def check_sources(node: DictConfig, own: DictConfig, given: Collection[str]) -> None:
    """Raise UserError where a file of ``--config-dir`` would run code: it says what Hydra does, or names a function.

    Parameters
    ----------
    node : DictConfig
        As composed with such files.
    own : DictConfig
        As composed without them, from our own files and the words about Hydra on the command line.
    given : collection of str
        Keys on the command line.
    """
    ours, theirs = (hydra_settings(one) for one in (own, node))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(f"hydra.{key} from a file is refused: it could run code; say it on the command line")
    for key in CODE:
        value = OmegaConf.select(node, key, throw_on_missing=False)
        if key not in given and isinstance(value, str) and ":" in value:
            raise UserError(f"{key}={value} from a file is refused: it runs code; say it on the command line")


def hydra_settings(node: DictConfig) -> dict[str, Any]:
    """Hydra's own settings, without those that repeat the command line."""
    settings: Any = OmegaConf.to_container(node.hydra, resolve=False)
    kept = {key: value for key, value in settings.items() if key not in ("overrides", "runtime", "searchpath")}
    return {**kept, "job": {**settings["job"], "override_dirname": None}}


def is_hydras(override: Override) -> bool:
    """Whether an override is about Hydra itself."""
    return re.split(r"[./@]", override.key_or_group)[0] == "hydra"


guard_hydra()


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
    for word in words:
        if not isinstance(word, str) or word.startswith("-") or not ("=" in word or word.startswith("~")):
            raise UserError(f"{word!r} is no setting: write NAME=VALUE; options are for the command line")
    overrides = [*words, *(f"{name}={written(value)}" for name, value in (settings or {}).items())]
    overrides = check_overrides(overrides)
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
    """Turn a config node into plain dicts and lists, interpolations resolved; UserError where one leads nowhere."""
    try:
        return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error


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
    name = values.get("name", "???")
    if name == "???":
        raise UserError(f"name= is missing; add {group}.name=VALUE")
    if not isinstance(name, str):
        raise UserError(f"{group}.name={written(name)} must be a word")
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


def one_line(error: BaseException) -> str:
    """Take the line breaks out of an error's message."""
    return " ".join(str(error).split())
