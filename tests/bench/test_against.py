"""A method beside stored results of others: computed alone, compared with all, or refused with what differs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from counted_runs import Counted, counted

from bench import run
from bench.__main__ import show
from bench.config import compose_config, plain
from bench.store.folders import differences, find_folders
from bench.types import UserError

__all__ = ["counted"]
WORDS = ["model=resnet18", "model.weights=random", "gallery.cases=1", "batch=16", "score_batch=4"]
OTHERS = ["method=[grad_cam,layer_cam,activation_sum,center]", "metric=[box_coverage,pointing_game]"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published")
    run(*WORDS, *OTHERS, "limit=6", out=str(out))
    return out


def test_one_method_beside_stored_ones_equals_a_run_of_all(
    published: Path, tmp_path: Path, counted: Counted, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(*WORDS, "method=[hirescam,grad_cam,layer_cam,activation_sum,center]", OTHERS[1], "limit=6",
                out=str(tmp_path / "all"))  # fmt: skip
    own = ["method=[hirescam]", OTHERS[1], "limit=6", f"out={tmp_path / 'own'}", f"against={published}"]
    before = {path: path.read_bytes() for path in published.rglob("*.*")}
    outcome = counted(*WORDS, *own)
    # A forward pass to look at the network, then one forward and one backward pass for all six scenes.
    assert (counted.forwards, counted.backwards, counted.images) == (2, 1, 1 + 6)
    summary = run(*WORDS, *own)
    assert len(whole) == len(summary) and set(summary["method"]) == set(whole["method"])
    pd.testing.assert_frame_equal(summary, whole, rtol=1e-4, atol=1e-6)
    assert {path: path.read_bytes() for path in published.rglob("*.*")} == before
    show(plain(compose_config([*WORDS, *own])), outcome)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("layer_cam", "hirescam", "center", "activation_sum"))
    table = pd.read_csv(tmp_path / "own" / "comparisons.csv")
    assert {"center", "grad_cam"} <= set(table.loc[table["method"] == "hirescam", "against"])
    assert "LayerCAM" in (tmp_path / "own" / "report.html").read_text()


def test_fewer_cases_are_paired_by_their_ids(published: Path, tmp_path: Path) -> None:
    """Stored rows of other cases and metrics stay out of the table."""
    words = [*WORDS, "metric=[box_coverage]", "limit=3"]
    summary = run(*words, "method=[hirescam]", f"against=[{published}]", out=str(tmp_path / "own"))
    whole = run(*words, "method=[hirescam,grad_cam,layer_cam,activation_sum,center]", out=str(tmp_path / "all"))
    pd.testing.assert_frame_equal(summary, whole, rtol=1e-4, atol=1e-6)
    assert summary["n"].max() == 3 and not summary["metric"].str.startswith("pointing").any()


def test_cases_that_the_stored_results_lack_are_counted(published: Path, tmp_path: Path, counted: Counted) -> None:
    words = [*WORDS, "method=[hirescam]", OTHERS[1], f"out={tmp_path}", f"against={published}"]
    said = "the results in against= have 6 of the 8 cases of this run; limit=6 compares all methods on the same cases"
    assert said in counted(*words, "limit=8").notes
    assert not any("against=" in note for note in counted(*words, "limit=6").notes)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["seed=1"], "seed is 0 there and 1 here"),
        (["precision=bfloat16"], "precision is float32 there and bfloat16 here"),
        (["target=predicted"], "target is label there and predicted here"),
        (["dataset.scenes=20"], "dataset.scenes is 48 there and 20 here, cases differ (pictures, boxes or targets)"),
    ],
)
def test_another_protocol_is_refused_by_what_differs(
    published: Path, tmp_path: Path, words: list[str], named: str
) -> None:
    with pytest.raises(UserError) as raised:
        run(*WORDS, "method=[hirescam]", "limit=2", *words, f"against={published}", out=str(tmp_path))
    assert named in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("part-*"))


def test_the_nearest_protocol_is_the_one_with_the_fewest_differences() -> None:
    def protocol(**parameters: object) -> dict:
        return {"weights": "default", "parameters": {"weights": "ab", "seed": 0, **parameters}}

    assert differences(protocol(), protocol()) == []
    assert differences(protocol(dataset={"name": "a", "n": 1}), protocol(dataset={"name": "b"}, weights="cd")) == [
        "weights is default (cd) there and default (ab) here",
        "dataset.name is b there and a here",
        "dataset.n is None there and 1 here",
    ]


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="against=.*nothing: no results there"):
        run(*WORDS, "method=[hirescam]", "limit=1", against=str(tmp_path / "nothing"), out=str(tmp_path))


def test_published_results_are_no_part_of_the_folder_that_they_lie_in(tmp_path: Path) -> None:
    """They come with the program below ``results``, where a run puts its own."""
    for where in ("data/net-1", "published/data/net-2"):
        write_protocol(tmp_path / where)
    assert [folder.path.name for folder in find_folders(tmp_path)] == ["net-1"]
    assert [folder.path.name for folder in find_folders(tmp_path / "published")] == ["net-2"]


def write_protocol(folder: Path) -> None:
    """Copy a published protocol: what makes a folder one of results."""
    folder.mkdir(parents=True)
    source = next((Path(__file__).parents[2] / "results" / "published").rglob("_protocol.yaml"))
    (folder / source.name).write_bytes(source.read_bytes())
