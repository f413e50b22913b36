"""Everything a reader gets from the rows on disk: tables, notes, figures, the page."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from threadpoolctl import threadpool_limits

from bench.analysis.columns import make_grid
from bench.analysis.groups import group_runs, load_group
from bench.analysis.kept_maps import read_shown
from bench.analysis.rankings import AGREEMENT_COLUMNS, RANK_COLUMNS, agreement_table, ranks_table
from bench.analysis.tables import BREAKDOWN_COLUMNS, SUMMARY_COLUMNS, breakdown_group, join, summarize_group, to_csv
from bench.figures.draw import draw, draw_figure1, figure_links, folder_of, stale
from bench.report.gallery import CASES
from bench.report.latex import write_tables
from bench.report.page import page_of, section_of
from bench.report.text import markdown, print_group, printed_path
from bench.runs.store import Run, find_runs, write_text
from bench.types import UserError

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
    images: Sequence[str] = (),
) -> pd.DataFrame:
    """Write report.html, tables, summary.md and figures/ below `root`, and print the main table.

    The tables are summary.csv (means, intervals, paired tests), breakdown.csv (by number of instances,
    target probability, object size), ranks.csv (Friedman), agreement.csv (Kendall's tau of metrics), and
    tables/ with the main table as LaTeX, Markdown and CSV.

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
        Without, figures that are newer than all their chunks are left as they are, and no PDF is drawn.
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
    root = Path(root)
    console = console or default_console()
    runs = find_runs(root) if root.is_dir() else []
    if not runs:
        raise UserError(f"no results under {root}; run python -m bench out={root} first")
    asked = None if only is None else {Path(path).resolve() for path in only}
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in COLUMNS}
    pages: list[str] = []
    sections: list[dict[str, Any]] = []
    first: list[Path] = []
    groups = group_runs(runs)
    # Tables are made two at a time and figures saved beside that: threads of BLAS would only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        for members in groups.values():
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
            grid = make_grid(group, mine["summary"])
            shown = read_shown(group, CASES)
            folder = folder_of(root, group)
            if asked is None or any(run.path.resolve() in asked for run in members):
                print_group(group, grid, console, reference)
                if redraw or stale(folder, members):
                    draw(group, mine, shown, folder, pdf=redraw)
                printed_path(console, "figures", folder)
                drawn = draw_figure1(group, [str(name) for name in images], folder) if images else None
                first += [drawn] if drawn else []
            write_tables(group, grid, root)
            pages.append(markdown(group, grid, mine, figure_links(folder, root), reference))
            sections.append(section_of(group, grid, mine, shown, folder, reference, len(groups)))
    if not pages:
        raise UserError(f"no readable cases under {root}; run python -m bench out={root} again")
    joined = {name: join(parts, COLUMNS[name]) for name, parts in tables.items()}
    for name, table in joined.items():
        write_text(root / f"{name}.csv", to_csv(table))
    write_text(root / "summary.md", "# Results\n\n" + "\n".join(pages))
    write_text(root / "report.html", page_of(sections))
    files = [root / "summary.md", *(root / f"{name}.csv" for name in joined), root / "tables"]
    printed_path(console, "tables ", *files)
    for path in first:
        printed_path(console, "figure1", path)
    if images and not first:
        names = ",".join(map(str, images))
        raise UserError(f"no picture of {names} was kept; run the benchmark again with 'gallery.images=[{names}]'")
    printed_path(console, "report ", root / "report.html")
    return joined["summary"]


def default_console() -> Console:
    """Console on standard output, wide enough for the table where nobody says how wide it is."""
    console = Console(soft_wrap=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=100)


__all__ = ["Run", "report"]
