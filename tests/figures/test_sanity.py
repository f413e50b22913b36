"""The figure of the sanity checks: means of the rows behind the trained network, stages named as in the config."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from bench.config import GIVEN_TO_METRIC, bind
from bench.figures import sanity as sanity_plots
from bench.figures.sanity import randomization_figure
from bench.networks.sources import torchvision_model
from bench.runs.plan import curve_points
from bench.types import UserError

METRICS = {
    "cascading_randomization": {"about": {"higher_is_better": {}, "curve_points": ["fc", "conv1"]}},
    "sparseness": {"about": {"higher_is_better": {}}},
}


def group_of(one_run, columns):
    rows = [{"case_id": str(i), "image_id": str(i)} | columns(i) for i in range(4)]
    one_run("random", "-", rows, metrics=METRICS)
    return group_of(one_run("grad_cam", "layer4", rows, metrics=METRICS))


def test_curves_start_at_the_trained_network(one_run):
    curves = {name: np.random.default_rng(i).random((4, 2)) for i, name in enumerate(("hog", "ssim", "spearman"))}
    group = group_of(
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
    asked = []
    bands = sanity_plots.mean_bands
    monkeypatch.setattr(
        sanity_plots, "mean_bands", lambda group, entry, *more: asked.append(entry.label) or bands(group, entry, *more)
    )
    names = [f"cascading_randomization.{name}_curve" for name in ("hog", "ssim")]
    rows = [{"case_id": str(i), "image_id": str(i)} | {name: [0.1 * i, 0.5] for name in names} for i in range(4)]
    for method, layer in (("random", "-"), ("grad_cam", "layer3"), ("grad_cam", "layer4")):
        root = one_run(method, layer, rows, metrics=METRICS)
    group = group_of(root)
    figure = randomization_figure(group, resamples=20)
    assert [len(ax.lines) for ax in figure.axes] == [2] * 4
    assert sorted(asked) == ["grad_cam@layer3", "grad_cam@layer4", "random"]


def test_none_without_curves(one_run):
    assert randomization_figure(group_of(one_run, lambda _: {"sparseness.gini": 0.5}), resamples=20) is None


def test_config_names_the_stages_of_the_network():
    network = torchvision_model(name="resnet18", weights="random", layers=["layer4"])
    about = {"version": 1, "curve_points": "metrics.sanity.stage_names"}
    node = {"_target_": "metrics.sanity.parameter_randomization", "stages": 3, "about": about}
    names = curve_points(bind("sanity", node, GIVEN_TO_METRIC), network.module)["curve_points"]
    assert names == ["fc", "layer3.0.conv1", "conv1"]
    assert yaml.safe_load(yaml.safe_dump(names)) == names
    assert curve_points(bind("sanity", node | {"about": {}}, GIVEN_TO_METRIC), network.module) == {}
    elsewhere = bind("sanity", node | {"about": {"curve_points": "os.system"}}, GIVEN_TO_METRIC)
    with pytest.raises(UserError, match="os.system is refused"):
        curve_points(elsewhere, network.module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": 0}, "^sanity: needs stages of at least 1, not 0"),
        ({"about": {"curve_points": "metrics.sanity.stage_name"}}, "metrics.sanity.stage_name, .* does not exist"),
    ],
)
def test_mistakes_in_a_config_are_one_line(change, message):
    network = torchvision_model(name="resnet18", weights="random", layers=["layer4"])
    about = {"curve_points": "metrics.sanity.stage_names"}
    node = {"_target_": "metrics.sanity.parameter_randomization", "about": about} | change
    with pytest.raises(UserError, match=message):
        curve_points(bind("sanity", node, GIVEN_TO_METRIC), network.module)
