"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

EVERY = 10.0


class _Cases(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = f"{task.speed:.2g}/s" if task.speed else "-/s"
        return Text(f"{task.completed:.0f} of {task.total or 0:.0f} cases, {speed}, left")


class Progress:
    """Cases done of `total`, rate and time left, on stderr; a context manager.

    With a `name`, of one of several processes that share a terminal, lines begin with it and there is no bar.
    """

    def __init__(self, total: int, *, quiet: bool = False, name: str = "") -> None:
        self.name = name
        self.total, self.done, self.began, self.said = total, 0.0, time.monotonic(), time.monotonic()
        console = Console(stderr=True)
        self.bar: RichProgress | None = None
        drawn = console.is_terminal and not name
        self.lines = not quiet and total > 0 and not drawn
        if not quiet and total > 0 and drawn:
            self.bar = RichProgress(SpinnerColumn(), BarColumn(), _Cases(), TimeRemainingColumn(), console=console)
            self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif self.lines and kind is None:
            self._say()

    def advance(self, cases: float) -> None:
        """Count so many more cases, fractions too."""
        self.done += cases
        if self.bar:
            self.bar.update(self.task, completed=self.done)
        elif self.lines and time.monotonic() - self.said > EVERY:
            self._say()

    def _say(self) -> None:
        self.said = time.monotonic()
        spent = self.said - self.began
        rate = self.done / spent if spent else 0.0
        left = f"{max(0.0, self.total - self.done) / rate:.0f} s left" if rate else "unknown time left"
        print(f"{self.name}{self.done:.0f} of {self.total} cases, {rate:.2g}/s, {left}", file=sys.stderr, flush=True)
