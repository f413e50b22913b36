"""What the command line answers without a run: help, version, lists and one line about a word it does not know."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.options import entries
from bench.types import OneLine, UserError, counted, printable

LISTS = {
    "methods": "method", "metrics": "metric", "models": "model", "datasets": "dataset", "experiments": "experiment",
}  # fmt: skip
# Hydra's own options; a test compares them with its parser. Those in the first set take a value.
VALUED = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun", "--info", "-i"}  # fmt: skip
CHOICES = dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")) | dict.fromkeys(
    ("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
)
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
         "--shell-completion", "-sc"}  # fmt: skip
MAIN = "this program has one main config; change it with NAME=VALUE, or with files in --config-dir DIR"
REFUSED = {"--experimental-rerun": "it loads a pickle, which can run any code",
           **dict.fromkeys(("--config-path", "-cp", "--config-name", "-cn"), MAIN)}  # fmt: skip
# Hydra's launchers that we know: the module of the plugin, and the extra that installs it.
LAUNCHERS = {
    "basic": ("", ""),
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "ray": ("hydra_ray_launcher", "ray"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
}

INTRO = """\
cam-bench measures which class activation map (CAM) shows best where a CNN's evidence is. All methods at all layers of a
network share one forward and one backward pass; results are tables with confidence intervals, figures and a web page.

usage: python -m bench [NAME=VALUE ...]            run; finished work is not computed again
       python -m bench -m NAME=A,B [NAME=VALUE]    one run after the other for every value
       python -m bench list methods|metrics|models|datasets|experiments
       python -m bench list results [DIR]          say which results a folder holds
       python -m bench.report DIR                  write report.html, tables and figures again, from any set of runs
       (once installed, cam-bench is the same as python -m bench)

settings (for all, with their defaults: python -m bench --cfg job):
  method='[a,b]' metric='[a,b]' model=NAME dataset=NAME experiment=NAME     from the lists below
  layer=NAME, '[a,b]', a glob, auto, all        layers to look at; default: the network's own
  scale='[1,1.5]' fuse=mean augment='[flip,scales]'     resized pictures; maps fused; averaged over mirror image, scales
  method.NAME.PARAMETER=VALUE, metric.NAME.PARAMETER=VALUE, dataset.root=DIR, model.weights=FILE|random
  target=label|predicted|INDEX                  the class to explain
  out=DIR limit=N seed=N                        results folder, a seeded subset of N cases
  gallery.cases=N save_maps=all                keep pictures and maps of N cases to look at; keep every map
  device=auto|cpu|cuda batch=auto|N compile=auto|true|false     speed; numbers do not depend on these
  workers=N                                     share the work between N processes on this machine
  precision=float32|float64|tf32|bfloat16       of forward passes; numbers depend on it
  shards=N shard=I                              share the work with other machines
  estimate=true                                 only estimate what the run would cost on this machine
  reference=METHOD                              compare the others with this method
  quiet=true, verbose=true                      print only warnings and errors; print every step

examples:
  python -m bench experiment=demo               a few minutes on two cores, downloads nothing
  python -m bench 'method=[grad_cam,layer_cam]' model=vgg16
  python -m bench dataset=folder dataset.root=DIR
"""
OUTRO = """\
options: -m sweep; --cfg job print the composed config; --version; --hydra-help Hydra's own options
completion of names (bash): eval "$(cam-bench -sc install=bash)"
environment: NO_COLOR=1 switches colours off
exit status: 0 done; 2 a setting or an input is wrong, one line says which; 130 stopped with Ctrl-C, and 1 a worker of
workers=N died: in both cases the same command continues the run; 1 with a traceback is a bug: please report it
"""


def interrupted(line: str) -> int:
    """Print one line after Ctrl-C; returns the exit status."""
    # Python remembers a Ctrl-C that struck inside exec() of a string, by which dataclasses are made, and at its end
    # kills itself with SIGINT instead of returning our status. The next exec() clears what it remembers.
    exec("")
    print(line, file=sys.stderr)
    return 130


def answer(words: Sequence[str], console: Console | None = None) -> bool:
    """Answer a command line that starts no run: help, version or a list.

    Returns
    -------
    bool
        Whether it was one.

    Raises
    ------
    UserError
        A word that is neither an option, a setting nor a list.
    """
    console = console or Console(highlight=False)
    if {"-h", "--help"} & set(words):
        print_help(console)
    elif "--version" in words:
        console.print(f"cam-bench {version('cam-bench')}")
    elif list(words[:2]) == ["list", "results"]:
        print_results(words[2:] or ["results"], console)
    elif words and words[0] == "list":
        print_list(list_group(words[1:]), console)
    else:
        check_words(words)
        return False
    return True


def print_help(console: Console) -> None:
    """Print the help with all lists."""
    console.file.write(INTRO)
    for title, group in LISTS.items():
        console.print()
        console.print(Text(f"{title}:", style="bold"))
        print_list(group, console, indent=2)
    console.file.write(f"\n{OUTRO}")


def print_list(group: str, console: Console, indent: int = 0) -> None:
    """Print a group in two columns that fit the terminal; in a pipe, for grep, one line for each name."""
    lines = entries(group)
    width = max(map(len, lines))
    if not console.is_terminal:
        for name, about in lines.items():
            console.file.write(f"{' ' * indent}{name:<{width}}  {about}\n")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=width + indent, no_wrap=True)
    table.add_column()
    for name, about in lines.items():
        table.add_row(Text(" " * indent + name, style="bold cyan"), Text(about))
    console.print(table)


def print_results(roots: Sequence[str], console: Console) -> None:
    """Say in words which results the given folders hold.

    Raises
    ------
    UserError
        They hold none.
    """
    from bench.store.folders import find_folders
    from bench.store.holdings import held_results, missing_results

    if not all(roots):
        raise UserError("a folder has an empty name; the current one is .")
    folders = [folder for root in roots for folder in find_folders(Path(root))]
    if not folders:
        raise UserError(f"no results in {', '.join(roots)}; the command is: python -m bench list results DIR")
    for folder in folders:
        held, protocol = held_results(folder), folder.protocol
        cases = set[str]().union(*held.values())
        size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
        lines = [
            f"{protocol['dataset']}, {protocol['model']} (weights {protocol['weights']}): {counted(len(cases), 'case')}"
        ]
        lines.append(f"  in {folder.path}, {size / 1e6:,.1f} MB")
        for place, kind in enumerate(("method", "metric")):
            names = sorted({pair[place] for pair in held} - {""})
            width = max(map(len, names), default=0)
            for name in names:
                own = set[str]().union(*(ids for pair, ids in held.items() if pair[place] == name))
                lines.append(f"  {kind:<8}{name:<{width}}  {counted(len(own), 'case')}")
        lines += [f"  missing {line}" for line in missing_results(held, len(cases))]
        console.file.write("".join(f"{printable(line)}\n" for line in lines))


def list_group(words: Sequence[str]) -> str:
    """Config group of the list that the user asks for."""
    if len(words) != 1 or words[0] not in LISTS:
        near = get_close_matches(words[0], LISTS, 1, 0.5) if words else []
        hint = f"did you mean {near[0]}?" if near and near[0] != words[0] else f"one of: {', '.join(LISTS)}, results"
        raise UserError(f"list takes one name, not {' '.join(words) or 'none'}; {hint}")
    return LISTS[words[0]]


def check_words(words: Sequence[str]) -> None:
    """Raise UserError for an option that does not exist or is refused, and for a word that is no setting."""
    before = ""
    for word in words:
        name = word.partition("=")[0]
        if word.startswith("-"):
            if name not in VALUED | FLAGS:
                raise UserError(f"there is no option {name}; python -m bench --help lists them")
            if name in FLAGS and "=" in word:
                raise UserError(f"{name} takes no value")
            if name in REFUSED:
                raise UserError(f"{name} is refused: {REFUSED[name]}")
        elif before in CHOICES and word not in CHOICES[before]:
            raise UserError(f"{before} takes one of {', '.join(CHOICES[before])}, not {word}")
        elif "=" not in word and not word.startswith("~") and before not in VALUED:
            raise UserError(f"{word!r} is no setting: write NAME=VALUE, or see python -m bench --help")
        before = word


def options_first(words: Sequence[str]) -> list[str]:
    """Put options, with their values, before the settings: Hydra's parser does not know them between settings."""
    options, settings, before = list[str](), list[str](), ""
    for word in words:
        (options if word.startswith("-") or before in VALUED else settings).append(word)
        before = word
    return options + settings


def check_launcher(words: Sequence[str]) -> None:
    """Raise UserError for a launcher whose plugin is not installed, with the command that installs it."""
    for word in words:
        key, _, name = word.partition("=")
        module, extra = LAUNCHERS.get(name, ("", ""))
        if key == "hydra/launcher" and module and find_spec(f"hydra_plugins.{module}") is None:
            raise UserError(f"hydra/launcher={name} needs a plugin: pip install 'cam-bench[{extra}]'")


def be_verbose() -> None:
    """Print this program's steps to stderr, where its warnings go anyway."""
    log = logging.getLogger("bench")
    log.setLevel(logging.DEBUG)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(OneLine())
        handler.addFilter(lambda record: record.levelno < logging.WARNING)
        log.addHandler(handler)
