"""What the user is told: errors of one line, and names from data made safe to print."""

from __future__ import annotations

import logging


class UserError(Exception):
    """A mistake the user can mend: printed as one line, exit status 2, no traceback."""


class WorkerDied(Exception):
    """One of several processes ended before its work was done."""


def printable(text: object) -> str:
    """Text on one line, safe for a terminal: control characters and the like become escapes as in Python's ``repr``.

    Names come from data: a file's may break the line and go on with ``error:``, or hold an escape sequence.
    """
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(text))


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, one that takes an s: ``1 case``, ``2 cases``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class OneLine(logging.Formatter):
    """Log messages with `printable`, so that a name in one cannot look like a second message."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format a record without its traceback."""
        record.message = printable(record.message)
        return super().formatMessage(record)
