"""What the command line answers at once: help, version, lists, and words that it does not know."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version

from rich.console import Console
from rich.text import Text

from bench.listing import LISTS, print_list
from bench.types import UserError

# Hydra's own; a test holds them against its parser. Those of the first set are followed by a value.
VALUED = {"--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
          "--experimental-rerun", "--info", "-i"}  # fmt: skip
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
         "--shell-completion", "-sc"}  # fmt: skip

INTRO = """\
cam-bench measures which class activation map (CAM) shows best where a CNN's evidence is: every asked method at every
asked layer of a network on a data set, with one shared forward and backward pass, as tables with intervals and figures.

usage: python -m bench [NAME=VALUE ...]            run; what is there already is not computed again
       python -m bench -m NAME=A,B [NAME=VALUE]    one run after the other for every value
       python -m bench list methods|metrics|models|datasets|experiments
       python -m bench.report DIR                  report.html, tables and figures again, from any set of runs
       (installed, cam-bench is the same as python -m bench)

settings (all of them, with the defaults: python -m bench --cfg job):
  method='[a,b]' metric='[a,b]' model=NAME dataset=NAME experiment=NAME     from the lists below
  layer=NAME, '[a,b]', a glob, auto, all        where methods look; default: the network's own layers
  method.NAME.PARAMETER=VALUE, metric.NAME.PARAMETER=VALUE, dataset.root=DIR, model.weights=FILE|random
  target=label|predicted|INDEX                  the class asked about
  out=DIR limit=N seed=N                        results folder, a seeded subset of N cases
  gallery.cases=N save_maps=true                keep pictures and maps of N cases to look at; keep every map
  device=auto|cpu|cuda batch=auto|N compile=auto|true|false     pace; numbers do not depend on these
  workers=N                                     N processes on this machine share the work
  precision=float32|tf32|bfloat16               of forward passes; numbers depend on it
  shards=N shard=I                              share the work with other machines
  estimate=true                                 say what the whole run would cost on this machine, run nothing else
  reference=METHOD                              what the others are compared with
  quiet=true, verbose=true                      only warnings and errors; every step, chunk by chunk

examples:
  python -m bench experiment=demo               some minutes on two cores, nothing is downloaded
  python -m bench 'method=[grad_cam,layer_cam]' model=vgg16
  python -m bench dataset=folder dataset.root=DIR
"""
OUTRO = """\
options: -m sweep; --cfg job print the config that would run; --version; --hydra-help Hydra's own options
completion of names (bash): eval "$(cam-bench -sc install=bash)"
environment: NO_COLOR=1 switches colours off
exit status: 0 done; 2 something asked for is wrong, one line says what; 130 stopped with Ctrl-C, the same command
goes on from there; 1 a worker of workers=N died, one line says which, and the same command goes on; or a fault of this
program: please report it with the traceback
"""


def answer(words: Sequence[str], console: Console | None = None) -> bool:
    """Print what is asked for where that is no run, and say whether it was.

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
    elif words and words[0] == "list":
        print_list(asked_list(words[1:]), console)
    else:
        check_words(words)
        return False
    return True


def print_help(console: Console) -> None:
    """Print the help with all lists; as it is where it goes to a file or a pager."""
    console.file.write(INTRO)
    for title, group in LISTS.items():
        console.print()
        console.print(Text(f"{title}:", style="bold"))
        print_list(group, console, indent=2)
    console.file.write(f"\n{OUTRO}")


def asked_list(words: Sequence[str]) -> str:
    """Config group of the one list that is named."""
    if len(words) != 1 or words[0] not in LISTS:
        near = get_close_matches(words[0], LISTS, 1, 0.5) if words else []
        hint = f"did you mean {near[0]}?" if near and near[0] != words[0] else f"one of: {', '.join(LISTS)}"
        raise UserError(f"list takes one name, not {' '.join(words) or 'none'}; {hint}")
    return LISTS[words[0]]


def check_words(words: Sequence[str]) -> None:
    """Raise UserError for an option that does not exist and for a word that is no setting."""
    before = ""
    for word in words:
        name = word.partition("=")[0]
        if word.startswith("-"):
            if name not in VALUED | FLAGS:
                raise UserError(f"there is no option {name}; python -m bench --help lists them")
        elif "=" not in word and not word.startswith("~") and before not in VALUED:
            raise UserError(f"{word!r} is no setting: write NAME=VALUE, or see python -m bench --help")
        before = word


def be_verbose() -> None:
    """Show this program's steps on stderr; its warnings are shown there anyway."""
    log = logging.getLogger("bench")
    log.setLevel(logging.DEBUG)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.addFilter(lambda record: record.levelno < logging.WARNING)
        log.addHandler(handler)
