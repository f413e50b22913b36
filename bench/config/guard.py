"""Configs of other people: what they may not make Hydra do."""

from __future__ import annotations

from collections.abc import Collection
from functools import wraps
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from bench.config.words import is_hydras, one_line
from bench.options import CONF, check_yaml
from bench.types import UserError

LARGEST_FILE = 2**22  # bytes of a config of a user's
# Settings whose value may be ``package.module:function``, which is imported and called.
CODE = ("model.target", "model.reshape", "target")


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
    if "trust" not in given and node.get("trust") != own.get("trust"):
        raise UserError("trust= from a file is refused: it allows code to run; say it on the command line")
    for key in CODE:
        value = OmegaConf.select(node, key, throw_on_missing=False)
        if key not in given and isinstance(value, str) and ":" in value:
            raise UserError(f"{key}={value} from a file is refused: it runs code; say it on the command line")


def hydra_settings(node: DictConfig) -> dict[str, Any]:
    """Hydra's own settings, without those that repeat the command line."""
    settings: Any = OmegaConf.to_container(node.hydra, resolve=False)
    kept = {key: value for key, value in settings.items() if key not in ("overrides", "runtime", "searchpath")}
    return {**kept, "job": {**settings["job"], "override_dirname": None}}
