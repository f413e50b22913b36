"""Words of the command line, checked before Hydra reads them, whose own messages do not list the alternatives."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from bench.binding import keep_names, nearest_settings, written
from bench.cli import LAUNCHERS
from bench.options import CONF, GROUPS, SEVERAL, check_name, did_you_mean, names
from bench.types import UserError


def check_overrides(arguments: Sequence[str]) -> list[str]:
    """Check the names on the command line before Hydra sees them, whose own messages do not list the alternatives.

    Returns
    -------
    list of str
        The same words, names quoted where Hydra needs it (`bench.binding.keep_names`), ``metric=all`` as all names, and
        functions of the user's as nodes that name them (`own_functions`).

    Raises
    ------
    UserError
        An unknown name (with the nearest ones), a list where one name is meant, or a setting that would let Hydra
        call a function.
    """
    arguments = [f"metric=[{','.join(all_metrics())}]" if word == "metric=all" else word for word in arguments]
    arguments = own_functions([keep_names(word) if is_setting(word) else word for word in arguments])
    folders = config_folders(arguments)
    words = [word for word in arguments if is_setting(word) or word.startswith("~")]
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
            more = [path.stem for folder in folders for path in (folder / override.key_or_group).glob("*.yaml")]
            check_choice(override, more, sweeps=bool({"-m", "--multirun"} & set(arguments)))
    return arguments


def all_metrics() -> list[str]:
    """Names of all metrics, those of the default run first: the first ones of a question give its answer."""
    defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    usual = next(one["metric"] for one in defaults if "metric" in one)
    return [*usual, *(name for name in names("metric") if name not in usual)]


def is_setting(word: str) -> bool:
    """Whether a word of the command line is an override, not an option."""
    return "=" in word and not word.startswith("-")


def config_folders(arguments: Sequence[str]) -> list[Path]:
    """Folders that ``--config-dir`` names."""
    names = [after for word, after in pairwise([*arguments, ""]) if word in ("--config-dir", "-cd")]
    names += [word.partition("=")[2] for word in arguments if word.startswith("--config-dir=")]
    return [Path(name) for name in names if name]


def own_functions(arguments: Sequence[str]) -> list[str]:
    """Turn ``method=package.module:function`` into a node of the function's name, and trust its package.

    Naming a function on the command line is what allows it; a config file needs ``trust=``.
    """
    kept, nodes, trusted = [], [], []
    for word in arguments:
        group, _, value = word.partition("=")
        if group not in SEVERAL or not re.search(r"[\w.]+:\w+", value):
            kept.append(word)
            continue
        listed = [name.strip(" '\"") for name in value.strip("[]").split(",")]
        if not value.startswith("[") and len(listed) > 1:
            raise UserError(f"{word} cannot be swept; name one function, or several at once: '{group}=[{value}]'")
        functions = [name for name in listed if ":" in name]
        names = [name.partition(":")[2] or name for name in listed]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{word} names two that are called {twice}; rename one of the functions")
        for target in functions:
            nodes.append(f"+{group}.{target.partition(':')[2]}={written({'_target_': target})}")
            trusted.append(re.split("[.:]", target)[0])
        kept.append(f"{group}=[{','.join(name for name in listed if ':' not in name)}]")
    if trusted:
        before = [word for word in kept if word.startswith("trust=")]
        more = [name for word in before for name in word.partition("=")[2].strip("[]").split(",") if name]
        nodes.append(f"trust=[{','.join(dict.fromkeys([*more, *trusted]))}]")
        kept = [word for word in kept if word not in before]
    starts = tuple(f"{node[1:].partition('=')[0]}." for node in nodes if node.startswith("+"))
    first = next((place for place, word in enumerate(kept) if is_setting(word)), len(kept))
    settings = [f"++{word}" if word.startswith(starts) else word for word in kept[first:]]
    return kept[:first] + nodes + settings  # options stay in front, as argparse wants them


def check_choice(override: Override, more: Collection[str], sweeps: bool) -> None:
    """Raise UserError unless an override such as ``model=vgg16`` names what its group has, and as many as it takes.

    `more` are names that folders of the user's add to the group.
    """
    group, value = override.key_or_group, override.value()
    if override.is_sweep_override() and not sweeps:
        listed = str(override.input_line).split("=", 1)[1]
        together = f"'{group}=[{listed}]' (one shared pass), or " if group in SEVERAL else ""
        raise UserError(f"{group}={listed} is several values: write {together}-m {group}={listed} to sweep")
    for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
        if isinstance(choice, list) and group not in SEVERAL:
            raise UserError(f"{group}= takes one name, not a list; sweep with: -m {group}={','.join(map(str, choice))}")
        if choice is None or (isinstance(choice, list) and None in choice):
            raise UserError(f"{group}=null names nothing; there are: {', '.join(names(group))}")
        for name in choice if isinstance(choice, list) else [choice]:
            check_name(group, name, more)


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


def is_hydras(override: Override) -> bool:
    """Whether an override is about Hydra itself."""
    return re.split(r"[./@]", override.key_or_group)[0] == "hydra"


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
