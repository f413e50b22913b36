"""Command line: check names, compose the config, run, print the table."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

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
from bench.memory import keep_freed_memory
from bench.types import UserError


def task(node: DictConfig) -> None:
    """Run one composed config: the job that Hydra and its launchers call."""
    keep_freed_memory()
    try:
        benchmark(node)
    except UserError as error:
        # In a sweep Hydra lets the other jobs finish, then says which one failed.
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        fail(str(error))


def benchmark(node: DictConfig) -> None:
    """Bind what the config names, run it, and report on it once all its chunks are there."""
    from bench.report import report
    from bench.runner import check, run

    settings = plain(node)
    methods = bind_all(node.method, GIVEN_TO_METHOD)
    check(settings, methods)
    check_name("method", settings["reference"])
    metrics = bind_all(node.metric, GIVEN_TO_METRIC)
    network = build("model", node.model, seed=node.seed)
    data = build("dataset", node.dataset, network=network)  # only a mosaic asks the network
    outcome = run(settings, network, data, methods, metrics)
    for note in outcome.notes:
        print(note, file=sys.stderr)
    if not outcome.computed and not settings["quiet"]:
        print("everything asked for was there already; nothing was computed", file=sys.stderr)
    if outcome.complete:
        report(
            Path(settings["out"]),
            only=set(outcome.folders),
            reference=settings["reference"],
            redraw=False,
            images=settings["gallery"]["images"],
        )
    else:
        print(f"this shard is done; tables follow with the last one, or: python -m bench.report {settings['out']}")


def main() -> None:
    """Entry point of ``python -m bench``; exit status 2 for a mistake of the user's, 130 after Ctrl-C."""
    # Hydra then lets exceptions through to here instead of printing them in its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        check_overrides(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
    except UserError as error:
        fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error))
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
