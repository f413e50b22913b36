"""Names of the points of a curve where they depend on the network, as the config names the function for them."""

from __future__ import annotations

import pytest
import yaml

from bench.config import GIVEN_TO_METRIC, bind
from bench.networks.running import running_order
from bench.networks.sources import torchvision_model
from bench.runs.plan import curve_points
from bench.types import UserError


def test_config_names_the_stages_of_the_network():
    network = torchvision_model(name="resnet18", weights="random", layers=["layer4"])
    running = running_order("resnet18", network.module, network.spec.shape)
    about = {"version": 1, "curve_points": "metrics.sanity.stage_names"}
    node = {"_target_": "metrics.sanity.parameter_randomization", "stages": 3, "about": about}
    names = curve_points(bind("sanity", node, GIVEN_TO_METRIC), network.module, running)["curve_points"]
    assert names == ["fc", "layer3.0.conv1", "conv1"]
    assert yaml.safe_load(yaml.safe_dump(names)) == names
    assert curve_points(bind("sanity", node | {"about": {}}, GIVEN_TO_METRIC), network.module, running) == {}
    elsewhere = bind("sanity", node | {"about": {"curve_points": "os.system"}}, GIVEN_TO_METRIC)
    with pytest.raises(UserError, match="os.system is refused"):
        curve_points(elsewhere, network.module, running)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": 0}, "^sanity: needs stages of at least 1, not 0"),
        ({"about": {"curve_points": "metrics.sanity.stage_name"}}, "metrics.sanity.stage_name does not exist"),
    ],
)
def test_mistakes_in_a_config_are_one_line(change, message):
    network = torchvision_model(name="resnet18", weights="random", layers=["layer4"])
    running = running_order("resnet18", network.module, network.spec.shape)
    about = {"curve_points": "metrics.sanity.stage_names"}
    node = {"_target_": "metrics.sanity.parameter_randomization", "about": about} | change
    with pytest.raises(UserError, match=message):
        curve_points(bind("sanity", node, GIVEN_TO_METRIC), network.module, running)
