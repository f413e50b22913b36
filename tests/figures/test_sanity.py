"""The figure of the sanity checks: means of the rows behind the trained network, stages named as in the config."""

from __future__ import annotations

import numpy as np
from made_results import group_of

from bench.figures import curves as curve_plots
from bench.figures.curves import randomization_figure

METRICS = {
    "cascading_randomization": {"about": {"higher_is_better": {}, "curve_points": ["fc", "conv1"]}},
    "sparseness": {"about": {"higher_is_better": {}}},
}


def sanity_group(one_run, columns):
    rows = [{"case_id": str(i), "image_id": str(i)} | columns(i) for i in range(4)]
    one_run("random", "-", rows, metrics=METRICS)
    return group_of(one_run("grad_cam", "layer4", rows, metrics=METRICS))


def test_curves_start_at_the_trained_network(one_run):
    curves = {name: np.random.default_rng(i).random((4, 2)) for i, name in enumerate(("hog", "ssim", "spearman"))}
    group = sanity_group(
        one_run,
        lambda i: (
            {f"cascading_randomization.{name}_curve": curve[i].tolist() for name, curve in curves.items()}
            | {"sparseness.some_curve": [1.0, 2.0]}
        ),
    )
    figure = randomization_figure(group, resamples=20)
    assert {ax.get_title() for ax in figure.axes} == set(curves) and len(figure.axes) == 3
    for ax in figure.axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["trained", "fc", "conv1"]
        assert len(ax.lines) == 2  # what looks at no layer stands beside the layer's
        for line in ax.lines:
            np.testing.assert_allclose(line.get_ydata(), [1, *curves[ax.get_title()].mean(0)], rtol=1e-6)


def test_means_are_made_once_an_entry(one_run, monkeypatch):
    """Not once a similarity, nor once a layer for what looks at none."""
    labels = []
    bands = curve_plots.mean_bands
    monkeypatch.setattr(curve_plots, "mean_bands", lambda *all: labels.append(1) or bands(*all))
    names = [f"cascading_randomization.{name}_curve" for name in ("hog", "ssim")]
    rows = [{"case_id": str(i), "image_id": str(i)} | {name: [0.1 * i, 0.5] for name in names} for i in range(4)]
    for method, layer in (("random", "-"), ("grad_cam", "layer3"), ("grad_cam", "layer4")):
        root = one_run(method, layer, rows, metrics=METRICS)
    figure = randomization_figure(group_of(root), resamples=20)
    assert [len(ax.lines) for ax in figure.axes] == [2] * 4
    assert len(labels) == 3


def test_none_without_curves(one_run):
    assert randomization_figure(sanity_group(one_run, lambda _: {"sparseness.gini": 0.5}), resamples=20) is None
