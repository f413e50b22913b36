"""Two results folders beside each other: which cells changed, and by more than their intervals."""

from __future__ import annotations

import math
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
ABOUT = {
    "beyond": "changed beyond their intervals: one mean lies outside the other's 95 % interval",
    "within": "changed within their intervals",
    "same": "the same to a millionth",
    "only in A": "only in A",
    "only in B": "only in B",
}
PRINTED = 40  # changed cells in the terminal


def compare(first: Path, second: Path) -> tuple[pd.DataFrame, str]:
    """Join the summaries of two results folders, A and B, by data set, model, metric, layer and method.

    A cell has changed if its means differ by more than a millionth of the larger. It has changed ``beyond`` its
    interval if A's mean lies outside B's 95 % interval or B's outside A's, else ``within``. Where a folder holds one
    cell under several protocols, that of the protocol which both folders have is taken, else the last.

    Returns
    -------
    DataFrame
        One row a cell, changed ones first.
    str
        Whether both folders used the same protocols.

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
    joined["order"] = joined["state"].map({state: i for i, state in enumerate(ABOUT)})
    width = (joined["ci_high_a"] - joined["ci_low_a"]).abs() + (joined["ci_high_b"] - joined["ci_low_b"]).abs()
    joined["size"] = -(joined["change"].abs() / width.where(width > 0)).fillna(math.inf)
    cells = joined.sort_values(["order", "size", *CELL], kind="stable", ignore_index=True)
    return cells.drop(columns=["order", "size"]), protocol_note(cells)


def protocol_note(cells: pd.DataFrame) -> str:
    """Say whether the cells that both folders have were measured by the same protocol."""
    both = cells.dropna(subset=["mean_a", "mean_b"])
    same = both["protocol_a"] == both["protocol_b"]
    if both.empty:
        return "the folders have no cell in common"
    if same.all():
        return "all shared cells by the same protocol"
    shared = ", ".join(sorted(set(both["protocol_a"][same])))
    note = f"{(~same).sum()} of {len(both)} cells were measured by another protocol (data, weights or seed differ)"
    return f"{note}; the others by the same: {shared}" if shared else note


def one_protocol(summary: pd.DataFrame, common: set[str]) -> pd.DataFrame:
    """One row a cell: of the common protocol where there is one."""
    order = summary["protocol"].isin(common)
    kept = summary.assign(_common=order).sort_values(["_common", "protocol"], kind="stable")
    kept = kept.drop_duplicates(CELL, keep="last")
    return kept[[*CELL, "mean", "ci_low", "ci_high", "n", "protocol"]]


def state_of(cell: Any) -> str:
    """One of the keys of `ABOUT`."""
    if math.isnan(cell.mean_a):
        return "only in B"
    if math.isnan(cell.mean_b):
        return "only in A"
    if abs(cell.change) <= 1e-6 * max(abs(cell.mean_a), abs(cell.mean_b)):
        return "same"
    # Without an interval (a single image) nothing is known of the spread, so nothing is beyond it.
    a_outside = math.isfinite(cell.ci_low_b) and not cell.ci_low_b <= cell.mean_a <= cell.ci_high_b
    b_outside = math.isfinite(cell.ci_low_a) and not cell.ci_low_a <= cell.mean_b <= cell.ci_high_a
    return "beyond" if a_outside or b_outside else "within"


def report_comparison(first: Path, second: Path, folder: Path, console: Console) -> None:
    """Print what changed from A to B, and write compare.html, compare.md and compare.csv into `folder`."""
    cells, protocols = compare(first, second)
    counts = cells["state"].value_counts()
    summary = [f"{counts[state]} {about}" for state, about in ABOUT.items() if state in counts]
    changed = cells[cells["state"].isin(["beyond", "within"])]
    lines = [f"A: {first}", f"B: {second}", f"{len(cells)} cells: {'; '.join(summary)}", protocols]
    if len(changed):
        console.print(terminal_table(changed.head(PRINTED), console))
    more = [f"{len(changed) - PRINTED} more changed cells are in compare.csv"] if len(changed) > PRINTED else []
    for line in [*more, *lines]:
        console.print(plain(Text(line), console), highlight=False)
    rows = [shown(cell) for cell in cells.itertuples() if cell.state != "same"]
    text = [f"# {safe(str(first))} and {safe(str(second))}", "", *(f"- {safe(line)}" for line in lines), ""]
    heads = ["data set", "model", "metric", "layer", "method", "A", "B", "change", ""]
    text += [row(heads), row([":--"] * 5 + ["--:"] * 3 + [":--"])]
    text += [row([safe(value) for value in each["texts"]]) for each in rows]
    write_text(folder / "compare.md", "\n".join(text) + "\n")
    write_text(folder / "compare.csv", to_csv(cells))
    write_text(folder / "compare.html", render("compare.html", heads=heads, rows=rows, lines=lines))
    printed_path(console, "compared", *(folder / f"compare.{suffix}" for suffix in ("html", "md", "csv")))


def shown(cell: Any) -> dict[str, Any]:
    """One cell as texts, with the values that it is sorted by."""
    means = ((cell.mean_a, cell.ci_low_a, cell.ci_high_a), (cell.mean_b, cell.ci_low_b, cell.ci_high_b))
    ends = [f"{number(m)} ({interval(low, high)})" if math.isfinite(low) else number(m) for m, low, high in means]
    change = "" if math.isnan(cell.change) else f"{cell.change:{'+.3f' if abs(cell.change) >= 5e-4 else '+.0e'}}"
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
