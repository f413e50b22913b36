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

from bench.analysis.groups import Group, group_folders
from bench.analysis.loading import load_group
from bench.analysis.parts import metric_of
from bench.analysis.tables import summarize, to_csv
from bench.report.grid import interval, number
from bench.report.page import render
from bench.report.text import plain, printed_path, row, safe
from bench.store.files import write_text
from bench.store.folders import find_folders
from bench.types import UserError

CELL = ["dataset", "model", "protocol", "metric", "layer", "method", "versions"]
ABOUT = {
    "better": "better in B beyond their intervals: one mean lies outside the other's 95 % interval",
    "worse": "worse in B beyond their intervals",
    "changed": "changed beyond their intervals, without a better way",
    "within": "changed within their intervals",
    "same": "the same to a millionth",
    "only in A": "only in A",
    "only in B": "only in B",
}
BEYOND = ("better", "worse", "changed")
PRINTED = 40  # changed cells in the terminal


def compare(first: Path, second: Path) -> tuple[pd.DataFrame, list[str]]:
    """Join the summaries of two results folders, A and B, cell by cell.

    A cell is a data set, network, protocol, metric, layer, method, and the versions of metric and method: what was
    measured in another way is never compared. It has changed if its means differ by more than a millionth of the
    larger, and beyond its interval if A's mean lies outside B's 95 % interval or B's outside A's.

    Returns
    -------
    DataFrame
        One row a cell, changed ones first; ``change`` is B minus A, ``state`` one of the keys of `ABOUT`.
    list of str
        What differs between the protocols and versions of A and B, so that cells stand alone.

    Raises
    ------
    UserError
        A folder holds no results.
    """
    groups = [groups_below(path) for path in (first, second)]
    a, b = (pd.concat([cells_of(group) for group in own], ignore_index=True) for own in groups)
    joined = a.merge(b, on=[*CELL, "higher"], how="outer", suffixes=("_a", "_b"))
    joined["change"] = joined["mean_b"] - joined["mean_a"]
    joined["state"] = [state_of(cell) for cell in joined.itertuples()]
    joined["order"] = joined["state"].map({state: i for i, state in enumerate(ABOUT)})
    width = (joined["ci_high_a"] - joined["ci_low_a"]).abs() + (joined["ci_high_b"] - joined["ci_low_b"]).abs()
    joined["size"] = -(joined["change"].abs() / width.where(width > 0)).fillna(math.inf)
    cells = joined.sort_values(["order", "size", *CELL], kind="stable", ignore_index=True)
    return cells.drop(columns=["order", "size", "higher"]), differences(cells, *groups)


def groups_below(path: Path) -> list[Group]:
    """Read all groups below a results folder; UserError where there is none."""
    folders = find_folders(path) if path.is_dir() else []
    groups = [group for members in group_folders(folders) if (group := load_group(*members))]
    if not groups:
        raise UserError(f"no results under {path}; --compare takes two results folders")
    return groups


def cells_of(group: Group) -> pd.DataFrame:
    """Means of a group, with the versions of metric and method, and whether higher is better (1, 0 or -1: neither)."""
    table = summarize([group])[[name for name in CELL if name != "versions"] + ["mean", "ci_low", "ci_high", "n"]]
    entries = {(entry.layer, entry.method): entry.version for entry in group.entries}
    versions = {label: node["version"] for label, node in group.metrics.items()}
    rows = list(table.itertuples())
    table["versions"] = [f"{versions[metric_of(r.metric)[0]]}.{entries[r.layer, r.method]}" for r in rows]
    table["higher"] = [{True: 1, False: 0, None: -1}[group.higher_is_better(r.metric)] for r in rows]
    return table


def differences(cells: pd.DataFrame, first: list[Group], second: list[Group]) -> list[str]:
    """Say what keeps cells of A and B apart: parameters of their protocols, versions of metrics and methods."""
    lines = []
    for a in first:
        for b in second:
            if (a.dataset, a.model) == (b.dataset, b.model) and a.protocol != b.protocol:
                lines.append(f"not compared: {a.dataset}, {a.model}: {'; '.join(changed(a.parameters, b.parameters))}")
    alone = cells[cells["state"].isin(["only in A", "only in B"])]
    keys = [name for name in CELL if name != "versions"]
    for key, part in alone.groupby(keys, sort=False):
        if part["versions"].nunique() > 1:
            place = dict(zip(keys, key, strict=True))
            versions = " and ".join(part["versions"])
            lines.append(
                f"not compared: {place['metric']} of {place['method']} has versions {versions} (metric.method)"
            )
    return list(dict.fromkeys(lines))


def changed(first: Any, second: Any, name: str = "") -> list[str]:
    """Parameters that differ: ``precision: float32 in A, bfloat16 in B``."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = dict.fromkeys([*first, *second])
        return [line for k in keys for line in changed(first.get(k), second.get(k), f"{name}.{k}".lstrip("."))]
    return [] if first == second else [f"{name}: {first} in A, {second} in B"]


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
    if not (a_outside or b_outside):
        return "within"
    return "changed" if cell.higher < 0 else "better" if (cell.change > 0) == bool(cell.higher) else "worse"


def report_comparison(first: Path, second: Path, folder: Path, console: Console) -> None:
    """Print what changed from A to B, and write compare.html, compare.md and compare.csv into `folder`."""
    cells, apart = compare(first, second)
    counts = cells["state"].value_counts()
    summary = [f"{counts[state]} {about}" for state, about in ABOUT.items() if state in counts]
    moved = cells[cells["state"].isin([*BEYOND, "within"])]
    lines = [f"A: {first}", f"B: {second}", f"{len(cells)} cells: {'; '.join(summary)}", *apart]
    if len(moved):
        console.print(terminal_table(moved.head(PRINTED), console))
    more = [f"{len(moved) - PRINTED} more changed cells are in compare.csv"] if len(moved) > PRINTED else []
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


def terminal_table(moved: pd.DataFrame, console: Console) -> Table:
    """Table of changed cells; those beyond their interval come first, in bold."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("method", "layer", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("A", "B", "change", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in moved.itertuples():
        _, _, metric, layer, method, a, b, change, state = shown(cell)["texts"]
        texts = [method, layer, metric, a.partition(" ")[0], b.partition(" ")[0], change, state]
        style = "bold" if state in BEYOND else "dim"
        table.add_row(*[plain(Text(text), console) for text in texts], style=style)
    return table
