"""``python -m bench.report DIR``: page, tables and figures again from what is on disk; or two folders compared."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from bench.report import default_console, report
from bench.report.compare import report_comparison
from bench.types import UserError


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and report; returns the exit status, 2 for a mistake of the user's."""
    about = "report.html, tables and figures of a results folder, again from what is on disk; or two folders compared."
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=about)
    parser.add_argument("folder", type=Path, nargs="?", help="results folder, as given to out=")
    parser.add_argument("--reference", default="grad_cam", help="method that the others are compared with")
    parser.add_argument("--images", nargs="+", default=[], metavar="ID", help="cases or images to draw as figure1.pdf")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A", "B"), help="say what changed; files go to DIR, else to B"
    )
    given = parser.parse_args(arguments)
    if given.folder is None and given.compare is None:
        parser.error("name a results folder, or two with --compare A B")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        if given.compare:
            first, second = given.compare
            report_comparison(first, second, given.folder or second, default_console())
        else:
            report(given.folder, reference=given.reference, images=given.images)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
