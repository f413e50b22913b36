"""Command line: check names, compose the config, run, print the table."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the imports below take a second, in which Ctrl-C would print where it struck
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.cli import answer, be_verbose, check_launcher, interrupted, options_first
from bench.config import (
    GIVEN_TO_METHOD,
    GIVEN_TO_METRIC,
    bind_all,
    build,
    check_name,
    check_overrides,
    check_settings,
    explain,
    plain,
)
from bench.options import CONF, conf_node
from bench.types import Bound, OneLine, UserError, WorkerDied, printable

if TYPE_CHECKING:
    from bench.runs.run import Outcome


def task(node: DictConfig) -> None:
    """Run one composed config: the job that Hydra and its launchers call."""
    try:
        settings = {**plain(node), "command": sys.argv}
        check_settings(settings)
        if settings["verbose"]:
            be_verbose()
        if settings["workers"] > 1 and not settings["estimate"]:
            share(settings)
        show(settings, compute(settings))
    except UserError as error:
        # In a sweep Hydra lets the other jobs finish, then says which one failed.
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        fail(str(error))
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:  # all files are named
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        fail("cannot print the table: no space left; its files are written")
    except WorkerDied as error:  # here, since Hydra would print the settings before it
        fail(str(error), status=1)


def share(settings: dict[str, Any]) -> None:
    """Compute in several processes, if there is work for more than one."""
    # As a script this module is called __main__, which the other processes do not know.
    from bench.__main__ import compute
    from bench.runs.workers import share_work, workers_of

    if (workers := workers_of(settings)) > 1:
        share_work(compute, settings, workers)


def compute(settings: dict[str, Any], functions: Sequence[Bound] = ()) -> Outcome:
    """Bind what a plain config (conf/config.yaml, interpolations resolved) names, and compute what is missing of it.

    `functions` are methods from Python beside those in the config.
    """
    from bench.runs.estimate import print_estimate
    from bench.runs.execution import keep_freed_memory
    from bench.runs.facts import Opener, request_of
    from bench.runs.run import run
    from bench.runs.setup import prepare_run
    from bench.runs.setup.checks import check

    keep_freed_memory()
    settings = {"worker": "", **settings}
    if multiprocessing.current_process().name != "MainProcess":  # of ours, or of a launcher
        from bench.runs.workers import end_with

        end_with(settings.get("parent", os.getppid()))
    if settings["worker"]:
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger().handlers[0].setFormatter(OneLine(f"{settings['worker']}%(message)s"))
    check_settings(settings)
    trust = settings["trust"]
    methods = [*bind_all(settings["method"], GIVEN_TO_METHOD, trust), *functions]
    check(settings, methods)
    check_name("method", settings["reference"], [method.name for method in methods])
    metrics = bind_all(settings["metric"], GIVEN_TO_METRIC, trust)
    model, seed = settings["model"], settings["seed"]
    scored = ":" in str(settings["target"])  # by a user's function, which may read any output
    request = None if scored else request_of(model, seed)
    network = Opener(partial(build, "model", model, trust, seed=seed, any_output=scored), request)
    # Only a mosaic asks the network.
    data = build("dataset", settings["dataset"], trust, network=no_classes if scored else network)
    with TemporaryDirectory() as temporary:
        function = print_estimate if settings["estimate"] else run
        if settings["estimate"]:  # which keeps nothing
            settings = {**settings, "out": temporary}
        plan = prepare_run(settings, network, data, methods, metrics, partial(shipped, seed))
        return function(settings, network, plan)


def no_classes() -> None:
    """Say why there is no mosaic of recognized pictures."""
    raise UserError(
        "dataset=mosaic asks which classes the network recognizes, and a function as the target knows none; choose "
        "another data set"
    )


def shipped(seed: int, bound: Bound) -> dict[str, Any]:
    """Parameters of a method or metric as its yaml has them; none for one from elsewhere."""
    group = "method" if str(bound.parameters.get("_target_")).startswith("methods.") else "metric"
    node = conf_node(group, bound.name)
    return {key: seed if value == "${seed}" else value for key, value in node.items()}


def show(settings: dict[str, Any], outcome: Outcome) -> None:
    """Say what a run did, and report on it once all shards are done."""
    from bench.report import default_console, report

    if outcome.folder is None:  # an estimate
        return
    quiet = settings["quiet"]
    lines = list(outcome.notes)
    if outcome.saved:
        whole = outcome.passes + outcome.saved
        lines.append(f"equal maps were scored once: {outcome.saved:,} of {whole:,} perturbed images needed no pass")
    if not outcome.computed and settings["workers"] == 1:
        lines.append("everything asked for is on disk already; nothing was computed")
    for line in lines if not quiet else []:
        print(printable(line), file=sys.stderr)
    if outcome.complete:
        console = default_console()
        with console.capture() as printed:  # files first: whoever reads the table may stop reading
            report(
                Path(settings["out"]),
                only={outcome.folder.path},
                reference=settings["reference"],
                console=console,
                redraw=False,
                images=settings["gallery"]["images"],
                wanted=outcome.entries,
                **against(outcome),
            )
        if not quiet:
            print(printed.get(), end="", flush=True)
    elif not quiet:
        print(f"this shard is done; tables follow with the last one, or: python -m bench.report {settings['out']}")


def against(outcome: Outcome) -> dict[str, Any]:
    """Tell a report what to put beside the run's rows: those of other results, for the same cases and metrics."""
    return {"beside": outcome.beside, "cases": outcome.cases, "metrics": outcome.metrics} if outcome.beside else {}


def main() -> None:
    """Entry point of ``python -m bench``; exit status 2 for a mistake of the user's, 130 after Ctrl-C."""
    # Hydra then lets exceptions through to here instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
    # Our launchers' files are checked against the plugins' own settings, which is what we want.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against")
    for stream in (sys.stdout, sys.stderr):  # names may have letters that the terminal has not
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        os.getcwd()
    except OSError:
        fail("the current folder has been deleted; go to another one")
    try:
        if answer(sys.argv[1:]):
            print(end="", flush=True)
            return
        sys.argv[1:] = options_first(sys.argv[1:])
        sys.argv[1:] = check_overrides(sys.argv[1:])
        check_launcher(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error))
    except KeyboardInterrupt:
        sys.exit(interrupted("stopped; finished parts are kept, and the same command continues from there"))
    except BrokenPipeError:  # as with | head; what is left to print goes nowhere
        for number in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    except OSError as error:
        # Hydra makes its log folder in out= before our code runs; any other OSError is a fault of ours.
        folders = ("out=", "hydra.run.dir=", "hydra.sweep.dir=")
        places = [Path(word.partition("=")[2]) for word in sys.argv if word.startswith(folders)] or [Path("results")]
        name = Path(str(error.filename or ""))
        if "logs" in name.parts or any(name in (place, *place.parents) for place in places if error.filename):
            fail(f"cannot write {name}: {error.strerror}; choose another folder with out=DIR")
        raise


def interrupt(*_: object) -> None:
    """Stop at the first Ctrl-C; further ones would only disturb the files that are being closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def fail(message: str, status: int = 2) -> None:
    """Print one line and exit."""
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
