"""``python -m bench.report DIR``: page, tables and figures again from results on disk; or two folders compared."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from pathlib import Path

from bench.cli import interrupted
from bench.options import check_name
from bench.report import default_console, report
from bench.report.compare import report_comparison
from bench.report.leaderboard import write_leaderboard
from bench.types import OneLine, UserError, printable


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and report; returns the exit status, 2 for a mistake of the user's."""
    about = "Make report.html, tables and figures from results on disk, or compare two results folders."
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=about)
    parser.add_argument(
        "folders", type=named, nargs="*", metavar="DIR", help="results folder, as given to out=; files go to the first"
    )
    parser.add_argument("--reference", default="grad_cam", help="method that the others are compared with")
    parser.add_argument("--images", nargs="+", default=[], metavar="ID", help="cases or images to draw as figure1.pdf")
    about = "write leaderboard.html instead: methods by questions, of all results"
    pages = parser.add_mutually_exclusive_group()
    pages.add_argument("--leaderboard", action="store_true", help=about)
    about = "say what changed from A to B; files go to DIR, else to B"
    pages.add_argument("--compare", nargs=2, type=named, metavar=("A", "B"), help=about)
    options = parser.parse_args(arguments)
    if not options.folders and options.compare is None:
        parser.error("name a results folder, or two with --compare A B")
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger().handlers[0].setFormatter(OneLine("%(message)s"))
    try:
        check_name("method", options.reference.partition("(")[0])
        if options.leaderboard:
            print(f"leaderboard: {write_leaderboard(options.folders, options.reference)}", flush=True)
        elif options.compare:
            first, second = options.compare
            report_comparison(first, second, [*options.folders, second][0], default_console())
        else:
            console = default_console()
            with console.capture() as printed:  # files first: whoever reads the table may stop reading
                report(options.folders, reference=options.reference, images=options.images, console=console)
            print(printed.get(), end="", flush=True)
    except UserError as error:
        print(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as with | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:  # all files are named
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("error: cannot print the table: no space left; its files are written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return interrupted("stopped; files that were written already are whole, and the same command makes the rest")
    return 0


def named(text: str) -> Path:
    """Path of an argument; an empty one, as of a variable that is not set, is not the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("a folder has an empty name; the current one is .")
    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
