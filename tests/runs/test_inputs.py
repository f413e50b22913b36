"""Inputs of other channels, sides and axes from files to the page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

import bench
from bench.analysis.reading import load_results
from bench.config import GIVEN_TO_METHOD, bind_all, build, compose_config, plain
from bench.datasets.planted import planted
from bench.runs.facts import Facts, Opener
from bench.runs.setup import prepare_run
from bench.runs.setup.protocol import protocol_folder
from bench.types import Case, InputSpec, Network, UserError

SMALL = {"batch": 4, "score_batch": 8, "compile": False, "threads": 1, "quiet": True}
STEPS = {"metric.deletion.steps": 4, "metric.insertion.steps": 4}
RNG = np.random.default_rng(0)


def grey() -> nn.Module:
    return network(nn.Conv2d, 1)


def solid() -> nn.Module:
    return network(nn.Conv3d, 2)


def network(convolution: Callable[..., nn.Module], channels: int) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1) if convolution is nn.Conv2d else nn.AdaptiveAvgPool3d(1)
    return nn.Sequential(
        convolution(channels, 6, 3, 2, 1), nn.ReLU(), convolution(6, 8, 3, 2, 1), nn.ReLU(), pool, nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


def page(out: Path) -> dict[str, Any]:
    """Data of the page's gallery."""
    text = (out / "report.html").read_text()
    holder = re.search(r"<script[^>]*data-gallery[^>]*>(.*?)</script>", text, re.S)
    assert holder
    return json.loads(holder[1])


def results(out: Path) -> pd.DataFrame:
    """Rows with the metrics' columns under their plain names."""
    rows = load_results(out)
    return rows.rename(columns={name: name.replace("(steps=4)", "") for name in rows})


def run(tmp_path: Path, *words: str, **settings: Any) -> Path:
    out = tmp_path / "out"
    method = ["grad_cam", "grad_entropy", "activation_sum", "edges", "random", "center"]
    bench.run(*words, method=method, out=str(out), **SMALL, **STEPS, **settings)
    return out


def test_16_bits_of_one_channel(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(3):
        tifffile.imwrite(root / f"{i}.tif", RNG.integers(200, 900, (40, 50), dtype=np.uint16))
    target = {"model.target": f"{__name__}:grey", "model.mean": [0.01], "model.std": [0.005], "model.size": 32}
    out = run(tmp_path, "model=custom", "dataset=folder", **target, **{"dataset.root": str(root)})
    rows = results(out)
    assert len(rows) == 18 and rows["deletion.auc"].notna().all()
    # Their 700 levels are seen: as 8-bit pictures they would have three, and nearly no edges.
    picture = np.asarray(Image.open(next((out / "folder").rglob("_images/*.png"))).convert("L"))
    assert len(np.unique(picture)) > 100 and picture.min() == 0 and picture.max() == 255
    assert [case["width"] for case in page(out)["cases"]] == [32] * 3


def test_pictures_of_12_bits_in_16_are_said_to_be_faint(tmp_path: Path) -> None:
    """For a network that takes them as 16 bits; neither with their range nor with a mean and std of theirs."""
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(2):
        tifffile.imwrite(root / f"{i}.tif", RNG.integers(500, 3500, (40, 50), dtype=np.uint16))

    def notes(*words: str) -> list[str]:
        config = plain(compose_config([*words, "dataset=folder", f"dataset.root={root}", f"out={tmp_path / 'out'}"]))
        opener = Opener(partial(build, "model", config["model"]), None)
        methods = bind_all(config["method"], GIVEN_TO_METHOD)
        run = prepare_run(config, opener, build("dataset", config["dataset"]), methods, [], lambda _: {})
        return [note for note in run.notes if "contrast" in note]

    usual = ["model=resnet18", "model.weights=random", "method=[center]"]
    (note,) = notes(*usual)
    assert "dataset.range=[LOW,HIGH]" in note and "\n" not in note
    assert notes(*usual, "dataset.range=[500,3500]") == []
    one = ["model=custom", f"model.target={__name__}:grey", "model.size=32", "method=[center]"]
    assert notes(*one, "model.mean=[0.03]", "model.std=[0.013]") == []


def test_four_channels_of_320_x_192(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(2):
        values = RNG.random((4, 200, 130), dtype=np.float32)
        np.save(root / f"{i}.npy", values if i else values.transpose(1, 2, 0))
    words = ["model=timm", "model.name=resnet18", "model.weights=random", "model.size=[320,192]", "dataset=folder"]
    channels = {"model.mean": [0.5] * 4, "model.std": [0.25] * 4, "dataset.range": [0, 1], "dataset.show": [3, 1, 0]}
    out = run(tmp_path, *words, **channels, **{"dataset.root": str(root), "transform": "pad"})
    rows = results(out)
    assert set(rows["height"]) == {320} and set(rows["width"]) == {192} and rows["insertion.auc"].notna().all()
    assert rows.loc[rows["method"] == "grad_cam", "map"].iloc[0].shape == (10, 6)
    case = page(out)["cases"][0]
    assert (case["height"], case["width"]) == (320, 192) and case["maps"][0]["shape"] == [10, 6]
    other = {**channels, "dataset.show": 2}
    again = results(run(tmp_path / "b", *words, **other, **{"dataset.root": str(root), "transform": "pad"}))
    pairs = rows.merge(again, on=["case_id", "method", "layer"])
    alike = (pairs["deletion.auc_x"] - pairs["deletion.auc_y"]).abs() < 1e-6
    assert alike[pairs["method"] != "edges"].all() and not alike[pairs["method"] == "edges"].all()


def test_volumes_with_labels_find_what_was_planted(tmp_path: Path) -> None:
    """Files of the crash test's volumes, one mechanism, with a network that is known to see them."""
    words = ["model=planted", "model.rank=3", "model/mechanism@model.mechanisms=[additive,blind,distractor]"]
    root = tmp_path / "volumes"
    for case in planted(network=build("model", compose_config(words).model), pictures=2).cases:
        image, masks = case.load()
        assert masks is not None
        for folder, values in (
            ("", image),
            ("labels", (masks * torch.arange(1, 1 + len(masks)).view(-1, 1, 1, 1)).sum(0)),
        ):
            path = root / folder / case.class_name / f"{case.image_id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, values.numpy().astype(np.uint8))
    metric = ["deletion", "insertion", "pointing_game", "energy_pointing_game", "box_coverage", "mask_iou", "road"]
    out = run(
        tmp_path, *words, "dataset=volumes", "dataset.class_map=sorted", f"dataset.root={root}", f"metric={metric}"
    )
    rows = results(out)
    assert all(boxes.shape == (len(boxes), 6) and len(boxes) > 1 for boxes in rows["boxes"])
    assert not [name for name in rows if name.startswith("road")]
    means = rows.groupby("method")[
        ["pointing_game.hit", "box_coverage.coverage", "mask_iou.iou", "insertion.auc"]
    ].mean()
    assert (means.loc["grad_cam"] > [0.99, 0.95, 0.9, 0.8]).all()
    share = rows["box_area"].mean()
    assert abs(means.loc["random", "box_coverage.coverage"] - share) < 0.02
    case = page(out)["cases"][0]
    assert (case["height"], case["width"]) == (96, 96)
    kept = [one for one in case["maps"] if "data" in one]
    assert kept and all(one["shape"] == [96, 96] and one["picture"] and one["boxes"] is not None for one in kept)


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18"])
def test_a_video_network(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "clip.npy", RNG.integers(0, 256, (6, 30, 20, 3), dtype=np.uint8))
    words = [f"model={name}", "model.weights=random", "model.size=[4,32,24]", "dataset=volumes"]
    out = run(tmp_path, *words, f"dataset.root={tmp_path}")
    rows = results(out)
    assert len(rows) == 6 and rows["deletion.auc"].notna().all()
    assert build("model", compose_config([f"model={name}", "model.weights=random"]).model).spec.shape == (
        3,
        16,
        112,
        112,
    )


def test_a_volume_network_of_ones_own_with_two_channels(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", RNG.random((2, 9, 14, 12), dtype=np.float32))
    (tmp_path / "boxes.csv").write_text("file,x0,y0,z0,x1,y1,z1\nv.npy,1,2,3,8,9,8\n")
    target = {"model.target": f"{__name__}:solid", "model.mean": [0.5, 0.5], "model.std": [0.2, 0.2], "model.size": 12}
    words = ["model=custom", "model.rank=3", "dataset=volumes", f"dataset.root={tmp_path}", "dataset.range=[0,1]"]
    rows = results(run(tmp_path, *words, "target=1", "metric=all", **target))
    assert rows["map"].iloc[0].ndim == 3
    assert rows["deletion.auc"].notna().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.mean=[.5,.5,.5,.5]", "model.std=[.5,.5,.5,.5]"],
            "a.png: the picture has 3 channels, and the network takes 4",
        ),
        (["dataset.show=3"], r"dataset.show=\[3\]: the network's input has channels 0 to 2"),
        (["model.size=[32,32,32]"], r"model.size=\[32, 32, 32\] must be one number of pixels or \[height, width\]"),
        (["model.mean=[.5]"], "model.mean has 1 values and model.std 3; give both one value a channel"),
        (["model.std=[.5,.5,0]"], r"model.std=\[0.5, 0.5, 0\] must be above 0"),
        (["dataset.range=[1,1]"], r"dataset.range=\[1, 1\] must be the values that are black and white"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "pictures" / "a.png")
    given = ["model=timm", "model.name=resnet18", "model.weights=random", "model.size=32", "dataset=folder", *words]
    with pytest.raises(UserError, match=message):
        run(tmp_path, *given, f"dataset.root={tmp_path / 'pictures'}")


def test_colour_becomes_grey_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    target = {"model.target": f"{__name__}:grey", "model.mean": [0.5], "model.std": [0.2], "model.size": 32}
    out = run(tmp_path, "model=custom", "dataset=folder", f"dataset.root={tmp_path / 'pictures'}", **target)
    assert len(load_results(out)) == 18
    assert len([line for line in caplog.messages if "colour pictures become grey" in line]) == 1


def test_results_of_square_inputs_keep_their_folders(tmp_path: Path) -> None:
    """Keys that version 0.3.0 gave."""
    case = Case("a", "a", "cat", (3,), lambda: None, torch.tensor([[1.0, 2, 3, 4]]), difficult=torch.zeros(1) > 0)  # type: ignore[arg-type, return-value]
    settings = {"name": "folder", "root": "x", "_target_": "y", "range": None, "show": None}
    config = {"dataset": settings, "seed": 0, "target": "label", "precision": "float32", "out": str(tmp_path)}

    def key(**changes: Any) -> str:
        spec = {"size": (224, 224), "resize": 256, "mean": (0.5, 0.4, 0.3), "std": (0.2,) * 3} | changes
        facts = Facts("n", "w", "h", InputSpec(**spec), 5, (), {}, {})
        return protocol_folder(config, facts, [case], "stretch").path.name

    assert key() == "n-4f535f91da" and key(size=(224,) * 3) == "n-27a25a0c86"
    assert len({key(), key(size=(224, 112)), key(size=(112, 224)), key(size=(224,) * 3)}) == 4
    before = key()
    settings["show"] = [2, 1, 0]
    assert key() != before


def test_maps_of_a_transposed_picture_are_the_transposed_maps(tmp_path: Path) -> None:
    """By a network whose filters are transposed too: no axis is taken for the other on the way."""
    module = network(nn.Conv2d, 3)
    turned = network(nn.Conv2d, 3)
    turned.load_state_dict({k: v.mT if v.ndim == 4 else v for k, v in module.state_dict().items()})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pixels = RNG.integers(0, 256, (48, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "p.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "b" / "p.png")
    maps = []
    for name, one, size in (("a", module, (48, 24)), ("b", turned, (24, 48))):
        spec = InputSpec(size, 24, (0.5,) * 3, (0.2,) * 3)
        given = Network(name, one.eval(), spec, ["3"], "random", name)
        maps.append(explained(given, tmp_path / name / "p.png"))
    for method, first in maps[0].items():
        np.testing.assert_allclose(maps[1][method].T, first, atol=1e-4 * np.abs(first).max(), err_msg=method)


def test_one_picture_from_python(tmp_path: Path) -> None:
    """A file, its array and Pillow's picture give one map; a volume has three axes."""
    spec = InputSpec((32, 24), 24, (0.5,), (0.2,))
    given = Network("grey", grey().eval(), spec, ["3"], "random", "0")
    values = RNG.integers(0, 2**16, (32, 24), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    maps = [
        bench.explain_image(one, model=given, target=1).heatmap
        for one in (
            tmp_path / "a.png",
            values,
            values[..., None],
            values / np.float32(65535),
            Image.open(tmp_path / "a.png"),
        )
    ]
    for one in maps:
        np.testing.assert_allclose(one, maps[0], atol=1e-6)
    scored = bench.score_map(maps[0], values, model=given, target=1, boxes=[(1, 2, 9, 9)])
    assert np.isfinite(scored["deletion.auc"]) and np.isfinite(scored["box_coverage.coverage"])
    volumes = Network(
        "solid",
        solid().eval(),
        InputSpec((8, 9, 10), 8, (0.5,) * 2, (0.2,) * 2),
        ["3"],
        "random",
        "1",
        channels_last=False,
    )
    whole = RNG.random((2, 8, 9, 10))
    heat = bench.explain_image(whole, model=volumes, target=1).heatmap
    assert heat.shape == (8, 9, 10)
    assert np.isfinite(bench.score_map(heat, whole, ["insertion"], model=volumes, target=1)["insertion.auc"])
    with pytest.raises(UserError, match=r"a map has three dimensions \(depth, height, width\)"):
        bench.score_map(heat[0], whole, model=volumes)
    with pytest.raises(UserError, match="the network's 2 channels"):
        bench.explain_image(whole[0][None], model=volumes)


def explained(given: Network, path: Path) -> dict[str, np.ndarray]:
    methods = (
        "grad_cam",
        "layer_cam",
        "eigen_cam",
        "score_cam",
        "feature_entropy",
        "edges",
        "center",
        "integrated_gradients",
    )
    return {name: bench.explain_image(path, name, model=given, target=1).heatmap for name in methods}
