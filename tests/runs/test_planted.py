"""The crash test from the command's config to the rows on disk, for pictures and for volumes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml

import bench
from bench.analysis.reading import load_results
from bench.binding import GIVEN_TO_METRIC, bind
from bench.options import CONF, conf_node
from bench.runs.setup.checks import usable
from bench.types import UserError

TRIAL = yaml.safe_load((CONF / "experiment" / "metric_trial.yaml").read_text())
VARIANTS = [name for name, node in TRIAL["metric"].items() if "_target_" in node]
METHODS = ["grad_cam", "activation_sum", "feature_entropy", "grad_entropy", "random", "uniform"]


def means(out: Path) -> pd.DataFrame:
    rows = load_results(out)
    columns = {name: name.rpartition(".")[2] for name in rows if name.startswith("planted_truth.")}
    return rows.rename(columns=columns).groupby(["class_name", "method"])[list(columns.values())].mean()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("pictures")
    bench.run("experiment=crash_test", "gallery.cases=0", method=METHODS, out=str(out), **{"dataset.pictures": 3})
    return means(out)


def beyond(row: pd.Series) -> set[str]:
    """Names of the values that are beyond the limits which the metric's yaml states."""
    limits = yaml.safe_load((CONF / "metric" / "planted_truth.yaml").read_text())["planted_truth"]["about"]["right"]
    too_low = {name for name, limit in limits.items() if row[name] < limit.get("least", 0)}
    return too_low | {name for name, limit in limits.items() if row[name] > limit.get("most", 1)}


def test_methods_do_what_theory_says(pictures: pd.DataFrame) -> None:
    for mechanism in ("additive", "uneven", "distractor", "against"):
        assert not beyond(pictures.loc[mechanism, "grad_cam"]), mechanism
    for method in ("activation_sum", "feature_entropy", "grad_entropy"):
        assert "leak" in beyond(pictures.loc["distractor", method])
        assert "against" in beyond(pictures.loc["against", method])
    assert "leak" in beyond(pictures.loc["blind", "grad_cam"])  # a mean over positions sees through walls
    for method in ("random", "uniform"):
        assert all(beyond(pictures.loc[mechanism, method]) for mechanism in pictures.index.levels[0])


def test_volumes_go_through_the_same_run(tmp_path: Path) -> None:
    bench.run("experiment=crash_test_volumes", method=METHODS, out=str(tmp_path), **{"dataset.pictures": 2})
    values = means(tmp_path)
    assert list(values.index.levels[0]) == ["additive", "blind", "distractor"]
    assert not beyond(values.loc["additive", "grad_cam"]) and not beyond(values.loc["distractor", "grad_cam"])
    assert "leak" in beyond(values.loc["distractor", "activation_sum"])
    assert "outside" in beyond(values.loc["additive", "random"])


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="made for model=planted"):
        bench.run("dataset=planted", model="resnet18", out=str(tmp_path), **{"model.weights": "random"})


def test_the_metric_is_left_out_where_no_truth_is_known() -> None:
    metric = bind("planted_truth", conf_node("metric", "planted_truth"), GIVEN_TO_METRIC)
    kept, notes = usable([metric], {"boxes"})
    assert not kept and notes == [
        "left out, because the truth is not known, as it is for dataset=planted: planted_truth"
    ]
    assert usable([metric], {"truth"}) == ([metric], [])


def test_the_truth_is_the_best_map_for_metrics_of_location(tmp_path: Path) -> None:
    metrics = ["energy_pointing_game", "box_coverage", "relevance"]
    words = {"dataset.pictures": 2, "gallery.cases": 0}
    drop = [f"~metric.{name}" for name in VARIANTS]
    bench.run("experiment=metric_trial", *drop, metric=metrics, out=str(tmp_path), **words)
    table = pd.read_csv(tmp_path / "metric_trial.csv").set_index("metric")
    for name in ("energy_pointing_game.energy", "box_coverage.coverage", "relevance.rank", "relevance.mass"):
        assert table.loc[name, "best"] and table.loc[name, "tau_shift"] == 1, name
    assert table.loc["energy_pointing_game.energy", "sees_one"] == 0.5  # it cannot: all energy is on instances
    assert table.loc["box_coverage.coverage", "sees_one"] == 1
