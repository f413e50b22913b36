"""Two results folders beside each other: which cells changed, and by more than their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.analysis.groups import group_folders
from bench.analysis.loading import load_group
from bench.analysis.tables import summarize, to_csv
from bench.report.grid import interval, number
from bench.report.page import render
from bench.report.text import plain, printed_path, row, safe
from bench.runs.store import find_folders, write_text
from bench.types import UserError

CELL = ["dataset", "model", "metric", "layer", "method"]
STATES = ("beyond", "within", "same", "only in A", "only in B")
ABOUT = {
    "beyond": "changed beyond their intervals: one mean lies outside the other's 95 % interval",
    "within": "changed within their intervals",
    "same": "the same to a millionth",
    "only in A": "only in A",
    "only in B": "only in B",
}
PRINTED = 40  # changed cells in the terminal


@dataclass(frozen=True, eq=False)
class Comparison:
    """Cells of two results folders, changed ones first; `protocols` says whether both used the same ones."""

    cells: pd.DataFrame
    protocols: str


def compare(first: Path, second: Path) -> Comparison:
    """Join the summaries of two results folders by data set, model, metric, layer and method.

    A cell has changed if its means differ by more than a millionth of the larger. It has changed ``beyond`` its
    interval if A's mean lies outside B's 95 % interval or B's outside A's, else ``within``. Where a folder holds one
    cell under several protocols, that of the protocol which both folders have is taken, else the last.

    Parameters
    ----------
    first, second : Path
        Results folders, A and B, or folders below them.

    Returns
    -------
    Comparison

    Raises
    ------
    UserError
        A folder holds no results.
    """
    summaries = []
    for path in (first, second):
        folders = find_folders(path) if path.is_dir() else []
        summary = summarize(load_group(*members) for members in group_folders(folders))
        if summary.empty:
            raise UserError(f"no results under {path}; --compare takes two results folders")
        summaries.append(summary)
    common = set(summaries[0]["protocol"]) & set(summaries[1]["protocol"])
    a, b = (one_protocol(summary, common) for summary in summaries)
    joined = a.merge(b, on=CELL, how="outer", suffixes=("_a", "_b"))
    joined["change"] = joined["mean_b"] - joined["mean_a"]
    joined["state"] = [state_of(cell) for cell in joined.itertuples()]
    joined["order"] = joined["state"].map({state: i for i, state in enumerate(STATES)})
    width = (joined["ci_high_a"] - joined["ci_low_a"]).abs() + (joined["ci_high_b"] - joined["ci_low_b"]).abs()
    joined["size"] = -(joined["change"].abs() / width.where(width > 0)).fillna(math.inf)
    cells = joined.sort_values(["order", "size", *CELL], kind="stable", ignore_index=True)
    shared = {name for name in common if name in set(a["protocol"]) and name in set(b["protocol"])}
    both = cells.dropna(subset=["mean_a", "mean_b"])
    different = int((both["protocol_a"] != both["protocol_b"]).sum())
    note = "all shared cells by the same protocol" if not different else (
        f"{different} of {len(both)} cells were measured by another protocol (data, weights or seed differ)"
        + (f"; the others by the same: {', '.join(sorted(shared))}" if shared else "")
    )  # fmt: skip
    note = note if len(both) else "the folders have no cell in common"
    return Comparison(cells.drop(columns=["order", "size"]), note)


def one_protocol(summary: pd.DataFrame, common: set[str]) -> pd.DataFrame:
    """One row a cell: of the common protocol where there is one."""
    order = summary["protocol"].isin(common)
    kept = summary.assign(_common=order).sort_values(["_common", "protocol"], kind="stable")
    kept = kept.drop_duplicates(CELL, keep="last")
    return kept[[*CELL, "mean", "ci_low", "ci_high", "n", "protocol"]]


def state_of(cell: Any) -> str:
    """One of `STATES`."""
    if math.isnan(cell.mean_a):
        return "only in B"
    if math.isnan(cell.mean_b):
        return "only in A"
    if abs(cell.change) <= 1e-6 * max(abs(cell.mean_a), abs(cell.mean_b)):
        return "same"
    # Without an interval (a single image) nothing is known of the spread, so nothing is beyond it.
    outside = [
        math.isfinite(low) and not low <= mean <= high
        for mean, low, high in (
            (cell.mean_a, cell.ci_low_b, cell.ci_high_b),
            (cell.mean_b, cell.ci_low_a, cell.ci_high_a),
        )
    ]
    return "beyond" if any(outside) else "within"


def report_comparison(first: Path, second: Path, folder: Path, console: Console) -> Comparison:
    """Print what changed from A to B, and write compare.html, compare.md and compare.csv into `folder`."""
    result = compare(first, second)
    counts = result.cells["state"].value_counts()
    summary = [f"{counts[state]} {ABOUT[state]}" for state in STATES if state in counts]
    changed = result.cells[result.cells["state"].isin(["beyond", "within"])]
    lines = [f"A: {first}", f"B: {second}", f"{len(result.cells)} cells: {'; '.join(summary)}", result.protocols]
    if len(changed):
        console.print(terminal_table(changed.head(PRINTED), console))
    more = [f"{len(changed) - PRINTED} more changed cells are in compare.csv"] if len(changed) > PRINTED else []
    for line in [*more, *lines]:
        console.print(plain(Text(line), console), highlight=False)
    rows = [shown(cell) for cell in result.cells.itertuples() if cell.state != "same"]
    text = [f"# {safe(str(first))} and {safe(str(second))}", "", *(f"- {safe(line)}" for line in lines), ""]
    heads = ["data set", "model", "metric", "layer", "method", "A", "B", "change", ""]
    text += [row(heads), row([":--"] * 5 + ["--:"] * 3 + [":--"])]
    text += [row([safe(value) for value in each["texts"]]) for each in rows]
    write_text(folder / "compare.md", "\n".join(text) + "\n")
    write_text(folder / "compare.csv", to_csv(result.cells))
    write_text(folder / "compare.html", render("compare.html", heads=heads, rows=rows, lines=lines))
    printed_path(console, "compared", *(folder / f"compare.{suffix}" for suffix in ("html", "md", "csv")))
    return result


def shown(cell: Any) -> dict[str, Any]:
    """One cell as texts, with the values that it is sorted by."""
    ends = [
        f"{number(mean)} ({interval(low, high)})" if math.isfinite(low) else number(mean)
        for mean, low, high in (
            (cell.mean_a, cell.ci_low_a, cell.ci_high_a),
            (cell.mean_b, cell.ci_low_b, cell.ci_high_b),
        )
    ]
    change = (
        "" if math.isnan(cell.change) else f"{cell.change:+.3f}" if abs(cell.change) >= 5e-4 else f"{cell.change:+.0e}"
    )
    names = [cell.dataset, cell.model, cell.metric, cell.layer, cell.method]
    values = ["" if math.isnan(value) else value for value in (cell.mean_a, cell.mean_b, cell.change)]
    return {"texts": [*names, *ends, change, cell.state], "values": [*names, *values, cell.state], "state": cell.state}


def terminal_table(changed: pd.DataFrame, console: Console) -> Table:
    """Table of changed cells; those that changed beyond their interval come first, in bold."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("method", "layer", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("A", "B", "change", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in changed.itertuples():
        _, _, metric, layer, method, a, b, change, state = shown(cell)["texts"]
        texts = [method, layer, metric, a.partition(" ")[0], b.partition(" ")[0], change, state]
        style = "bold" if state == "beyond" else "dim"
        table.add_row(*[plain(Text(text), console) for text in texts], style=style)
    return table
