"""What goes into a paper: marks of the table, LaTeX, CSV, figure 1."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from made_results import KEY, group_of
from rich.console import Console
from scipy import stats

from bench.analysis.kept_maps import read_shown
from bench.analysis.significance import holm
from bench.analysis.statistics import cluster_means
from bench.analysis.tables import summarize_group
from bench.figures.gallery import WIDEST, figure1
from bench.report import report
from bench.report.grid import make_grid
from bench.report.latex import escaped, latex, wide, write_tables
from bench.types import UserError


def test_ties_are_what_a_paired_test_does_not_tell_from_the_best(finished):
    group = group_of(finished)
    grid = make_grid(group, summarize_group(group, resamples=20))
    tied = 0
    for i, column in enumerate(grid.columns):
        values = np.stack([group.values(entry, column.metric) for entry in group.entries], axis=1)
        mean = np.nanmean(values, axis=0) * (1 if column.better else -1)
        ranked = [k for k, entry in enumerate(group.entries) if entry.degenerate_share <= 0.5]
        assert len(ranked) == len(mean) - 1
        best = max(ranked, key=lambda k: mean[k])
        per_image = cluster_means(values - values[:, [best]], group.images)
        p = [np.nan] * len(mean)
        for k in set(ranked) - {best}:
            differences = per_image[:, k][np.isfinite(per_image[:, k])]
            p[k] = stats.wilcoxon(differences[np.abs(differences) > 1e-9], method="exact").pvalue
        expected = [k == best or p_k >= 0.05 for k, p_k in enumerate(holm(np.array(p)))]
        if column.metric != "pointing_game.hit":  # its ties have no exact p in scipy
            assert [cell.best or cell.tied for cell in (line[i] for line in grid.cells)] == expected
            tied += sum(expected)
    assert tied > len(grid.columns)


def test_what_is_clearly_worse_is_not_tied(one_run):
    def rows(value):
        return [{"case_id": str(i), "image_id": str(i), "deletion.auc": value + 0.001 * i} for i in range(20)]

    one_run("grad_cam", "bn2.act", rows(0.2))
    one_run("hirescam", "bn2.act", [r | {"deletion.auc": r["deletion.auc"] + (-1) ** i * 0.05 + 0.004}
                                    for i, r in enumerate(rows(0.2))])  # fmt: skip
    group = group_of(one_run("edges", "-", rows(0.21)))
    cells = [line[0] for line in make_grid(group, summarize_group(group, resamples=20)).cells]
    assert [(cell.best, cell.tied) for cell in cells] == [(True, False), (False, True), (False, False)]


def test_published_values_stand_beside_measured_ones(finished):
    group = group_of(finished)
    summary = summarize_group(group, resamples=20)
    at = (summary["method"] == "grad_cam") & (summary["metric"] == "pointing_game.hit")
    given = summary.assign(reported=np.where(at, 0.906, np.nan), reported_source=np.where(at, "Fong 2019", ""))
    text = latex(group, make_grid(group, given))
    assert text.count("(published 0.906)") == 2
    assert "published" not in latex(group, make_grid(group, summary))


def test_latex_has_one_shape_and_no_live_characters(results):
    methods = (("grad_cam", "bn2.act"), ("50%_$x$ & {y}\\input{z}#~^<>|", "x[0]/y"), ("random", "-"))
    group = group_of(results(methods=methods, dataset="d_1%"))
    text = latex(group, make_grid(group, summarize_group(group, resamples=20)))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    cells = re.search(r"\\begin\{tabular\}\{l(r+)\}", text)[1]
    rows = [line for line in body if line.endswith(r"\\") and "multicolumn" not in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(cells)} and len(rows) == 1 + 3
    assert all(command in text for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\textbf{"))
    assert r"50\%\_\$x\$ \& \{y\}\textbackslash{}input\{z\}\#\textasciitilde{}\textasciicircum{}" in text
    assert re.sub(r"\\[a-zA-Z]+|\\.", "", "".join(body)).count("$") == 2 * sum("arrow" in line for line in body) * len(
        cells
    )
    assert escaped("a\nb") == "a b"


def test_wide_csv_has_the_grids_numbers(finished):
    group = group_of(finished)
    summary = summarize_group(group, resamples=20)
    table = wide(make_grid(group, summary))
    assert len(table) == len(group.entries)
    row = table[(table["method"] == "hirescam") & (table["layer"] == "bn2.act")].iloc[0]
    mine = summary[(summary["method"] == "hirescam") & (summary["layer"] == "bn2.act")].set_index("metric")
    assert (
        row["deletion.auc"] == mine["mean"]["deletion.auc"]
        and row["deletion.auc high"] == mine["ci_high"]["deletion.auc"]
    )
    assert list(table["deletion.auc mark"]).count("best") >= 1


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
    grid = make_grid(group, summarize_group(group, resamples=20))
    write_tables(group, grid, tmp_path)
    folder = tmp_path / "tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"collage-efficientnet_lite0-{KEY}.{suffix}" for suffix in ("csv", "md", "tex")
    ]
    assert len(pd.read_csv(folder / f"collage-efficientnet_lite0-{KEY}.csv")) == 10
