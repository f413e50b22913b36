"""The main table as files to paste: LaTeX with booktabs, Markdown, CSV."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from bench.analysis.groups import NO_LAYER, Group
from bench.analysis.tables import to_csv
from bench.figures.draw import slug
from bench.report.grid import Cell, Grid, interval, number, sections
from bench.report.notes import share, size_of
from bench.report.text import markdown_table
from bench.runs.store import write_text
from bench.types import printable

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip


def write_tables(group: Group, grid: Grid, root: Path) -> None:
    """Write tables/<data set>-<model>-<protocol>.tex, .md and .csv below `root`."""
    folder = root / "tables"
    write_text(folder / f"{slug(group)}.tex", latex(group, grid))
    write_text(folder / f"{slug(group)}.md", "\n".join(markdown_table(group, grid)) + "\n")
    write_text(folder / f"{slug(group)}.csv", to_csv(wide(grid)))


def escaped(text: str) -> str:
    """Text on one line, with everything escaped that LaTeX would interpret."""
    return "".join(SPECIAL.get(letter, letter) for letter in printable(" ".join(text.split())))


def latex(group: Group, grid: Grid) -> str:
    """Table for LaTeX with booktabs: layers as blocks, best values bold, values not significantly worse underlined."""
    width = len(grid.columns) + 1
    lines = [
        r"% needs \usepackage{booktabs}, and \usepackage[T1]{fontenc} for quotation marks",
        rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}",
        r"\toprule",
        " & ".join(["method", *(escaped(column.title) for column in grid.columns)]) + r" \\",
    ]
    for title, methods, controls in sections(group):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escaped(title)}}}}} \\"]
        for at in (methods, controls):
            if at is controls and methods and controls:
                lines.append(r"\addlinespace")
            for i in at:
                entry = grid.entries[i]
                name = escaped(entry.method)
                if entry.degenerate:
                    name += rf" {{\scriptsize {escaped(share(entry.degenerate_share))} degenerate}}"
                lines.append(" & ".join([name, *(latex_cell(cell) for cell in grid.cells[i])]) + r" \\")
    about = f"{group.dataset}, {group.model}, {size_of(group)}; mean and 95 % interval; bold: best, underlined: not"
    lines += [r"\bottomrule", r"\end{tabular}", f"% {escaped(about)}"]
    lines.append("% significantly worse (Wilcoxon, Holm-corrected); protocol " + escaped(group.protocol))
    return "\n".join(lines) + "\n"


def latex_cell(cell: Cell | None) -> str:
    """Mean over its interval, and what was published."""
    if cell is None:
        return "--"
    text = number(cell.mean)
    text = rf"\textbf{{{text}}}" if cell.best else rf"\underline{{{text}}}" if cell.tied else text
    span = interval(cell.low, cell.high)
    text += rf" {{\scriptsize {escaped(span)}}}" if span else ""
    return text + (rf" {{\scriptsize (published {number(cell.reported)})}}" if math.isfinite(cell.reported) else "")


def wide(grid: Grid) -> pd.DataFrame:
    """One row a method and layer, the numbers of the printed table beside each other."""
    rows = []
    for entry, cells in zip(grid.entries, grid.cells, strict=True):
        row: dict[str, object] = {"method": entry.method, "layer": "" if entry.layer == NO_LAYER else entry.layer}
        row |= {"n": entry.rows, "degenerate": entry.degenerate_share}
        for column, cell in zip(grid.columns, cells, strict=True):
            mark = "" if cell is None else "best" if cell.best else "not worse" if cell.tied else ""
            numbers = (cell.mean, cell.low, cell.high) if cell else (math.nan, math.nan, math.nan)
            keys = [f"{column.metric}{suffix}" for suffix in ("", " low", " high", " mark")]
            row |= dict(zip(keys, [*numbers, mark], strict=True))
        rows.append(row)
    return pd.DataFrame(rows)
