"""What a network returns and what a probability is: one sigmoid output, groups, curves by hand, the protocol's key."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, gaussian_filter
from small_networks import batch_of

import bench
from bench.binding import GIVEN_TO_METRIC, bind
from bench.maps.scorer import Scorer
from bench.maps.target_scores import group_logit, group_probability, output_values
from bench.networks.own import custom_model
from bench.options import conf_node
from bench.runs.facts import look_at, request_of
from bench.runs.rows import case_rows, metric_columns
from bench.runs.setup.protocol import protocol_folder
from bench.types import Network

custom = partial(custom_model, name="custom", size=32)
STEPS = 4


def blurred(image: np.ndarray) -> np.ndarray:
    """RISE's kernel: scipy's Gaussian of sigma 5 on one bright pixel of 11 x 11; zeros around the picture."""
    dot = np.zeros((11, 11))
    dot[5, 5] = 1
    kernel = gaussian_filter(dot, 5)
    return np.stack([convolve(channel, kernel, mode="constant") for channel in image])


def curve(network: Network, start: np.ndarray, end: np.ndarray, heat: np.ndarray, kind: str) -> list[float]:
    """Value at each step while positions of `start` become those of `end`, highest first; plain loops."""
    order = np.argsort(-heat.ravel(), kind="stable")
    values = []
    for step in range(STEPS + 1):
        image = start.reshape(3, -1).copy()
        chosen = order[: step * order.size // STEPS]
        image[:, chosen] = end.reshape(3, -1)[:, chosen]
        with torch.no_grad():
            y = float(network.module(torch.from_numpy(image.reshape(1, 3, 32, 32)).float())[0, 0])
        values.append(1 / (1 + np.exp(-y)) if kind == "sigmoid" else y)
    return values


@pytest.mark.parametrize("kind", ["sigmoid", "none"])
def test_curves_of_one_output_by_hand(kind: str) -> None:
    network = custom(target="hostile_networks:as_row", probability={"sigmoid": "auto"}.get(kind, kind))
    assert network.probability == kind
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 32, 32, generator=generator) * 3
    heatmaps = torch.rand(2, 32, 32, generator=generator)
    batch = batch_of(images)
    for name in ("deletion", "insertion"):
        metric = bind(name, conf_node("metric", name) | {"steps": STEPS}, GIVEN_TO_METRIC)
        score = Scorer(network.module, batch.targets, 4, probability=network.probability)
        columns = metric_columns(metric, name, heatmaps, batch, score)
        for image, heat, row in zip(images.double().numpy(), heatmaps.numpy(), columns, strict=True):
            pair = (image, np.zeros_like(image)) if name == "deletion" else (blurred(image), image)
            expected = curve(network, *pair, heat, kind)
            assert np.ptp(expected) > 1e-3
            np.testing.assert_allclose(row[f"{name}.curve"], expected, atol=2e-6)
            area = sum((a + b) / 2 / STEPS for a, b in zip(expected, expected[1:], strict=False))
            assert row[f"{name}.auc"] == pytest.approx(area, abs=2e-6)


def test_rows_name_the_sigmoid() -> None:
    logits = torch.tensor([[0.4], [-3.0]])
    rows = case_rows(batch_of(torch.zeros(2, 3, 32, 32)), logits, "sigmoid")
    for row, y in zip(rows, (0.4, -3.0), strict=True):
        assert row["probability"] == row["predicted_probability"] == pytest.approx(1 / (1 + np.exp(-y)))
        assert row["predicted"] == 0


def test_groups() -> None:
    """1 - prod(1 - p) with sigmoid, a sum with softmax, the explained score with none."""
    logits = torch.tensor([[2.0, -1.0, 0.5, 30.0]])
    p = [1 / (1 + np.exp(-y)) for y in (2.0, -1.0, 0.5)]
    assert group_probability(logits, [(0, 1, 2)], "sigmoid").item() == pytest.approx(
        1 - (1 - p[0]) * (1 - p[1]) * (1 - p[2])
    )
    assert group_probability(logits, [(1,)], "sigmoid").item() == pytest.approx(p[1])
    assert group_probability(logits, [(0, 1, 2, 3)], "softmax").item() == pytest.approx(1)
    assert group_probability(logits, [(0, 2)], "none") == group_logit(logits, [(0, 2)])
    # A sure no is not rounded to 0: it would end every curve's differences.
    assert group_probability(torch.tensor([[-40.0, -40.0]]), [(0,)], "sigmoid").item() == pytest.approx(np.exp(-40))
    torch.testing.assert_close(output_values(logits, "sigmoid")[0, :3].double(), torch.tensor(p))
    assert torch.equal(output_values(logits, "none"), logits)


def folder_key(tmp_path: Path, network: Network) -> str:
    config = {"dataset": {"name": "folder"}, "seed": 0, "target": "predicted", "precision": "float32"}
    facts = look_at(network, None, torch.device("cpu"))
    return protocol_folder({**config, "out": str(tmp_path)}, facts, [], "stretch").protocol["key"]


def test_settings_are_part_of_the_key(tmp_path: Path) -> None:
    network = partial(custom, target="hostile_networks:as_tuple")
    keys = [
        folder_key(tmp_path, network(**settings))
        for settings in (
            {"output": 0},
            {"output": "0"},
            {"output": 1},
            {"output": 0, "probability": "sigmoid"},
            {"output": 0, "probability": "softmax"},
            {"output": 0, "reshape": "none"},
        )
    ]
    assert keys[0] == keys[1] == keys[4]  # the same by another name
    assert len({keys[0], keys[2], keys[3], keys[5]}) == 4
    # What says nothing new is not named: results made before these settings existed keep their key.
    usual = custom(target="hostile_networks:plain")
    assert folder_key(tmp_path, replace(usual, settings={})) != folder_key(tmp_path, usual)  # a user's code is named
    assert set(usual.settings) == {"code"}


def test_changed_code_is_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights with another forward, another factory or another text are not taken for done."""
    import sys

    source = (Path(__file__).parents[1] / "hostile_networks.py").read_text()
    keys, reshapes = {}, list[str]()
    for version, text in {
        "first": source,
        "same": source,
        "forward": source.replace("self.features(x).mean((2, 3))", "self.features(x).amax((2, 3))"),
        "text": source.replace("nn.Conv2d(8, 6, 3, 2)", "nn.Conv2d(8, 6, 3, 2, padding_mode='circular')"),
    }.items():
        folder = tmp_path / version
        folder.mkdir()
        (folder / "changing_network.py").write_text(text)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        sys.modules.pop("changing_network", None)
        network = custom(target="changing_network:plain")
        keys[version] = folder_key(tmp_path, network), network.weights_hash
        again = custom(target="hostile_networks:plain", reshape="changing_network:first_axes")
        reshapes.append(again.settings["reshape_code"])
    assert keys["first"] == keys["same"]
    assert len({key for key, _ in keys.values()}) == 3 and len({weights for _, weights in keys.values()}) == 1
    assert reshapes[0] == reshapes[1] and len(set(reshapes)) == 3
    assert request_of({"name": "resnet18", "reshape": "changing_network:first_axes"}, 0) is None  # asked anew each time
    assert request_of({"name": "resnet18", "reshape": "auto"}, 0) is not None


def test_an_address_in_the_text_is_not_code() -> None:
    """A function as a default argument shows its place in memory, which is another one each time."""
    from torch import nn

    from bench.networks.code import code_hash

    class Named(nn.Module):
        def extra_repr(self) -> str:
            return str(object())

    first, second = Named(), Named()
    assert repr(first) != repr(second) or code_hash(first) == code_hash(second)
    assert code_hash(first) == code_hash(second)


def test_the_highest_of_one_output_says_nothing() -> None:
    """A picture that the network sees nothing in would count as recognized."""
    network = custom(target="hostile_networks:as_row")
    score = Scorer(network.module, [(0,), (0,)], 4, probability="sigmoid")
    probability, top = score.with_top(torch.zeros(2, 3, 32, 32), torch.arange(2)).unbind(1)
    assert probability.isfinite().all() and top.isnan().all()


def test_metrics_that_need_another_class_are_left_out_for_one_output(tmp_path: Path) -> None:
    words = {"model": "resnet18", "model.weights": "random", "model.num_classes": 1, "device": "cpu", "limit": 2}
    asked = {"method": ["grad_cam"], "metric": ["class_sensitivity", "random_logit", "complexity"], "target": 0}
    table = bench.run(out=tmp_path, **words, **asked)
    assert set(table["metric"]) == {"complexity.mean", "complexity.entropy"}
