"""Figures as files. Their own module, since a process that only saves figures has no use for torch and pandas."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from matplotlib import rc_context, rc_params_from_file
from matplotlib.figure import Figure

from bench.runs.store import write_atomically
from bench.types import UserError

# Any: matplotlib types the keys of its settings one by one.
STYLE: Any = rc_params_from_file(Path(__file__).with_name("plots.mplstyle"), use_default_template=False)
Save = Callable[[Figure | None, Path, Collection[str]], None]


def save(figure: Figure | None, path: Path, formats: Collection[str]) -> None:
    """Write a figure as `path` with each format's suffix, atomically; files of other formats are older and go."""
    for suffix in ("svg", "png", "pdf"):
        if figure is None or suffix not in formats:
            path.with_name(f"{path.name}.{suffix}").unlink(missing_ok=True)
    if figure is None:
        return
    with rc_context(STYLE):
        # Laid out once, for all formats: with a layout engine each of them draws everything twice.
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine(None)
        for suffix in formats:
            # A tenth larger, three times quicker; no dates, so that the same figure has the same bytes.
            options: dict[str, dict[str, Any]] = {
                "png": {"pil_kwargs": {"compress_level": 3}},
                "svg": {"metadata": {"Date": None}, "transparent": True},
                "pdf": {"metadata": {"CreationDate": None}},
            }
            target = path.with_name(f"{path.name}.{suffix}")
            write_atomically(target, partial(figure.savefig, format=suffix, **options[suffix]))


@contextmanager
def saving() -> Iterator[Save]:
    """Give a function like `save` that leaves the work to two other processes; at the end all files are written.

    Saving takes longer than making a figure, and matplotlib keeps the interpreter to itself meanwhile. Each path is
    to be given once, since it may be saved by either process.

    Raises
    ------
    UserError
        A file cannot be written.
    """
    command = [sys.executable, "-m", "bench.figures.saving"]
    # A terminal's Ctrl-C is for this process, which then ends the others.
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        for _ in range(2)
    ]
    turns = cycle(children)

    def later(figure: Figure | None, path: Path, formats: Collection[str]) -> None:
        pipe = next(turns).stdin
        assert pipe
        with suppress(BrokenPipeError):  # what went wrong there is told below
            pickle.dump((figure, path, formats), pipe)
            pipe.flush()

    try:
        yield later
        mistakes = [child.communicate()[0] for child in children]
    except BaseException:
        for child in children:
            child.kill()
            child.communicate()
        raise
    for child, mistake in zip(children, mistakes, strict=True):
        if mistake:
            raise UserError(mistake.decode())
        if child.returncode:
            raise RuntimeError(f"a process that saves figures ended with status {child.returncode}")


def main() -> None:
    """Save the figures that come in, pickled, by standard input; says on standard output what cannot be written."""
    queue: SimpleQueue[Any] = SimpleQueue()

    def take() -> None:
        """Take figures as they come to the end, also after a mistake: the sender shall not wait or find nobody."""
        with suppress(EOFError, pickle.UnpicklingError):  # the latter where the sender was killed
            while True:
                queue.put(pickle.load(sys.stdin.buffer))
        queue.put(None)

    Thread(target=take).start()
    try:
        while given := queue.get():
            save(*given)
    except UserError as error:
        sys.stdout.buffer.write(str(error).encode(errors="replace"))


if __name__ == "__main__":
    main()
