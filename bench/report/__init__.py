"""Everything a reader gets from the rows on disk: tables, notes, figures."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from bench.curve_plots import curves_figure
from bench.gallery import gallery_figure, read_shown
from bench.groups import NO_LAYER, Group, group_runs, load_group
from bench.plots import instances_figure, means_figure
from bench.rank_plots import agreement_figure, ranks_figure
from bench.rankings import AGREEMENT_COLUMNS, RANK_COLUMNS, agreement_table, ranks_table
from bench.report.text import markdown, print_group, printed_path
from bench.store import Run, find_runs, safe_name, write_atomically, write_text
from bench.tables import BREAKDOWN_COLUMNS, SUMMARY_COLUMNS, breakdown_group, join, summarize_group, to_csv
from bench.types import UserError

log = logging.getLogger(__name__)
GALLERY = 8
DRAWN = "_drawn"
FIGURES = ("means", "curves", "coverage_by_instances", "ranks", "agreement")
COLUMNS = {
    "summary": SUMMARY_COLUMNS,
    "breakdown": BREAKDOWN_COLUMNS,
    "ranks": RANK_COLUMNS,
    "agreement": AGREEMENT_COLUMNS,
}


def report(
    root: Path,
    *,
    only: Collection[Path] | None = None,
    reference: str = "grad_cam",
    console: Console | None = None,
    redraw: bool = True,
) -> pd.DataFrame:
    """Write tables, summary.md and figures/ below `root`, and print the main table.

    The tables are summary.csv (means, intervals, paired tests), breakdown.csv (by number of instances,
    target probability, object size), ranks.csv (Friedman) and agreement.csv (Kendall's tau of metrics).

    Parameters
    ----------
    root : Path
        Results folder; everything below it is read.
    only : collection of Path, optional
        Folders of runs: only the groups (data set, model, protocol) that these belong to are printed
        and drawn. The files cover all of `root` in any case.
    reference : str
        Method that the others are compared with.
    console : rich.console.Console, optional
        Standard output by default, 100 columns wide where that is no terminal.
    redraw : bool
        Without, figures that are newer than all their chunks are left as they are.

    Returns
    -------
    DataFrame
        The summary, as in summary.csv.

    Raises
    ------
    UserError
        No readable results, or the files cannot be written.
    """
    root = Path(root)
    console = console or default_console()
    runs = find_runs(root) if root.is_dir() else []
    if not runs:
        raise UserError(f"no results under {root}; run python -m bench out={root} first")
    asked = None if only is None else {Path(path).resolve() for path in only}
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    pages = []
    for members in group_runs(runs).values():
        group = load_group(members)
        if group is None:
            continue
        with ThreadPoolExecutor(2) as pool:  # numpy leaves the interpreter free most of the time
            made = {
                "summary": pool.submit(summarize_group, group, reference=reference),
                "breakdown": pool.submit(breakdown_group, group),
                "ranks": pool.submit(ranks_table, group),
                "agreement": pool.submit(agreement_table, group),
            }
        mine = {name: table.result() for name, table in made.items()}
        for name, table in mine.items():
            tables[name].append(table)
        folder = root / "figures" / safe_name(f"{group.dataset}-{group.model}-{group.protocol}")
        if asked is None or any(run.path.resolve() in asked for run in members):
            print_group(group, mine["summary"], console, reference)
            if redraw or stale(folder, members):
                draw(group, mine, folder)
                write_text(folder / DRAWN, version("cam-bench"))
            printed_path(console, "figures", folder)
        pages.append(markdown(group, mine, figure_links(folder, root), reference))
    if not pages:
        raise UserError(f"no readable cases under {root}; run python -m bench out={root} again")
    joined = {name: join(parts, COLUMNS[name]) for name, parts in tables.items()}
    for name, table in joined.items():
        write_text(root / f"{name}.csv", to_csv(table))
    write_text(root / "summary.md", "# Results\n\n" + "\n".join(pages))
    printed_path(console, "tables ", root / "summary.md", *(root / f"{name}.csv" for name in joined))
    return joined["summary"]


def default_console() -> Console:
    """Console on standard output, wide enough for the table where nobody says how wide it is."""
    console = Console(soft_wrap=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=100)


def stale(folder: Path, members: Collection[Run]) -> bool:
    """Whether figures were not finished, or are older than a chunk of theirs or than this program's version."""
    stamp = folder / DRAWN
    if not stamp.is_file() or stamp.read_text() != version("cam-bench"):
        return True
    chunks = [path.stat().st_mtime_ns for run in members for path in run.path.glob("chunk-*.parquet")]
    return max(chunks, default=0) > stamp.stat().st_mtime_ns


def draw(group: Group, tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write the figures of one group into `folder`; figures that no longer apply are removed."""
    began = time.perf_counter()
    makers: dict[str, Callable[[], Figure | None]] = {
        "means": partial(means_figure, group, tables["summary"]),
        "curves": partial(curves_figure, group),
        "coverage_by_instances": partial(instances_figure, group, tables["breakdown"]),
        "ranks": partial(ranks_figure, group, tables["ranks"]),
        "agreement": partial(agreement_figure, group, tables["agreement"]),
    }
    pictures = read_shown(group, GALLERY)
    for layer in group.layers:
        makers[f"gallery-{safe_name(layer)}"] = partial(gallery_figure, group, pictures, layer)
    if any(entry.layer == NO_LAYER and entry.category != "control" for entry in group.entries):
        makers["gallery-input"] = partial(gallery_figure, group, pictures, NO_LAYER)
    for name, make in makers.items():
        figure = make()
        path = folder / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            save(figure, path)
    log.debug("figures of %s took %.1f s", folder.name, time.perf_counter() - began)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically."""
    fast = {"compress_level": 3}  # a tenth larger, three times quicker
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", pil_kwargs=fast))


def figure_links(folder: Path, root: Path) -> dict[str, str]:
    """Title and path relative to `root` of the figures that are there, in the order of reading."""
    paths = {path.stem: path for path in sorted(folder.glob("*.png"))}
    names = [name for name in FIGURES if name in paths] + [name for name in paths if name not in FIGURES]
    return {name.replace("_", " "): paths[name].relative_to(root).as_posix() for name in names}


__all__ = ["Run", "report"]
