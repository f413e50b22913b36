"""Two results compared: which cells changed, beyond their intervals or not."""

from __future__ import annotations

import pandas as pd
import pytest

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
        "layer_cam": "beyond", "hirescam": "within", "grad_cam": "same", "only_a": "only in A", "only_b": "only in B",
    }  # fmt: skip
    assert list(cells.index[:2]) == ["layer_cam", "hirescam"]
    assert cells["change"]["hirescam"] == pytest.approx(0.02)
    swapped = compare(*two[::-1])[0].set_index("method")
    assert swapped["change"]["layer_cam"] == pytest.approx(-0.6) and swapped["state"]["only_a"] == "only in B"


def test_the_common_protocol_is_compared(two, one_run):
    one_run("grad_cam", "bn2.act", rows([5.0] * 19), name="b", parameters={"seed": 1})
    cells, protocols = compare(*two)
    assert cells.set_index("method")["state"]["grad_cam"] == "same"
    assert protocols == "all shared cells by the same protocol"


def test_another_protocol_is_said(one_run):
    one_run("grad_cam", "bn2.act", rows(SPREAD), name="a", parameters={"seed": 1})
    root = one_run("grad_cam", "bn2.act", rows(SPREAD), name="b", parameters={"seed": 2})
    assert compare(root.parent / "a", root)[1].startswith("1 of 1 cells were measured by another protocol")


def test_a_single_image_is_never_beyond(one_run):
    one_run("grad_cam", "bn2.act", rows([0.1]), name="a")
    root = one_run("grad_cam", "bn2.act", rows([0.9]), name="b")
    assert list(compare(root.parent / "a", root)[0]["state"]) == ["within"]


def test_command_line(two, tmp_path, capsys):
    assert main([str(tmp_path / "out"), "--compare", *map(str, two)]) == 0
    text = capsys.readouterr().out
    assert "layer_cam" in text and "beyond" in text and "hirescam" in text
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
