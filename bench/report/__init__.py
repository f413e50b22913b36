"""Everything a reader gets from the rows on disk: tables, notes, figures, the page."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.analysis.groups import Group, group_folders
from bench.analysis.kept_maps import read_shown
from bench.analysis.loading import load_group
from bench.analysis.rankings import AGREEMENT_COLUMNS, RANK_COLUMNS, agreement_table, ranks_table
from bench.analysis.tables import BREAKDOWN_COLUMNS, SUMMARY_COLUMNS, breakdown_group, join, summarize_group, to_csv
from bench.figures.draw import draw, draw_figure1, figure_links, folder_of, stale
from bench.report.gallery import CASES
from bench.report.grid import make_grid
from bench.report.latex import write_tables
from bench.report.page import page_of, section_of
from bench.report.text import markdown, print_group, printed_path
from bench.runs.store import Folder, find_folders, write_text
from bench.types import UserError

COLUMNS = {
    "summary": SUMMARY_COLUMNS,
    "breakdown": BREAKDOWN_COLUMNS,
    "ranks": RANK_COLUMNS,
    "agreement": AGREEMENT_COLUMNS,
}


@dataclass(frozen=True, eq=False)
class Reported:
    """What the files say about one group: rows of the tables, Markdown, section of the page."""

    tables: dict[str, pd.DataFrame]
    text: str
    section: dict[str, Any]


def report(
    root: Path | Sequence[Path],
    *,
    only: Collection[Path] | None = None,
    reference: str = "grad_cam",
    console: Console | None = None,
    redraw: bool = True,
    images: Sequence[str] = (),
) -> pd.DataFrame:
    """Write report.html, tables, summary.md and figures/ below `root`, and print the main table.

    The tables are summary.csv (means, intervals, paired tests), breakdown.csv (by number of instances,
    target probability, object size), ranks.csv (Friedman), agreement.csv (Kendall's tau of metrics), and
    tables/ with the main table as LaTeX, Markdown and CSV.

    Parameters
    ----------
    root : Path or sequence of Path
        Folders with results, everything below them is read; what they hold of one protocol becomes one table. The
        files are written below the first.
    only : collection of Path, optional
        Results folders: only these are printed and drawn. The files cover all results in any case.
    reference : str
        Method that the others are compared with.
    console : rich.console.Console, optional
        Standard output by default, 100 columns wide where that is no terminal.
    redraw : bool
        Without, figures that show the parts as they are now are left as they are, and no PDF is drawn.
    images : sequence of str
        Case or image ids: drawn as figure1.pdf and figure1.png of their group.

    Returns
    -------
    DataFrame
        The summary, as in summary.csv.

    Raises
    ------
    UserError
        No readable results, no picture of `images` was kept, or the files cannot be written.
    """
    roots = [Path(root)] if isinstance(root, str | Path) else [Path(path) for path in root]
    console = console or default_console()
    groups = find_groups(roots)
    chosen = None if only is None else {Path(path).resolve() for path in only}
    figure1: list[Path] = []
    done: list[Reported] = []
    for folders in groups:
        group = load_group(*folders)
        if group is not None:
            printing = chosen is None or any(folder.path.resolve() in chosen for folder in folders)
            done.append(report_group(group, roots[0], reference, console if printing else None, redraw, len(groups)))
            if printing and images:
                figure1 += draw_figure1(group, images, folder_of(roots[0], group))
    if not done:
        raise UserError(f"no readable cases under {words(roots)}; run python -m bench out={roots[0]} again")
    tables = {name: join([one.tables[name] for one in done], columns) for name, columns in COLUMNS.items()}
    write_files(roots[0], tables, done, console)
    for path in figure1:
        printed_path(console, "figure1", path)
    if images and not figure1:
        names = ",".join(map(str, images))
        raise UserError(f"no picture of {names} was kept; run the benchmark again with 'gallery.images=[{names}]'")
    printed_path(console, "report ", roots[0] / "report.html")
    return tables["summary"]


def report_group(
    group: Group, root: Path, reference: str, console: Console | None, redraw: bool, count: int
) -> Reported:
    """Make one group's tables, figures and texts; printed and drawn only with a console; `count` groups in all."""
    figures, shown = folder_of(root, group), read_shown(group, CASES)
    # BLAS' own threads would wait for each other's: two tables at a time take 9 s or 240 s on a busy machine.
    with ThreadPoolExecutor(2) as pool, threadpool_limits(1, user_api="blas"):
        pending = start_tables(pool, group, reference)
        if console and (redraw or stale(figures, group)):
            draw(group, pending, shown, figures, pdf=redraw)
        tables = {name: table.result() for name, table in pending.items()}
    grid = make_grid(group, tables["summary"])
    if console:
        print_group(group, grid, console, reference)
        printed_path(console, "figures", figures)
    write_tables(group, grid, root)
    text = markdown(group, grid, tables, figure_links(figures, root), reference)
    return Reported(tables, text, section_of(group, grid, tables, shown, figures, reference, count))


def find_groups(roots: Sequence[Path]) -> list[list[Folder]]:
    """Results folders below all roots, those of one protocol together; one that lies below two roots counts once.

    Raises
    ------
    UserError
        There are none.
    """
    folders = {f.path.resolve(): f for root in roots if root.is_dir() for f in find_folders(root)}
    if not folders:
        raise UserError(f"no results under {words(roots)}; run python -m bench out={roots[0]} first")
    return group_folders(folders.values())


def words(paths: Iterable[Path]) -> str:
    """Paths as a list in a sentence."""
    return ", ".join(map(str, paths))


def start_tables(pool: Executor, group: Group, reference: str) -> dict[str, Future[pd.DataFrame]]:
    """Start the tables of one group, the longest first; numpy mostly leaves the interpreter free for figures."""
    return {
        "summary": pool.submit(summarize_group, group, reference=reference),
        "agreement": pool.submit(agreement_table, group),
        "breakdown": pool.submit(breakdown_group, group),
        "ranks": pool.submit(ranks_table, group),
    }


def write_files(root: Path, tables: dict[str, pd.DataFrame], done: Sequence[Reported], console: Console) -> None:
    """Write the csv tables, summary.md and report.html, and say where the tables are."""
    for name, table in tables.items():
        write_text(root / f"{name}.csv", to_csv(table))
    write_text(root / "summary.md", "# Results\n\n" + "\n".join(one.text for one in done))
    write_text(root / "report.html", page_of([one.section for one in done]))
    printed_path(console, "tables ", root / "summary.md", *(root / f"{name}.csv" for name in tables), root / "tables")


def default_console() -> Console:
    """Console on standard output, wide enough for the table where nobody says how wide it is."""
    console = Console(soft_wrap=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=100)
