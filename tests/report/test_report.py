"""The report: files, printed table, notes, Markdown, bad input."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_results import KEY, METRICS, entry_of, group_of, records, write_parts
from rich.console import Console

from bench.analysis.tables import summarize_group
from bench.analysis.verdicts import equal_entries, verdicts_of
from bench.report import COLUMNS, report
from bench.report.__main__ import main
from bench.report.answers import answers_of
from bench.report.grid import interval, make_grid, number
from bench.report.notes import banners, notes
from bench.report.text import print_group, safe
from bench.store.folders import find_folders
from bench.types import UserError

REPOSITORY = Path(__file__).parents[2]


def printed(root, width=100, **options):
    stream = io.StringIO()
    report(root, console=Console(file=stream, width=width), **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def reported(finished):
    """A results folder with its report, and what was printed; for tests that only read."""
    return finished, printed(finished)


def table_on(console, root):
    """Print the table of the only group to this console, without files and figures."""
    group = group_of(root)
    (summary, comparisons), sets = summarize_group(group, resamples=20), equal_entries(group)
    answers = answers_of(group, verdicts_of(group, comparisons, "grad_cam"), sets, "grad_cam")
    print_group(group, make_grid(group, summary, sets), answers, console, "grad_cam")


def contents(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in [root / "summary.md", *(root / f"{name}.csv" for name in COLUMNS)]
    }


def test_files_and_repetition(reported):
    root, _ = reported
    names = {path.name for path in (root / f"figures/collage-efficientnet_lite0-{KEY}").iterdir()}
    drawn = ("forest", "curves", "depth", "coverage_by_instances")
    expected = {f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg", "pdf", "txt")}
    expected |= {f"{name}-column.pdf" for name in drawn}
    layers = ("blocks.6.0.bn2.act", "bn2.act")
    galleries = {f"gallery-{layer}.{suffix}" for layer in layers for suffix in ("png", "pdf")}
    assert names == expected | galleries | {"_drawn"}
    assert {path.suffix for path in (root / "tables").iterdir()} == {".tex", ".md", ".csv"}
    first = contents(root)
    header = first[Path("summary.csv")].decode().splitlines()[0]
    assert header == (
        "dataset,model,layer,method,metric,mean,ci_low,ci_high,n,n_images,degenerate,reference,"
        "difference,difference_low,difference_high,p,verdict,no_better_than,reported,reported_source,weights,protocol"
    )
    caption = (root / f"figures/collage-efficientnet_lite0-{KEY}/forest.txt").read_text()
    for word in ("collage", "efficientnet_lite0", "24 cases on 16 images", KEY, "95 %", "deletion: 14 steps"):
        assert word in caption
    printed(root)
    assert contents(root) == first
    assert not [path for path in root.rglob(".*")]


def test_figures_are_drawn_again_only_when_asked_or_out_of_date(finished, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    printed(root)
    figure = next(root.glob("figures/*/forest.svg"))
    os.utime(figure, (1, 1))  # shows whether it is written again
    printed(root, redraw=False)
    assert figure.stat().st_mtime == 1
    printed(root)
    assert figure.stat().st_mtime > 1
    os.utime(figure, (1, 1))
    for path in root.rglob("part-*.parquet"):
        os.utime(path)  # a copy of the same results has other times
    printed(root, redraw=False)
    assert figure.stat().st_mtime == 1
    min(root.rglob("part-*.parquet")).unlink()
    printed(root, redraw=False)
    assert figure.stat().st_mtime > 1
    os.utime(figure, (1, 1))
    printed(root, redraw=False, reference="random")
    assert figure.stat().st_mtime > 1


def test_a_run_draws_no_figures_for_print_and_a_report_does(finished, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    shutil.rmtree(root / "figures", ignore_errors=True)
    printed(root, redraw=False)
    folder = next(root.glob("figures/*"))
    assert {path.suffix for path in folder.glob("forest*")} == {".svg", ".txt"}
    printed(root)
    assert {path.name for path in folder.glob("forest*")} == {
        "forest.svg", "forest.txt", "forest.pdf", "forest.png", "forest-column.pdf",
    }  # fmt: skip
    (folder / "means.svg").write_text("of an older version")
    printed(root)
    assert not (folder / "means.svg").exists()


def test_table_is_readable_in_100_columns(reported):
    _, text = reported
    # Paths are not wrapped, so that they can be copied.
    assert max(len(line) for line in text.splitlines() if not line.startswith(("figures:", "tables"))) <= 100
    for word in (
        "collage / efficientnet_lite0",
        "grad_cam",
        "activation_sum",
        "bn2.act",
        "no layer",
        "random",
    ):
        assert word in text
    assert "\x1b" not in text
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    heading = " ".join(lines[:rule])
    assert heading.count("↓") == 1 and heading.count("↑") == 5
    assert "no verdict: 20 images are needed" in " ".join(text.split())
    assert "n 24, 100% deg." in text


def test_means_with_intervals_below_and_best_marked(results):
    root = results(cases=36)
    text, summary = printed(root, redraw=False), summarize_group(group_of(root))[0]
    own = summary[(summary["degenerate"] <= 0.5) & ~summary["method"].isin(["activation_sum", "random", "center"])]
    coverage = own[own["metric"] == "box_coverage.coverage"]
    best = coverage.loc[coverage["mean"].idxmax()]
    assert f"{best['mean']:.3f}*" in text
    deletion = own[own["metric"] == "deletion.auc"]
    assert f"{deletion['mean'].min():.3f}*" in text and f"{deletion['mean'].max():.3f}*" not in text
    assert f"{best['ci_low']:.2f}–{best['ci_high']:.2f}".replace("0.", ".") in text
    assert "▲" in text and "▼" in text


def test_narrow_console_splits_the_columns(finished):
    stream = io.StringIO()
    table_on(Console(file=stream, width=60), finished)
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 60
    assert text.count("method ") >= 2 and "purity" in text and "deletion" in text


def test_terminal_shows_best_in_bold(results):
    stream = io.StringIO()
    table_on(Console(file=stream, width=100, force_terminal=True, color_system="standard"), results(cases=36))
    text = stream.getvalue()
    assert "\x1b[1m" in text and "*" not in text


def test_stream_without_unicode_gets_ascii(finished):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    table_on(Console(file=stream, width=100), finished)
    stream.flush()
    assert b"higher is better" in raw.getvalue()


def test_notes(finished):
    lines = notes(group_of(finished), "grad_cam")
    assert f"protocol {KEY}: 24 cases on 16 images, 21 with several instances" in lines
    assert "deletion: 14 steps (default 28), baseline=zero" in lines
    assert "insertion: 28 steps" in lines
    assert "box_coverage's min_coverage, coverage: defined for 23 of 24 cases" in lines
    (line,) = [line for line in lines if "target probability" in line]
    assert all(f"{name} 0." in line for name in ("cat", "cup", "moped"))
    (line,) = [line for line in lines if line.startswith("warning")]
    assert "grad_entropy@bn2.act is degenerate in 100 % of the cases (24 zero)" in line
    assert "spatially constant" in line and "log2(Z)" in line and "plain sum of activations" in line


def test_degenerate_maps_of_other_methods_get_their_own_reason(one_run):
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.auc": 0.5, "degenerate": "zero" if i else ""}
            for i in range(4)]  # fmt: skip
    one_run("grad_cam", "bn2.act", rows)
    root = one_run("uniform", "-", [row | {"degenerate": "constant"} for row in rows])
    warnings = [line for line in notes(group_of(root), "grad_cam") if line.startswith("warning")]
    assert len(warnings) == 1  # uniform is constant by design
    assert "grad_cam@bn2.act is degenerate in 75 %" in warnings[0] and "nothing of the map is above zero" in warnings[0]
    assert "spatially" not in warnings[0]


@pytest.mark.parametrize(("weights", "noted"), [("default", True), ("random", True), ("runs/tuned.pth", False)])
def test_a_metric_for_fine_tuned_networks_says_where_one_is_not(results, weights, noted):
    group = group_of(results())
    group.folders[0].protocol["weights"] = weights
    group.metrics["deletion"]["about"] = {"fine_tuned": "holes"}
    lines = [line for line in notes(group, "grad_cam") if "not fine-tuned on holes" in line]
    assert len(lines) == noted


def test_unfinished_runs_are_named(results):
    root = results()
    (folder,) = root.glob("*/*/")
    rows = records(root, "hirescam", "bn2.act")
    shorter = [{k: v for k, v in row.items() if not k.startswith("deletion")} for row in rows[:8]]
    others = {name: node for name, node in METRICS.items() if name != "deletion"}
    write_parts(folder, [(entry_of("eigen_cam", "bn2.act"), rows[:16])], METRICS)
    write_parts(folder, [(entry_of("score_cam", "bn2.act"), shorter)], others)
    lines = notes(group_of(root), "grad_cam")
    assert "eigen_cam@bn2.act: 16 of 24 cases are there" in lines
    assert "score_cam@bn2.act: 8 of 24 cases are there" in lines
    assert "deletion was measured on 0 of 24 cases for score_cam@bn2.act" in lines
    assert sum(" of 24 cases " in line for line in lines) == 3  # nothing of the complete ones


def test_markdown(reported):
    root, _ = reported
    text = (root / "summary.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 10 and len({line.count("|") for line in table}) == 1
    assert "deletion AUC ↓" in table[0] and "min coverage ↑" in table[0]
    assert any(line.startswith("| *Random* |") for line in table)
    assert any(line.startswith("| HiResCAM |") for line in table)
    for line in text.splitlines():
        if line.startswith("!["):
            assert (root / line.partition("](")[2].rstrip(")")).is_file()
    assert text.count("![") == 6 and "14 steps (default 28)" in text
    assert "do the metrics agree (Kendall's tau): most " in text
    assert text.index("**Caution:**") < text.index("- **One object**") < text.index("| method")


def test_reasons_to_distrust_everything_come_first(results):
    """Random weights, a network that sees little, other steps, pictures left out, few images."""
    lines = banners(group_of(results()))
    assert any("weights are random" in line for line in lines)
    assert "deletion has 14 steps instead of 28: the numbers do not compare with those of the default" in lines
    assert "too few images for a verdict: 16, where 20 are needed" in lines
    skipped = [{"case_id": f"bad {i}", "reason": "no picture"} for i in range(3)]
    more = banners(group_of(results("skipped", note={"skipped": skipped}, cases=36)))
    assert any(line == "left out: 3 of 39 pictures or records, 8 %" for line in more)
    assert not any("too few" in line for line in more)


def test_a_network_that_hardly_sees_the_class_is_named(one_run):
    rows = [{"case_id": str(i), "image_id": str(i), "deletion.auc": 0.5, "probability": 0.1} for i in range(4)]
    lines = banners(group_of(one_run("grad_cam", "bn2.act", rows)))
    assert any(line.startswith("the mean target probability is 0.10") for line in lines)


def test_only_limits_figures_but_not_the_files(results):
    few = (("grad_cam", "bn2.act"), ("random", "-"))
    results("both", dataset="one", seed=1, cases=8, methods=few)
    root = results("both", dataset="two", seed=2, cases=8, methods=few)
    text = printed(root, only={folder.path for folder in find_folders(root) if folder.protocol["dataset"] == "two"})
    assert "two / efficientnet_lite0" in text and "one / efficientnet_lite0" not in text
    assert [path.name for path in (root / "figures").iterdir()] == [f"two-efficientnet_lite0-{KEY}"]
    rows = (root / "summary.csv").read_text().splitlines()
    assert any(row.startswith("one,") for row in rows) and any(row.startswith("two,") for row in rows)
    assert "## one /" in (root / "summary.md").read_text(encoding="utf-8")


def test_names_from_data_have_no_effect(results):
    methods = (("grad_cam", "bn2.act"), ("[red]x|y<b>", "bn2.act"))
    root = results(methods=methods, dataset="[bold]d|<script>", model="m`x`")
    text = printed(root)
    assert "[red]x|y<b>" in text and "[bold]d|<script>" in text
    page = (root / "summary.md").read_text(encoding="utf-8")
    assert "<script>" not in page and "<b>" not in page
    assert len({line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")}) == 1
    assert len(list((root / "figures").iterdir())) == 1


def test_best_follows_the_direction_and_equal_digits_share_it(one_run):
    def rows(value):
        return [{"case_id": str(i), "image_id": str(i), "deletion.auc": value + 1e-4 * i} for i in range(24)]

    one_run("grad_cam", "bn2.act", rows(0.30001))
    one_run("hirescam", "bn2.act", rows(0.30009))
    root = one_run("layer_cam", "bn2.act", rows(0.5))
    group = group_of(root)
    grid = make_grid(group, summarize_group(group, resamples=20)[0], equal_entries(group))
    assert [line[0].best for line in grid.cells] == [True, True, False]


def test_numbers_as_text():
    assert [number(x) for x in (0.5123, 12.34, 0.0, 1e-5, 12345.0, float("nan"))] == [
        "0.512", "12.3", "0.000", "1.00e-05", "1.23e+04", ""]  # fmt: skip
    assert interval(0.4801, 0.5499) == ".48–.55"
    assert interval(-0.123, 0.001) == "-.12–.00"
    assert interval(0.98, 1.0) == ".98–1.0"
    assert interval(0.4801, 0.5499, 3) == ".480–.550"
    assert interval(10.5, 20.25) == "10.5–20.2"
    assert interval(float("nan"), 1.0) == ""


def test_markdown_text_is_escaped():
    assert safe("grad_cam@bn2.act") == "grad_cam@bn2.act"
    assert safe("_a_ *b* [c](d) <e> `f` |") == "\\_a\\_ \\*b\\* \\[c\\](d) &lt;e&gt; \\`f\\` \\|"
    assert safe("two\nlines & more") == "two lines &amp; more"


def test_nothing_to_report_is_one_line(tmp_path, capsys):
    for folder in (tmp_path / "missing", tmp_path):
        assert main([str(folder)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("error: no results")
    with pytest.raises(UserError, match="no results"):
        report(tmp_path)


def test_results_without_a_readable_case(results):
    root = results()
    for path in root.rglob("*.parquet"):
        path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="no readable cases"):
        report(root)


def test_command_line(results):
    root = results(cases=6, methods=(("grad_cam", "bn2.act"), ("random", "-")))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "bench.report", str(root), "--reference", "random"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "grad_cam" in done.stdout and "Traceback" not in done.stderr
    assert ",random," in (root / "summary.csv").read_text().splitlines()[1]


def test_several_roots_make_one_table_below_the_first(results, capsys):
    first = results("first", methods=(("grad_cam", "bn2.act"), ("random", "-")))
    second = results("second", methods=(("hirescam", "bn2.act"), ("layer_cam", "bn2.act")))
    (page,) = {report([first, second], console=Console(file=io.StringIO()), redraw=False)["protocol"].nunique()}
    assert page == 1
    lines = (first / "summary.csv").read_text().splitlines()
    (line,) = [line for line in lines if ",hirescam,deletion.auc," in line]
    assert ",grad_cam," in line  # its reference lies in the other folder
    assert not (second / "summary.csv").exists()
    assert main([str(first), str(second)]) == 0 and "layer_cam" in capsys.readouterr().out
