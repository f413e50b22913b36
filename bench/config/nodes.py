"""From words and nodes to bound functions."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench.binding import GIVEN_TO_METHOD, bind, written
from bench.config.words import check_overrides, explain
from bench.options import CONF, check_name, named_function
from bench.types import Bound, UserError

# For hydra/launcher=ray: GPUs that a job gets where this machine has any.
OmegaConf.register_new_resolver("bench_gpus", lambda: int(Path("/dev/nvidia0").exists()), replace=True)


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


def bind_all(node: Mapping[Any, Any], given: Sequence[str], trust: Collection[str] = ()) -> list[Bound]:
    """Bind every member of a multi-select group: methods with `GIVEN_TO_METHOD`, metrics with `GIVEN_TO_METRIC`.

    `trust` are packages of the user's whose functions may be named.

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
            parts += [bind(str(name), one, given, trust=trust) for one in one_each(settings)]
    return parts


def one_each(settings: Any) -> list[Any]:
    """Split settings into those of each member, where ``about.folder`` or ``about.each`` names a list among them."""
    about = settings.get("about") if isinstance(settings, dict) else None
    key = about.get("folder", about.get("each")) if isinstance(about, dict) else None
    members = settings.get(key) if key else None
    return [{**settings, key: one} for one in members] if isinstance(members, list) and members else [settings]


def build(group: str, node: Mapping[Any, Any], trust: Collection[str] = (), **more: Any) -> Any:
    """Call the function of a single-select group's node (dataset, model); `trust` as in `bind_all`.

    `more` are parameters, or functions that give them, for a target that takes them; the node's own values go first.
    """
    values = dict(plain(node))
    if group == "model" and ":" in str(values.get("_target_")):
        raise UserError("a network of your own is model=custom model.target=package.module:function")
    taken = inspect.signature(named_function(values.get("_target_"), f"{group}._target_", group, trust)).parameters
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
    return bind(name, {**defaults, **values}, (), group, trust).call()
