"""The crash test and the trial of metrics in words, on the terminal and in Markdown."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.analysis.trials.crash_test import worst
from bench.analysis.trials.metric_trial import KINDS
from bench.report.text import plain, row, safe


def print_crash_test(table: pd.DataFrame, console: Console) -> None:
    """Print one row a method, one column a mechanism; nothing for an empty table of `crash_table`."""
    if table.empty:
        return
    mechanisms = list(dict.fromkeys(table["mechanism"]))
    grid = Table("passes", *map(str, mechanisms), box=None, padding=(0, 1, 0, 0), show_edge=False)
    for (method, _), rows in table.groupby(["method", "layer"], sort=False):
        overall = dict(zip(rows["mechanism"], rows["overall"], strict=True))
        words = [{"pass": "yes", "fail": "-", "undecided": "?"}[overall[name]] for name in mechanisms]
        grid.add_row(str(method), *words)
    console.print(grid)
    reasons = {str(row.method): str(row.reason) for row in table.itertuples() if row.reason}
    for method, reason in reasons.items():
        console.print(plain(Text(f"{method} fails: {reason}", style="dim"), console), highlight=False)
    console.print()


def crash_markdown(table: pd.DataFrame) -> str:
    """Make a Markdown table with one line a method and mechanism that does not pass; empty for an empty table."""
    if table.empty:
        return ""
    passed = table[table["overall"] == "pass"].drop_duplicates(["method", "layer", "mechanism"])
    total = table["mechanism"].nunique()
    counts = passed.groupby("method", sort=False)["mechanism"].apply(list)
    lines = ["### Crash test", ""]
    lines += [
        f"- {safe(str(name))} passes {len(which)} of {total}: {', '.join(which)}" for name, which in counts.items()
    ]
    heads = ["mechanism", "method", "verdict", "value", "measured", "limit", "reason"]
    lines += ["", row(heads), row([":--"] * len(heads))]
    for (mechanism, method, _), rows in table.groupby(["mechanism", "method", "layer"], sort=False):
        one = worst(rows)
        if one is not None:
            measured = f"{one['mean']:.3f} ({one['ci_low']:.3f}–{one['ci_high']:.3f})"
            cells = [mechanism, method, one["overall"], one["value"], measured, one["limit"], one["reason"]]
            lines.append(row([safe(str(cell)) for cell in cells]))
    return "\n".join([*lines, "", ""])


def print_metric_trial(table: pd.DataFrame, console: Console) -> None:
    """Print one row a metric's value: whether the truth is best, and what the metric may be trusted for."""
    if table.empty:
        return
    heads = ["metric", "truth best", *KINDS, "sees one", "trusted for"]
    grid = Table(*heads, box=None, padding=(0, 1, 0, 0), show_edge=False)
    for cells in trial_rows(table):
        grid.add_row(*cells)
    console.print(grid)
    console.print()


def trial_rows(table: pd.DataFrame) -> list[list[str]]:
    """Cells of `print_metric_trial`: name, best map, Kendall's tau by kind of fault, share that sees one missing."""
    return [
        [
            str(each["metric"]),
            "yes" if each["best"] else str(each["best_map"]),
            *(f"{each[f'tau_{kind}']:.2f}" for kind in KINDS),
            f"{each['sees_one']:.2f}",
            str(each["trusted_for"]) or "-",
        ]
        for each in table.to_dict("records")
    ]


def trial_markdown(table: pd.DataFrame) -> str:
    """Make a Markdown table of `trial_table`; empty for an empty one."""
    if table.empty:
        return ""
    heads = ["metric", "truth best", *(f"τ {kind}" for kind in KINDS), "sees one missing", "trusted for"]
    heads += ["false alarm", "baseline", "steps", "seed", "passes a map"]
    lines = ["### Metric trial", "", row(heads), row([":--"] * len(heads))]
    for cells, each in zip(trial_rows(table), table.to_dict("records"), strict=True):
        more = [
            "" if pd.isna(each[key]) else f"{each[key]:.2f}" for key in ("false_alarm", "baseline", "steps", "seed")
        ]
        lines.append(row([safe(cell) for cell in [*cells, *more, str(each["passes"])]]))
    return "\n".join([*lines, "", ""])
