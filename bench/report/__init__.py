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

from bench.analysis.groups import Group, group_folders
from bench.analysis.kept_maps import read_shown
from bench.analysis.loading import load_group
from bench.analysis.rankings import AGREEMENT_COLUMNS, RANK_COLUMNS, agreement_table, ranks_table
from bench.analysis.tables import (
    BREAKDOWN_COLUMNS,
    COMPARISON_COLUMNS,
    SUMMARY_COLUMNS,
    breakdown_group,
    join,
    summarize_group,
    to_csv,
)
from bench.analysis.trials.baselines import (
    BASELINE_COLUMNS,
    DISTANCE_COLUMNS,
    TAU_COLUMNS,
    baseline_distance_table,
    baseline_tau_table,
    baselines_table,
)
from bench.analysis.trials.crash_test import CRASH_COLUMNS, crash_table
from bench.analysis.trials.metric_trial import TRIAL_COLUMNS, trial_table
from bench.analysis.verdicts import best_layer, equal_entries, question_columns, verdicts_of
from bench.figures.draw import Chosen, draw, draw_figure1, figure_links, slug, stale
from bench.report.answers import answers_of
from bench.report.baselines import baseline_answers, baselines_markdown, distances_markdown
from bench.report.crash_test import crash_markdown, print_crash_test, print_metric_trial, trial_markdown
from bench.report.gallery import CASES
from bench.report.grid import make_grid
from bench.report.latex import write_tables
from bench.report.page import page_of, section_of
from bench.report.sheet import matrices_of
from bench.report.text import markdown, print_group, printed_path
from bench.store.files import write_text
from bench.store.folders import Folder, find_folders
from bench.types import UserError

# Of experiments; written where there are rows.
TRIALS = {
    "crash_test": CRASH_COLUMNS,
    "metric_trial": TRIAL_COLUMNS,
    "baselines": BASELINE_COLUMNS,
    "baselines_tau": TAU_COLUMNS,
    "baselines_distance": DISTANCE_COLUMNS,
}
COLUMNS = {
    "summary": SUMMARY_COLUMNS,
    "comparisons": COMPARISON_COLUMNS,
    "breakdown": BREAKDOWN_COLUMNS,
    "ranks": RANK_COLUMNS,
    "agreement": AGREEMENT_COLUMNS,
}


def report(
    root: Path | Sequence[Path],
    *,
    only: Collection[Path] | None = None,
    reference: str = "grad_cam",
    console: Console | None = None,
    redraw: bool = True,
    images: Sequence[str] = (),
    beside: Sequence[Folder] = (),
    cases: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
    wanted: Collection[str] = (),
) -> pd.DataFrame:
    """Write report.html, tables, summary.md and figures/ below `root`, and print the main table.

    The tables are summary.csv (means, intervals, paired tests), comparisons.csv (every paired difference to the
    reference and the controls), breakdown.csv (by number of instances, target probability, object size), ranks.csv
    (average ranks), agreement.csv (Kendall's tau of metrics), and tables/ with the main table as LaTeX, Markdown, CSV.

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
        Draw all figures, also for print. Without, figures that show the parts as they are now are left as they are,
        and others are drawn as SVG alone.
    images : sequence of str
        Case or image ids: drawn as figure1.pdf and figure1.png of their group.
    beside : sequence of Folder
        Results of the protocol in `only` that lie elsewhere, whose rows stand in its table.
    cases, metrics : collection of str, optional
        Of the protocol in `only` these case ids and keys of metrics alone.
    wanted : collection of str
        Keys of methods' results that count where others have the same name.

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
    first, console = roots[0], console or default_console()
    # A folder that lies below two roots counts once.
    folders = {f.path.resolve(): f for path in roots if path.is_dir() for f in find_folders(path)}
    chosen = folders.keys() if only is None else {Path(path).resolve() for path in only}
    groups, listed = group_folders(folders.values()), ", ".join(map(str, roots))
    if not groups:
        raise UserError(f"no results under {listed}; run python -m bench out={first} first")
    done: list[tuple[dict[str, pd.DataFrame], str, dict[str, Any]]] = []
    figure1: list[Path] = []
    for members in groups:
        printing = any(folder.path.resolve() in chosen for folder in members)
        choice: dict[str, Any] = {"cases": cases, "metrics": metrics, "wanted": wanted} if printing else {}
        if group := load_group(*members, *(beside if printing else ()), **choice):
            done.append(report_group(group, first, reference, console if printing else None, redraw, len(groups)))
            if printing and images:
                figure1 += draw_figure1(group, images, first / "figures" / slug(group))
    if not done:
        raise UserError(f"no readable cases under {listed}; run python -m bench out={first} again")
    for name, columns in TRIALS.items():
        if len(table := join([tables[name] for tables, _, _ in done], columns)):
            write_text(first / f"{name}.csv", to_csv(table))
    whole = {name: join([tables[name] for tables, _, _ in done], columns) for name, columns in COLUMNS.items()}
    for name, table in whole.items():
        write_text(first / f"{name}.csv", to_csv(table))
    write_text(first / "summary.md", "# Results\n\n" + "\n".join(text for _, text, _ in done))
    sections = [section for _, _, section in done]
    write_text(first / "report.html", page_of(sections, matrices_of(sections)))
    printed_path(console, "tables ", first / "summary.md", *(first / f"{name}.csv" for name in whole), first / "tables")
    for path in figure1:
        printed_path(console, "figure1", path)
    if images and not figure1:
        names = ",".join(map(str, images))
        raise UserError(f"no picture of {names} was kept; run the benchmark again with 'gallery.images=[{names}]'")
    printed_path(console, "report ", first / "report.html")
    return whole["summary"]


def report_group(
    group: Group, root: Path, reference: str, console: Console | None, redraw: bool, count: int
) -> tuple[dict[str, pd.DataFrame], str, dict[str, Any]]:
    """Make one group's tables, Markdown, and section of the page, on which `count` groups have to find room.

    The group is printed and drawn only with a console.
    """
    figures, shown = root / "figures" / slug(group), read_shown(group, CASES)
    # BLAS' own threads would wait for each other: on a busy machine two tables took 28 CPU seconds, without this 104.
    with ThreadPoolExecutor(2) as pool, threadpool_limits(1, user_api="blas"):
        summary = pool.submit(summarize_group, group, reference=reference)
        rest = {"breakdown": breakdown_group, "agreement": agreement_table, "ranks": ranks_table}
        pending = {name: pool.submit(make, group) for name, make in rest.items()}
        tables = {name: table.result() for name, table in pending.items()}
        tables["crash_test"], tables["metric_trial"] = crash_table(group), trial_table(group)
        tables["baselines"], tables["baselines_tau"] = baselines_table(group), baseline_tau_table(group)
        tables["baselines_distance"] = baseline_distance_table(group)
        tables["summary"], tables["comparisons"] = summary.result()
        sets = equal_entries(group)
        verdicts = verdicts_of(group, tables["comparisons"], reference)
        columns = question_columns(group, set(tables["summary"]["metric"]))
        chosen = Chosen(sets=sets, columns=columns, layer=best_layer(group, verdicts), reference=reference)
        if console and (redraw or stale(figures, group, reference)):
            draw(group, tables, chosen, shown, figures, prints=redraw)
    grid = make_grid(group, tables["summary"], sets)
    answers = answers_of(group, verdicts, sets, reference) + baseline_answers(tables["baselines"])
    if console:
        print_group(group, grid, answers, console, reference)
        print_crash_test(tables["crash_test"], console)
        print_metric_trial(tables["metric_trial"], console)
        printed_path(console, "figures", figures)
    write_tables(group, grid, columns, root)
    text = markdown(group, grid, answers, tables["agreement"], figure_links(figures, root), reference)
    text += crash_markdown(tables["crash_test"]) + trial_markdown(tables["metric_trial"])
    text += baselines_markdown(tables["baselines"]) + distances_markdown(tables["baselines_distance"])
    return tables, text, section_of(group, grid, chosen, answers, tables, shown, figures, count)


def default_console() -> Console:
    """Console on standard output, wide enough for the table where nobody says how wide it is."""
    console = Console(soft_wrap=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=100)
