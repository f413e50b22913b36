"""Command line: check names, compose the config, run, print the table."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bench.cli import answer, be_verbose
from bench.config import (
    CONF,
    GIVEN_TO_METHOD,
    GIVEN_TO_METRIC,
    bind_all,
    build,
    check_name,
    check_overrides,
    explain,
    plain,
)
from bench.runs.memory import keep_freed_memory
from bench.runs.workers import WORKER, WorkerDied, check_launcher, share_work
from bench.types import UserError

if TYPE_CHECKING:
    from bench.runs.run import Outcome


def task(node: DictConfig) -> None:
    """Run one composed config: the job that Hydra and its launchers call."""
    keep_freed_memory()
    try:
        if type(node.workers) is int and node.workers > 1 and not node.estimate:
            share_work(HydraConfig.get().overrides.task, node.workers, node.shards, node.shard)
        benchmark(node)
    except UserError as error:
        # In a sweep Hydra lets the other jobs finish, then says which one failed.
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        fail(str(error))


def benchmark(node: DictConfig) -> Outcome:
    """Bind what the config names, run it, and report on it once all its chunks are there."""
    from bench.report import default_console, report
    from bench.runs.estimate import print_estimate
    from bench.runs.run import run
    from bench.runs.setup import check

    settings = plain(node)
    if settings["verbose"]:
        be_verbose()
    methods = bind_all(node.method, GIVEN_TO_METHOD)
    check(settings, methods)
    check_name("method", settings["reference"])
    metrics = bind_all(node.metric, GIVEN_TO_METRIC)
    network = build("model", node.model, seed=node.seed)
    data = build("dataset", node.dataset, network=network)  # only a mosaic asks the network
    if settings["estimate"]:
        return print_estimate(settings, network, data, methods, metrics)
    outcome = run(settings, network, data, methods, metrics)
    if WORKER in os.environ:
        return outcome
    for note in outcome.notes if not settings["quiet"] else []:
        print(note, file=sys.stderr)
    if not outcome.computed and not settings["quiet"] and settings["workers"] == 1:
        print("everything asked for was there already; nothing was computed", file=sys.stderr)
    if outcome.complete:
        console = default_console()
        console.quiet = settings["quiet"]
        report(
            Path(settings["out"]),
            only=set(outcome.folders),
            reference=settings["reference"],
            console=console,
            redraw=False,
            images=settings["gallery"]["images"],
        )
    elif not settings["quiet"]:
        print(f"this shard is done; tables follow with the last one, or: python -m bench.report {settings['out']}")
    return outcome


def main() -> None:
    """Entry point of ``python -m bench``; exit status 2 for a mistake of the user's, 130 after Ctrl-C."""
    # Hydra then lets exceptions through to here instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Our launchers' files are checked against the plugins' own settings, which is what we want.
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against")
    try:
        if answer(sys.argv[1:]):
            return
        # Hydra's parser knows -m only before the settings.
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
        check_overrides(sys.argv[1:])
        check_launcher(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error))
    except WorkerDied as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; finished chunks are kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # Hydra makes its log folder below out= before our code runs; any other OSError is a fault of ours.
        if error.filename and "logs" in Path(str(error.filename)).parts:
            fail(f"cannot write {error.filename}: {error.strerror}; choose another folder with out=DIR")
        raise


def fail(message: str) -> None:
    """Print one line and exit with status 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
