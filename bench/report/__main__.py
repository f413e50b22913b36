"""``python -m bench.report DIR``: tables and figures again from what is on disk."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from bench.report import report
from bench.types import UserError


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and report; returns the exit status, 2 for a mistake of the user's."""
    about = "Tables and figures of a results folder, again from what is on disk."
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=about)
    parser.add_argument("folder", type=Path, help="results folder, as given to out=")
    parser.add_argument("--reference", default="grad_cam", help="method that the others are compared with")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        report(given.folder, reference=given.reference)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
