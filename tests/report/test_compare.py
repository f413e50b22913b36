"""Two results compared: which cells changed, beyond their intervals or not."""

from __future__ import annotations

import pandas as pd
import pytest
from made_results import METRICS, PARAMETERS

from bench.report.__main__ import main
from bench.report.compare import compare
from bench.types import UserError


def rows(values):
    return [{"case_id": str(i), "image_id": str(i), "deletion.auc": value} for i, value in enumerate(values)]


SPREAD = [0.1, 0.3, 0.5, 0.7, 0.9] * 4


@pytest.fixture
def two(one_run):
    """A and B: one method the same, one changed a little, one much, one renamed."""
    for name, shifts in (("a", (0, 0, 0)), ("b", (0, 0.02, 0.6))):
        for method, shift in zip(("grad_cam", "hirescam", "layer_cam"), shifts, strict=True):
            root = one_run(method, "bn2.act", rows([value + shift for value in SPREAD]), name=name)
        root = one_run(f"only_{name}", "bn2.act", rows(SPREAD), name=name)
    return root.parent / "a", root.parent / "b"


def test_states(two):
    cells = compare(*two)[0].set_index("method")
    assert cells["state"].to_dict() == {
        "layer_cam": "worse", "hirescam": "within", "grad_cam": "same", "only_a": "only in A", "only_b": "only in B",
    }  # fmt: skip
    assert list(cells.index[:2]) == ["layer_cam", "hirescam"]
    assert cells["change"]["hirescam"] == pytest.approx(0.02)
    swapped = compare(*two[::-1])[0].set_index("method")
    assert swapped["change"]["layer_cam"] == pytest.approx(-0.6) and swapped["state"]["only_a"] == "only in B"
    assert swapped["state"]["layer_cam"] == "better"  # a lower deletion curve


def test_a_fall_of_what_should_rise_is_worse(one_run):
    for name, shift in (("a", 0.6), ("b", 0.0)):
        moved = [{"case_id": str(i), "image_id": str(i), "insertion.auc": v + shift} for i, v in enumerate(SPREAD)]
        root = one_run("grad_cam", "bn2.act", moved, name=name)
    assert list(compare(root.parent / "a", root)[0]["state"]) == ["worse"]


def test_other_protocols_are_never_compared_and_what_differs_is_named(two, one_run):
    one_run("grad_cam", "bn2.act", rows([5.0] * 19), name="b", parameters=PARAMETERS | {"seed": 1})
    cells, apart = compare(*two)
    assert sorted(cells.loc[cells["method"] == "grad_cam", "state"]) == ["only in B", "same"]
    assert apart == ["not compared: data, net: seed: 0 in A, 1 in B"]


def test_other_versions_of_a_metric_are_never_compared(one_run):
    for name, version in (("a", 1), ("b", 2)):
        about = METRICS["deletion"]["about"] | {"version": version}
        metrics = {"deletion": METRICS["deletion"] | {"about": about}}
        root = one_run("grad_cam", "bn2.act", rows(SPREAD), name=name, metrics=metrics)
    cells, apart = compare(root.parent / "a", root)
    assert sorted(cells["state"]) == ["only in A", "only in B"]
    assert apart == ["not compared: deletion.auc of grad_cam has versions 1.1 and 2.1 (metric.method)"]


def test_a_single_image_is_never_beyond(one_run):
    one_run("grad_cam", "bn2.act", rows([0.1]), name="a")
    root = one_run("grad_cam", "bn2.act", rows([0.9]), name="b")
    assert list(compare(root.parent / "a", root)[0]["state"]) == ["within"]


def test_command_line(two, tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--compare", *map(str, two)]) == 0
    text = capsys.readouterr().out
    assert "layer_cam" in text and "worse" in text and "hirescam" in text
    assert "grad_cam" not in text.split("A: ")[0]
    assert pd.read_csv(tmp_path / "out/compare.csv").shape[0] == 5
    page = (tmp_path / "out/compare.html").read_text(encoding="utf-8")
    assert page.count("<tr") == 1 + 4 and "<script src" not in page
    assert "| layer_cam |" in (tmp_path / "out/compare.md").read_text(encoding="utf-8")
    assert main(["--compare", *map(str, two)]) == 0 and (two[1] / "compare.html").is_file()


def test_mistakes_are_one_line(two, tmp_path, capsys):
    assert main(["--compare", str(two[0]), str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: no results under")
    with pytest.raises(SystemExit, match="2"):
        main([])
    with pytest.raises(UserError):
        compare(tmp_path / "none", two[0])
