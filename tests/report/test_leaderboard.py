"""leaderboard.html: the report's numbers as methods by questions, filtered, and the pictures of one row."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from browsing import browser, needs_browser, visit
from made_results import group_of, make_results

from bench.analysis.groups import Entry
from bench.analysis.tables import summarize_group
from bench.report.__main__ import main
from bench.report.leaderboard import asked_columns, board_of, cost_of, crash_counts, write_leaderboard
from bench.types import UserError

__all__ = ["browser", "visit"]


@pytest.fixture(scope="module")
def results_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("board") / "results", cases=36)


@pytest.fixture(scope="module")
def board_path(results_root: Path) -> Path:
    return write_leaderboard([results_root])


def test_cells_are_the_reports_numbers(results_root: Path) -> None:
    """The mean of the pictures with one object for that question, of all pictures for the others."""
    group = group_of(results_root)
    board = board_of(group, {}, "grad_cam", 10**6)
    comparisons = summarize_group(group)[1]
    columns = asked_columns(group, comparisons)
    assert [question for question, _, _ in columns] == ["one object", "several objects", "faithfulness"]
    assert [head["question"] for head in board["heads"]] == ["One object", "Several objects", "Faithfulness"]
    one = (group.cases["n_instances"] == 1).to_numpy()
    entries = {(entry.method, entry.layer): entry for entry in group.entries}
    for row in board["rows"]:
        for (question, column, _), cell in zip(columns, row["cells"], strict=True):
            values = group.values(entries[row["method"], row["layer"]], column.metric)
            values = values[one] if question == "one object" else values
            assert cell["value"] == pytest.approx(pd.Series(values).mean(), abs=1e-9)
    lines = comparisons[(comparisons["method"] == "hirescam") & (comparisons["against"] == "grad_cam")]
    verdicts = {(r.layer, r.metric, r.cases): r.verdict for r in lines.itertuples()}
    for row in [row for row in board["rows"] if row["method"] == "hirescam"]:
        for (_, column, cases), cell in zip(columns, row["cells"], strict=True):
            assert cell["verdict"] == verdicts[row["layer"], column.metric, cases]


def test_the_crash_test_is_a_column_by_method(results_root: Path) -> None:
    crash = {"grad_cam": {"passed": 8, "total": 10, "failed": "and, or"}}
    board = board_of(group_of(results_root), crash, "grad_cam", 10**6)
    assert board["crash"] and not board_of(group_of(results_root), {}, "grad_cam", 10**6)["crash"]
    shown = {row["method"]: row["crash"] for row in board["rows"]}
    assert shown["grad_cam"]["passed"] == 8 and shown["grad_entropy"] is None


def test_controls_are_lines_and_never_best(results_root: Path) -> None:
    board = board_of(group_of(results_root), {}, "grad_cam", 10**6)
    controls = [row for row in board["rows"] if row["control"]]
    assert controls and not any(cell["best"] for row in controls for cell in row["cells"] if cell)
    row = next(row for row in board["rows"] if row["method"] == "grad_cam")
    for at, cell in enumerate(row["cells"]):
        dots = {one["cells"][at]["dot"] for one in controls if one["layer"] in (row["layer"], "-")}
        assert {mark["at"] for mark in cell["controls"]} == dots


def test_the_crash_test_is_counted_by_mechanism() -> None:
    rows = [("a", "f", "and", "pass"), ("a", "f", "and", "pass"), ("a", "f", "or", "fail"), ("b", "f", "and", "pass"),
            ("b", "f", "or", "undecided"), ("b", "g", "and", "pass"), ("b", "g", "or", "pass")]  # fmt: skip
    counts = crash_counts(pd.DataFrame(rows, columns=["method", "layer", "mechanism", "overall"]))
    assert counts["a"] == {"passed": 1, "total": 2, "failed": "or"}
    assert counts["b"] == {"passed": 2, "total": 2, "failed": ""}


def test_cost_is_in_words_with_the_methods_parameters() -> None:
    def entry(name: str, **parameters: object) -> Entry:
        return Entry(key="", method=name, name=name, layer="-", category="other", parameters=parameters, version=1,
                     index=0, values=[], rows=1, measured={}, degenerate={}, seconds={})  # fmt: skip

    assert cost_of(entry("grad_cam")) == "the shared pass" and cost_of(entry("random")) == "no pass"
    assert cost_of(entry("score_cam")) == "channels forward"
    assert cost_of(entry("integrated_gradients", steps=8)) == "8 forward, 8 backward"


def test_the_command_line_writes_it_below_the_first_folder(
    results_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(results_root), "--leaderboard"]) == 0
    assert f"leaderboard: {results_root / 'leaderboard.html'}" in capsys.readouterr().out
    assert main([str(tmp_path), "--leaderboard"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([str(results_root), "--leaderboard", "--compare", "a", "b"])
    assert "--compare: not allowed with argument --leaderboard" in capsys.readouterr().err
    with pytest.raises(UserError, match="no results under"):
        write_leaderboard([tmp_path])


@needs_browser
def test_rows_are_filtered_by_family_passes_and_layer(board_path, visit):
    page = visit(board_path)
    rows = page.locator("tbody tr:visible:not(.control)")
    first = rows.count()
    assert page.locator(".board .status").inner_text().startswith(f"{first} of ")
    page.get_by_label("layer").first.select_option("")
    assert rows.count() > first
    page.get_by_label("family").select_option("entropy")
    assert {row.get_attribute("data-family") for row in rows.all()} == {"entropy"}
    assert page.locator("tbody tr.control:visible").count() > 0
    page.get_by_label("passes").select_option("own")
    assert rows.count() == 0
    page.get_by_label("passes").select_option("shared")
    assert rows.count() > 0
    page.locator("thead th:nth-child(2) button").click()
    values = [float(cell.get_attribute("data-value")) for cell in page.locator("tbody tr > :nth-child(2)").all()]
    assert values == sorted(values, reverse=True)


@needs_browser
def test_a_narrow_window_hides_the_same_rows(board_path, visit):
    wide, narrow = (visit(board_path, width=width).locator("tbody tr:visible").count() for width in (1280, 390))
    assert narrow == wide < visit(board_path).locator("tbody tr").count()


@needs_browser
def test_the_pictures_of_one_row(board_path, visit):
    page = visit(board_path)
    page.get_by_role("button", name=re.compile("^pictures of HiResCAM|^pictures of .*HiResCAM")).first.click()
    methods = {tile.get_attribute("data-method") for tile in page.locator(".tile[data-method]:visible").all()}
    assert len(methods) == 1 and page.locator(".only").is_visible()
    page.get_by_role("button", name="Show all methods").click()
    assert len({t.get_attribute("data-method") for t in page.locator(".tile[data-method]:visible").all()}) > 1


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_on_the_leaderboard(board_path, visit, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    page = visit(board_path, width=width, color_scheme=scheme, bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    result = axe.Axe().run(page)
    assert result.violations_count == 0, result.generate_report()
