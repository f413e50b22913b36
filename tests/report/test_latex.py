"""What goes into a paper: marks of the table, LaTeX, CSV, figure 1."""

from __future__ import annotations

import io
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from made_results import KEY, group_of
from rich.console import Console

from bench.analysis.kept_maps import read_shown
from bench.analysis.tables import summarize_group
from bench.analysis.verdicts import equal_entries, question_columns
from bench.figures.gallery import WIDEST, figure1
from bench.report import report
from bench.report.grid import make_grid
from bench.report.latex import escaped, latex, wide, write_tables
from bench.report.text import markdown_table
from bench.types import UserError


def graded(group, resamples=20, **options):
    """Grid of a group, its summary, and the questions' columns."""
    summary = summarize_group(group, resamples=resamples, **options)[0]
    return make_grid(group, summary, equal_entries(group)), summary, question_columns(group, set(summary["metric"]))


def test_marks_are_the_verdicts_of_the_summary(results):
    group = group_of(results(cases=40))
    grid, summary, _ = graded(group, 200)
    known = {(r.layer, r.method, r.metric): r for r in summary.itertuples()}
    for entry, line in zip(grid.entries, grid.cells, strict=True):
        for column, cell in zip(grid.columns, line, strict=True):
            row = known[entry.layer, entry.method, column.metric]
            assert (cell.verdict, cell.no_better_than, cell.n) == (row.verdict, row.no_better_than, row.n)
    assert {cell.verdict for line in grid.cells for cell in line} >= {"better", "worse", "undecided"}
    assert not any(cell.best for e, line in zip(grid.entries, grid.cells, strict=True) if e.control for cell in line)


def test_nothing_is_best_on_few_images(finished):
    group = group_of(finished)
    assert group.image_count < 20
    grid, _, _ = graded(group)
    assert not any(cell.best for line in grid.cells for cell in line)


def test_published_values_stand_beside_measured_ones(finished):
    group = group_of(finished)
    _, summary, _ = graded(group)
    at = (summary["method"] == "grad_cam") & (summary["metric"] == "pointing_game.hit")
    given = summary.assign(reported=np.where(at, 0.906, np.nan), reported_source=np.where(at, "Fong 2019", ""))
    text = "\n".join(markdown_table(group, make_grid(group, given, equal_entries(group))))
    assert text.count("published 0.906") == 2
    assert "published" not in "\n".join(markdown_table(group, make_grid(group, summary, equal_entries(group))))


def test_latex_has_one_shape_and_no_live_characters(results):
    methods = (("grad_cam", "bn2.act"), ("50%_$x$ & {y}\\input{z}#~^<>|", "x[0]/y"), ("random", "-"))
    group = group_of(results(methods=methods, dataset="d_1%", cases=40))
    grid, _, columns = graded(group)
    text = latex(group, grid, columns)
    body = [line for line in text.splitlines() if not line.startswith("%")]
    cells = re.search(r"\\begin\{tabular\}\{l(r+)\}", text)[1]
    rows = [line for line in body if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(cells)} and len(rows) == 1 + 3
    assert all(command in text for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{"))
    assert r"50\%\_\$x\$ \& \{y\}\textbackslash{}input\{z\}\#\textasciitilde{}\textasciicircum{}" in text
    live = re.sub(r"\\[a-zA-Z]+|\\.", "", "".join(body)).count("$")
    marks = "".join(body)
    assert live == 2 * sum(marks.count(mark) for mark in ("arrow$", r"triangle", "dagger", "^="))
    assert len(cells) == len(columns) == 3 < len(grid.columns)
    assert escaped("a\nb") == "a b"


def test_wide_csv_has_the_grids_numbers(finished):
    group = group_of(finished)
    grid, summary, _ = graded(group)
    table = wide(grid)
    assert len(table) == len(group.entries)
    row = table[(table["method"] == "hirescam") & (table["layer"] == "bn2.act")].iloc[0]
    mine = summary[(summary["method"] == "hirescam") & (summary["layer"] == "bn2.act")].set_index("metric")
    assert (
        row["deletion.auc"] == mine["mean"]["deletion.auc"]
        and row["deletion.auc high"] == mine["ci_high"]["deletion.auc"]
    )
    assert set(table["deletion.auc mark"]) <= {"", "few images"}


def test_figure1_shows_the_named_pictures_in_their_order(finished):
    group = group_of(finished)
    ids = list(group.cases["case_id"][:3])
    shown = read_shown(group, 9, [ids[2], group.cases["image_id"][0]])
    assert list(shown.images) == [ids[2], ids[0]]
    texts = [text.get_text() for text in figure1(group, shown).axes[0].texts]
    assert texts.count("grad_cam") == 2 and {"bn2.act", "random"} & set(texts) == {
        "bn2.act"
    }  # a block a layer, no control
    assert len(group.layers) == 2 < WIDEST
    assert figure1(group, read_shown(group, 9, ["nobody"])) is None


def test_figure1_of_controls_alone_shows_them(results):
    group = group_of(results(cases=4, methods=(("random", "-"), ("center", "-")), gallery=1))
    texts = [text.get_text() for text in figure1(group, read_shown(group, 1)).axes[0].texts]
    assert {"random", "center"} <= set(texts)


def test_report_draws_figure1_or_says_what_is_missing(results, monkeypatch):
    monkeypatch.setattr("bench.report.draw", lambda *given, **more: None)
    root = results(cases=6, methods=(("grad_cam", "bn2.act"), ("random", "-")), gallery=2)
    stream = io.StringIO()
    report(root, console=Console(file=stream, width=100), images=["0001/cup"])
    assert "figure1: " in stream.getvalue()
    files = sorted(path.name for path in root.glob("figures/*/figure1.*"))
    assert files == ["figure1.pdf", "figure1.png"]
    with pytest.raises(UserError, match=r"0005/moped was kept.*gallery.images=\[0005/moped\]"):
        report(root, console=Console(file=io.StringIO()), images=["0005/moped"])


def test_tables_are_written_for_every_group(finished, tmp_path):
    group = group_of(finished)
    grid, _, columns = graded(group)
    write_tables(group, grid, columns, tmp_path)
    folder = tmp_path / "tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"collage-efficientnet_lite0-{KEY}.{suffix}" for suffix in ("csv", "md", "tex")
    ]
    assert len(pd.read_csv(folder / f"collage-efficientnet_lite0-{KEY}.csv")) == 10


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles_and_fits_two_columns(results, tmp_path):
    """A table of the questions' columns in a two-column page: no overfull box."""
    group = group_of(results(cases=40))
    grid, _, columns = graded(group)
    document = (
        r"\documentclass[twocolumn]{article}\usepackage{booktabs}\usepackage[T1]{fontenc}\begin{document}"
        r"\begin{table*}\centering\small " + latex(group, grid, columns) + r"\end{table*}\end{document}"
    )
    (tmp_path / "paper.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
