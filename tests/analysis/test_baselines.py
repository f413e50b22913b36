"""Orders under several baselines: pairs that hold, depend, are open or equal; tau against SciPy; words and figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_results import group_of
from rich.console import Console
from scipy.stats import kendalltau

from bench.analysis.tables import shown_columns
from bench.analysis.trials.baselines import (
    BASELINE_COLUMNS,
    DISTANCE_COLUMNS,
    TAU_COLUMNS,
    baseline_distance_table,
    baseline_tau_table,
    baselines_table,
    families,
)
from bench.analysis.verdicts import equal_entries
from bench.figures.baselines import baselines_figure
from bench.report import report
from bench.report.baselines import baseline_answers, baselines_markdown, distances_markdown

ABOUT = {"about": {"higher_is_better": {"up": True, "down": False, "none": None}, "show": ["up"]}}
BASELINES = ["zero", "black", "blur_5", "noise"]
METRICS = {"toy": {"baseline": "zero", **ABOUT}} | {
    f"toy_baseline_{name}": {"baseline": name.split("_")[0], **ABOUT} for name in BASELINES[1:]
}
FAR = {"zero": 0.4, "black": 0.8, "blur_5": 0.1, "noise": 1.2}
OF_BASELINES = {"about": {"higher_is_better": {"distance": None}, "show": []}}
DISTANCES = {
    "baseline_distance" + ("" if name == "zero" else f"_baseline_{name}"): {"baseline": name.split("_")[0]}
    | OF_BASELINES
    for name in BASELINES
}
# Quality of each method under each baseline.
QUALITY = {
    "grad_cam": [0.5, 0.5, 0.5, 0.5],
    "hirescam": [0.5, 0.5, 0.5, 0.5],  # the same maps
    "layer_cam": [0.7, 0.6, 0.8, 0.7],  # better than Grad-CAM everywhere
    "score_cam": [0.9, 0.4, 0.9, 0.9],  # above it three times, below it once
    "eigen_cam": [0.501, 0.5005, 0.499, 0.501],  # hardly different from it
    "random": [0.1, 0.9, 0.1, 0.9],  # a control: of no pair
}


def make(one_run, images: int = 24, distances: bool = False):
    rng = np.random.default_rng(1)
    shared, noise = rng.normal(0, 0.1, images), {name: rng.normal(0, 0.02, (images, 4)) for name in QUALITY}
    noise["hirescam"] = noise["grad_cam"]
    for name, quality in QUALITY.items():
        rows = []
        for i in range(images):
            row = {"case_id": str(i), "image_id": str(i), "class_name": "cat"}
            for j, label in enumerate(METRICS):
                value = quality[j] + shared[i] + noise[name][i, j]
                row |= {f"{label}.up": value, f"{label}.down": 3 - value, f"{label}.none": 0.0}
            for label, baseline in zip(DISTANCES if distances else (), BASELINES, strict=False):
                row[f"{label}.distance"] = FAR[baseline] + 0.01 * (i % 3 - 1)
            rows.append(row)
        root = one_run(name, "last", rows, metrics=METRICS | (DISTANCES if distances else {}))
    return root


@pytest.fixture
def group(one_run):
    return group_of(make(one_run))


def test_families_are_outputs_with_a_direction_by_baseline(group) -> None:
    outputs = families(group)
    assert set(outputs) == {"toy.up", "toy.down"}
    assert outputs["toy.up"]["zero"].startswith("toy") and set(outputs["toy.up"]) == set(BASELINES)


def test_pairs(group) -> None:
    table = baselines_table(group)
    assert list(table.columns) == BASELINE_COLUMNS and len(table) == 2 * 10
    rows = {(r.metric, r.method, r.other_method): r for r in table.itertuples()}
    for metric in ("toy.up", "toy.down"):  # the direction does not matter
        holds = rows[metric, "layer_cam", "grad_cam"]
        assert (holds.order, holds.ahead, holds.sure, holds.against, holds.reversed_by) == ("holds", 4, 4, 0, "")
        depends = rows[metric, "score_cam", "grad_cam"]
        assert (depends.order, depends.ahead, depends.sure, depends.against) == ("depends", 3, 3, 1)
        assert depends.reversed_by == "black" and depends.baselines == 4 and depends.n == 24
        equal = rows[metric, "grad_cam", "hirescam"]
        assert (equal.order, equal.ahead, equal.sure, equal.against) == ("equal", 0, 0, 0)
        (near,) = [r for key, r in rows.items() if key[0] == metric and {"eigen_cam", "grad_cam"} == {*key[1:]}]
        assert near.order in ("open", "holds") and near.sure == near.against == 0


def test_taus_are_scipys(group) -> None:
    table = baseline_tau_table(group)
    assert list(table.columns) == TAU_COLUMNS and len(table) == 2 * 6
    names = {name: output for name, output in zip(BASELINES, METRICS, strict=True)}
    labels = {str(node["name"]): label for label, node in group.metrics.items()}
    for row in table.itertuples():
        value = row.metric.split(".")[1]
        first, second = (
            [group.values(e, f"{labels[names[b]]}.{value}").mean().round(9) for e in group.entries if not e.control]
            for b in (row.baseline, row.other_baseline)
        )
        assert row.tau == pytest.approx(kendalltau(first, second).statistic, abs=1e-6) and row.k == 5 and row.n == 24
    assert table["tau"].min() < 0.9 and (table["tau"] <= 1).all()


def test_a_missing_value_leaves_the_case_out_of_every_order(one_run) -> None:
    group = group_of(make(one_run))
    output = families(group)["toy.up"]["black"]
    group.entries[0].values[3, group.outputs.index(output)] = np.nan
    table = baselines_table(group)
    assert set(table[table["metric"] == "toy.up"]["n"]) == {23} and set(table[table["metric"] == "toy.down"]["n"]) == {
        24
    }


def test_few_images_say_nothing(one_run) -> None:
    table = baselines_table(group_of(make(one_run, images=19)))
    assert set(table["order"]) == {"few images"} and not table[["sure", "against"]].to_numpy().any()
    assert all("no verdict: 20 images are needed" in answer.text for answer in baseline_answers(table))


def test_words(group) -> None:
    table = baselines_table(group)
    down, up = baseline_answers(table)
    assert up.tone == "no" and up.measure == "toy, up" and down.measure == "toy, down"
    assert "score_cam at last and grad_cam at last (reversed by black)" in up.text
    assert "4 baselines, n = 24 cases" in up.text
    kept = table[table["order"] != "depends"]
    assert all(answer.tone == "open" and "no two baselines" in answer.text for answer in baseline_answers(kept))
    assert "| toy.up | score_cam at last | grad_cam at last | 3 of 4 | 3 | 1 | depends | black |" in baselines_markdown(
        table
    )


def test_figure(group) -> None:
    figure = baselines_figure(group, equal_entries(group), "last")
    assert len(figure.axes) == 3
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == BASELINES
    for ax, output in zip(figure.axes[:2], ("down", "up"), strict=True):
        assert ax.get_title() == f"{output} {'↑' if output == 'up' else '↓'}"
        assert len(ax.lines) == 4  # equal methods are one
        # The dots are the means, in the metric's own direction.
        entries = {entry.name: entry for entry in group.entries}
        means = {
            name: [group.values(entry, column).mean() for column in families(group)[f"toy.{output}"].values()]
            for name, entry in entries.items()
        }
        dots = [np.asarray(line.get_xdata()) for line in ax.lines]
        for name in ("layer_cam", "score_cam", "eigen_cam", "grad_cam"):
            assert any(np.allclose(own, means[name]) for own in dots), name
    assert len(figure.axes[2].texts) == 4 * 3
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(named) == 4 and not any("andom" in name for name in named)  # what is drawn, so no control


def test_distances_of_baselines_are_no_ranking_of_methods(one_run) -> None:
    root = make(one_run, distances=True)
    group = group_of(root)
    assert set(families(group)) == {"toy.up", "toy.down"}
    table = baseline_distance_table(group)
    assert list(table.columns) == DISTANCE_COLUMNS and table["baseline"].tolist() == BASELINES
    assert dict(zip(table["baseline"], table["distance"], strict=True)) == pytest.approx(FAR)
    assert (table["ci_low"] < table["distance"]).all() and (table["distance"] < table["ci_high"]).all()
    assert (table["ci_high"] - table["ci_low"] < 0.01).all() and set(table["n"]) == {24}
    lines = distances_markdown(table).splitlines()
    named = [line.split("|")[2].strip() for line in lines if line.startswith("| last")]
    assert named == sorted(FAR, key=FAR.__getitem__)  # the nearest first
    figure = baselines_figure(group, equal_entries(group), "last")
    assert len(figure.axes) == 4 and figure.axes[2].get_title() == "distance in features"
    dots = dict(zip(figure.axes[2].lines[0].get_ydata(), figure.axes[2].lines[0].get_xdata(), strict=True))
    assert [dots[BASELINES.index(name)] for name in BASELINES] == pytest.approx([FAR[name] for name in BASELINES])
    report(root, console=Console(quiet=True))
    assert list(pd.read_csv(root / "baselines_distance.csv").columns) == DISTANCE_COLUMNS
    text = (root / "summary.md").read_text()
    assert "how far the network sees the picture move" in text
    assert not any("distance" in column.metric for column in shown_columns(group))


def test_other_groups_have_no_baselines(finished) -> None:
    group = group_of(finished)
    table = baselines_table(group)
    assert table.empty and baseline_tau_table(group).empty and baselines_markdown(table) == ""
    assert baseline_distance_table(group).empty and distances_markdown(baseline_distance_table(group)) == ""
    assert baseline_answers(table) == [] and baselines_figure(group, equal_entries(group), "last") is None


def test_report_writes_tables_and_marks_the_answers(one_run) -> None:
    root = make(one_run)
    console = Console(width=160, record=True, quiet=False)
    report(root, console=console)
    assert "depends on the baseline" in console.export_text()
    assert "Does the order depend on the baseline?" in (root / "summary.md").read_text()
    assert "depends on the baseline" in (root / "report.html").read_text()
    assert list(pd.read_csv(root / "baselines.csv").columns) == BASELINE_COLUMNS
    assert list(pd.read_csv(root / "baselines_tau.csv").columns) == TAU_COLUMNS
    assert list(root.rglob("figures/*/baselines.svg"))
