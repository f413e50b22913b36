"""Published numbers stand beside measured ones, in the same unit, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from made_results import groups_of

from bench.analysis.published import COLUMNS, published, reported, split_of
from bench.analysis.tables import summarize
from bench.options import conf_node

VOC = {"dataset": {"split": "test", "years": [2007]}}
GRAD_CAM = {"dataset": "voc", "split": split_of(VOC), "model": "vgg16", "method": "grad_cam", "layer": "features.29"}


def test_every_row_says_what_it_is_and_where_it_is_from():
    table = published()
    assert list(table.columns) == COLUMNS
    assert (table[["dataset", "split", "method", "metric", "source", "conditions"]] != "").all(axis=None)
    assert table["source"].str.contains("https://").all()
    assert not table.duplicated(["dataset", "split", "model", "layer", "method", "metric"]).any()


def test_units_are_those_of_the_summary():
    """Papers print per cent, our metrics are shares: a forgotten division would be a value above 1."""
    for row in published().itertuples():
        metric, _, output = row.metric.partition(".")
        about = conf_node("metric", metric)["about"]
        assert "share" in about["unit"] or "rate" in about["unit"]
        assert 0.01 < row.value < 1
        name = output.removesuffix("_class_mean").replace("hit_difficult", "hit")
        assert name in about["higher_is_better"]


def test_torchrays_published_figures():
    """TorchRay, docs/pointing.csv at 6a198ee: 86.6 / 74.0 for Grad-CAM on VOC07 test with VGG16; centre 69.6 / 42.4."""
    found = reported(**GRAD_CAM)
    assert found["pointing_game.hit_class_mean"][0] == 0.866
    assert found["pointing_game.hit_difficult_class_mean"][0] == 0.740
    assert "TorchRay" in found["pointing_game.hit_class_mean"][1]
    centre = GRAD_CAM | {"model": "any network", "method": "center", "layer": "-"}
    assert reported(**centre)["pointing_game.hit_class_mean"][0] == 0.696


def test_torchcams_figures_name_their_version():
    """TorchCAM's README after 0.5.0 corrects LayerCAM's row of ResNet-18, which that of 0.5.0 has otherwise."""
    row = {"dataset": "imagenette", "split": "val", "model": "resnet18", "method": "layer_cam", "layer": "layer4"}
    found = reported(**row)
    for output, value, earlier in (("drop", 0.1805, "0.1712"), ("increase", 0.2894, "0.2819")):
        assert found[f"average_drop.{output}"][0] == value
        assert "after release 0.5.0" in found[f"average_drop.{output}"][1]
        assert f"release 0.5.0 prints {earlier}" in found[f"average_drop.{output}"][1]
    table = published()
    assert table.loc[table["source"].str.contains("TorchCAM"), "source"].str.contains("0.5.0").all()


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "coco"},
        {"model": "resnet50"},
        {"layer": "features.22"},
        {"method": "hirescam"},
        {"split": split_of({"dataset": {"split": "val", "years": [2007]}})},
        {"split": split_of({"dataset": {"split": "test", "years": [2007, 2012]}})},
    ],
)
def test_what_does_not_match_is_not_shown(other):
    assert reported(**GRAD_CAM | other) == {}


def test_one_tensor_has_several_names():
    for layer in ("layer4", "layer4.2.relu"):
        row = GRAD_CAM | {"model": "resnet50", "layer": layer}
        assert reported(**row)["pointing_game.hit_class_mean"][0] == 0.904


def test_reported_stands_beside_measured(one_run):
    rows = [{"case_id": str(i), "image_id": str(i), "pointing_game.hit": float(i % 5 > 0)} for i in range(20)]
    config = {"dataset": "voc", "model": "vgg16", "parameters": VOC}
    one_run("grad_cam", "features.29", rows, **config)
    root = one_run("hirescam", "features.29", rows, **config)
    table = summarize(groups_of(root), resamples=50).set_index(["method", "metric"])
    found = table.loc["grad_cam", "pointing_game.hit_class_mean"]
    assert found["reported"] == 0.866 and "shorter side 224" in found["reported_source"]
    assert found["mean"] == pytest.approx(0.8)  # the published number is no part of it
    assert abs(found["reported"] - found["mean"]) < 0.2  # one unit
    rest = table.drop(index=("grad_cam", "pointing_game.hit_class_mean"))
    assert np.isnan(rest["reported"]).all() and (rest["reported_source"] == "").all()
