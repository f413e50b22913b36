"""The main table as files to paste: LaTeX with booktabs, Markdown, CSV."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.tables import Column, to_csv
from bench.figures.draw import slug
from bench.figures.style import titles
from bench.report.grid import Cell, Grid, interval, number, sections
from bench.report.notes import share, size_of
from bench.report.text import markdown_table
from bench.store.files import write_text
from bench.types import NO_LAYER, printable

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
}  # fmt: skip
MARKS = {"better": r"$^\bigtriangleup$", "worse": r"$^\bigtriangledown$", "equal": "$^=$"}


def write_tables(group: Group, grid: Grid, columns: list[Column], root: Path) -> None:
    """Write tables/<data set>-<model>-<protocol>.tex, .md and .csv below `root`."""
    folder = root / "tables"
    write_text(folder / f"{slug(group)}.tex", latex(group, grid, columns))
    write_text(folder / f"{slug(group)}.md", "\n".join(markdown_table(group, grid)) + "\n")
    write_text(folder / f"{slug(group)}.csv", to_csv(wide(grid)))


def escaped(text: str) -> str:
    """Text on one line, with everything escaped that LaTeX would interpret."""
    return "".join(SPECIAL.get(letter, letter) for letter in printable(" ".join(text.split())))


def latex(group: Group, grid: Grid, columns: list[Column]) -> str:
    """Table with booktabs that fits two columns of a page: the questions' columns, layers as blocks, best values bold.

    The other columns are in the CSV and Markdown tables beside it.
    """
    at = [i for i, column in enumerate(grid.columns) if column in columns]
    lines = [
        r"% needs \usepackage{booktabs}, and \usepackage[T1]{fontenc} for quotation marks",
        rf"\begin{{tabular}}{{l{'r' * len(at)}}}",
        r"\toprule",
        " & ".join(["method", *(escaped(grid.columns[i].title) for i in at)]) + r" \\",
    ]
    for title, methods, controls in sections(grid.entries):
        lines += [r"\midrule", rf"\multicolumn{{{len(at) + 1}}}{{l}}{{\textit{{{escaped(title)}}}}} \\"]
        for rows in (methods, controls):
            if rows is controls and methods and controls:
                lines.append(r"\addlinespace")
            for i in rows:
                entry = grid.entries[i]
                name = escaped(titles(grid.sets[i], 2))
                if entry.degenerate:
                    name += rf" {{\scriptsize {escaped(share(entry.degenerate_share))} degenerate}}"
                lines.append(" & ".join([name, *(latex_cell(grid.cells[i][j]) for j in at)]) + r" \\")
    about = f"{group.dataset}, {group.model} ({group.weights}), {size_of(group)}; mean and 95 % interval; bold: best;"
    lines += [r"\bottomrule", r"\end{tabular}", f"% {escaped(about)}"]
    lines.append("% triangles: better or worse than the reference (paired bootstrap over images, Holm-corrected);")
    lines.append("% dagger: no better than a control; protocol " + escaped(group.protocol))
    return "\n".join(lines) + "\n"


def latex_cell(cell: Cell | None) -> str:
    """Mean with its mark, and its interval."""
    if cell is None:
        return "--"
    text = rf"\textbf{{{number(cell.mean)}}}" if cell.best else number(cell.mean)
    text += MARKS.get(cell.verdict, "") + (r"$^\dagger$" if cell.no_better_than else "")
    span = interval(cell.low, cell.high)
    return text + (rf" {{\scriptsize {escaped(span)}}}" if span else "")


def wide(grid: Grid) -> pd.DataFrame:
    """One row a method and layer, the numbers of the printed table beside each other."""
    rows = []
    for members, cells in zip(grid.sets, grid.cells, strict=True):
        for entry in members:
            row: dict[str, object] = {"method": entry.method, "layer": "" if entry.layer == NO_LAYER else entry.layer}
            row |= {"n": entry.rows, "degenerate": entry.degenerate_share}
            for column, cell in zip(grid.columns, cells, strict=True):
                mark = " ".join(word for word in (cell.best and "best", cell.verdict) if word) if cell else ""
                numbers = (cell.mean, cell.low, cell.high) if cell else (math.nan, math.nan, math.nan)
                keys = [f"{column.metric}{suffix}" for suffix in ("", " low", " high", " mark")]
                row |= dict(zip(keys, [*numbers, mark], strict=True))
            rows.append(row)
    return pd.DataFrame(rows)
