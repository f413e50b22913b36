"""The main table and the answers in the terminal and as Markdown."""

from __future__ import annotations

import math
import re
from urllib.parse import quote

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.analysis.groups import Entry, Group
from bench.figures.style import titles, wrapped
from bench.report.answers import Answer
from bench.report.grid import SIGNS, Cell, Grid, interval, number, sections
from bench.report.notes import agreement_notes, banners, notes, share
from bench.types import NO_LAYER, printable

METHOD_WIDTH = 18  # at least
# rich's SIMPLE_HEAD with a visible rule between sections
BOX = box.Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")


def print_group(group: Group, grid: Grid, answers: list[Answer], console: Console, reference: str) -> None:
    """Print the table of one group, its notes, and at the end what the numbers allow to be said.

    Columns that do not fit next to each other follow in a second table. Outside a terminal, where there is
    no bold type, the best value of a column is marked with ``*``.
    """
    console.print(plain(Text(f"{group.dataset} / {group.model}", style="bold"), console), highlight=False)
    for at, (part, spare) in enumerate(blocks(grid, console.width)):
        width = min(METHOD_WIDTH + spare, max(METHOD_WIDTH, *(len(row_name(m)) + 3 for m in grid.sets)))
        if at:
            console.print()
        console.print(terminal_table(grid, part, width, console))
    mark = "bold" if bold(console) else "*"
    key = f"↑ higher is better, ↓ lower is better, {mark} best method; ▲ better, ▼ worse, = equal to {reference}"
    for line in [key, *notes(group, reference)]:
        text = Text(line, style="yellow" if line.startswith("warning") else "dim")
        console.print(plain(text, console), highlight=False)
    console.print()
    for line in banners(group):
        console.print(plain(Text(f"caution: {line}", style="yellow"), console), highlight=False)
    for answer in answers:
        text = Text.assemble((f"{answer.question} ({answer.measure}): ", "bold"), answer.text)
        console.print(plain(text, console), highlight=False)
    console.print()


def row_name(members: list[Entry]) -> str:
    """Names of equal methods as the command line takes them."""
    names = [entry.method for entry in members]
    return " = ".join(names[:3]) + (f" = {len(names) - 3} more" if len(names) > 3 else "")


def plain(text: Text, console: Console) -> Text:
    """Text without control characters, and with ASCII for arrows and dashes where the console's encoding has none."""
    copy = text.copy()
    copy.plain = "\n".join(map(printable, text.plain.split("\n")))
    if console.encoding.lower().startswith("utf"):
        return copy
    ascii_text = copy.plain.replace("↑", "^").replace("↓", "v").replace("–", "-").replace("▲", "+").replace("▼", "-")
    copy.plain = ascii_text.encode("ascii", "replace").decode()
    return copy


def bold(console: Console) -> bool:
    """Whether bold can be seen."""
    return console.is_terminal and not console.legacy_windows


def blocks(grid: Grid, width: int) -> list[tuple[list[int], int]]:
    """Cut the columns' indices so that each part fits into the width; with the room that is left."""
    parts: list[tuple[list[int], int]] = [([], width - METHOD_WIDTH - 1)]
    for i, column in enumerate(grid.columns):
        texts = [interval(cell.low, cell.high) for cell in (line[i] for line in grid.cells) if cell]
        needed = max(len(word) for word in (*column.heading, *texts, "0.000*▲")) + 1
        columns, room = parts[-1]
        if columns and needed > room:
            columns, room = [], width - METHOD_WIDTH - 1
            parts.append((columns, room))
        parts[-1] = ([*columns, i], room - needed)
    return parts


def terminal_table(grid: Grid, part: list[int], width: int, console: Console) -> Table:
    """Rich table of some of the grid's columns: layers as sections, controls below a rule."""
    ascii_only = not console.encoding.lower().startswith("utf")
    # rich replaces characters only on old Windows terminals, so this program does it itself.
    table = Table(box=box.ASCII2 if ascii_only else BOX, padding=0, show_edge=False)
    table.add_column("method", width=width, overflow="fold")
    for i in part:
        column = grid.columns[i]
        heading = Text("\n".join([*column.heading, column.arrow]))
        table.add_column(plain(heading, console), justify="right", no_wrap=True, vertical="top")
    for title, methods, controls in sections(grid.entries):
        table.add_section()
        table.add_row(plain(Text(title, style="italic cyan"), console))
        for at, style in ((methods, ""), (controls, "dim")):
            for i in at:
                table.add_row(*[plain(text, console) for text in row_texts(grid, i, part, width, console)], style=style)
            if at:
                table.add_section()
    return table


def row_texts(grid: Grid, i: int, part: list[int], width: int, console: Console) -> list[Text]:
    """Cells of one entry: its name over number and degenerate share, then means over intervals."""
    entry = grid.entries[i]
    about = Text(f"  n {entry.rows}", style="dim")
    if entry.degenerate:
        about.append(f", {share(entry.degenerate_share).replace(' ', '')} deg.", style="yellow")
    name = " " + wrapped(row_name(grid.sets[i]), width - 3).replace("\n", "\n   ")
    texts = [Text.assemble(name, "\n", about)]
    for column in part:
        cell = grid.cells[i][column]
        if cell is None:
            texts.append(Text("-\n"))
            continue
        star = ("*" if cell.best and not bold(console) else "") + SIGNS[cell.verdict]
        mean = Text(number(cell.mean) + star, style="bold" if cell.best else "")
        texts.append(Text.assemble(mean, "\n", Text(interval(cell.low, cell.high), style="dim")))
    return texts


def markdown(
    group: Group,
    grid: Grid,
    answers: list[Answer],
    agreement: pd.DataFrame,
    figures: dict[str, str],
    reference: str,
) -> str:
    """Answers, table, notes and links to the `figures` of one group as GitHub Markdown: relative paths by title."""
    lines = [f"## {safe(group.dataset)} / {safe(group.model)}", ""]
    lines += [f"> **Caution:** {safe(line)}\n" for line in banners(group)]
    lines += [f"- **{safe(a.question)}** ({safe(a.measure)}): {safe(a.text)}" for a in answers]
    lines += ["", *markdown_table(group, grid), ""]
    lines += ["Mean and 95 % interval; ↑ higher is better, ↓ lower is better; **bold**: best method of the column;"]
    lines += [f"▲ better, ▼ worse, = equal to {safe(reference)} (paired bootstrap over images, Holm-corrected);"]
    lines += ["†: no better than a control; *italic*: controls, which a method has to beat.", ""]
    lines += [f"- {safe(line)}" for line in [*notes(group, reference), *agreement_notes(agreement)]]
    lines += ["", *(f"![{safe(title)}]({quote(path)})" for title, path in figures.items()), ""]
    return "\n".join(lines)


def markdown_table(group: Group, grid: Grid) -> list[str]:
    """Lines of the main table in Markdown: methods first, controls below."""
    heads = ["method", "layer", *(column.title for column in grid.columns), "n", "degenerate"]
    lines = [row([safe(head) for head in heads]), row([":--", ":--", *["--:"] * (len(heads) - 2)])]
    order = [(i, "") for _, methods, _ in sections(grid.entries) for i in methods]
    order += [(i, "*") for _, _, controls in sections(grid.entries) for i in controls]
    for i, mark in order:
        entry = grid.entries[i]
        layer = "" if entry.layer == NO_LAYER else safe(entry.layer)
        degenerate = share(entry.degenerate_share) if entry.degenerate else ""
        cells = [markdown_cell(cell, entry.rows) for cell in grid.cells[i]]
        lines.append(row([f"{mark}{safe(titles(grid.sets[i]))}{mark}", layer, *cells, str(entry.rows), degenerate]))
    return lines


def markdown_cell(cell: Cell | None, cases: int) -> str:
    """Mean, mark, interval, number of cases where it is not the row's, and what was published."""
    if cell is None:
        return ""
    text = f"**{number(cell.mean)}**" if cell.best else number(cell.mean)
    text += f" {SIGNS[cell.verdict]}" if SIGNS[cell.verdict] else ""
    text += " †" if cell.no_better_than else ""
    span = interval(cell.low, cell.high, 3)
    inside = [part for part in (span, f"n {cell.n}" if cell.n != cases else "") if part]
    text += f" ({', '.join(inside)})" if inside else ""
    return text + (f" published {number(cell.reported)}" if math.isfinite(cell.reported) else "")


def row(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def safe(text: str) -> str:
    """Text on one line, with everything escaped that Markdown or HTML would interpret."""
    text = re.sub(r"([\\`*\[\]|])|(?<!\w)_|_(?!\w)", lambda match: f"\\{match[0]}", text)
    return printable(" ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split()))


def printed_path(console: Console, what: str, *paths: object) -> None:
    """Say where something was written; paths are never wrapped, so that they can be copied."""
    console.print(plain(Text(f"{what}: {', '.join(map(str, paths))}"), console), highlight=False, soft_wrap=True)
