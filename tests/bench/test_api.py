"""Use from Python says what the command line says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import bench
from bench.api import explain_image, score_map
from bench.config import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, compose_config, written
from bench.datasets.collage import collage
from bench.networks.sources import torchvision_model
from bench.types import Batch, Network, UserError

STEPS = ("metric.deletion.steps=2", "metric.insertion.steps=2", "gallery.cases=0")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    folder = tmp_path_factory.mktemp("from python")
    table = bench.run(*STEPS, method=["grad_cam", "edges"], limit=2, out=folder, layer=["bn2.act"])
    return table, folder


def test_run_returns_what_was_asked_for_and_writes_it(results: tuple[pd.DataFrame, Path]) -> None:
    table, folder = results
    written_out = pd.read_csv(folder / "summary.csv")
    assert list(written_out.columns) == list(table.columns)
    for name in ("layer", "method", "metric", "mean", "ci_low", "ci_high", "difference", "n"):
        pd.testing.assert_series_equal(table[name], written_out[name], check_dtype=False, check_exact=False, rtol=1e-4)
    assert set(table.method) == {"grad_cam", "edges"} and table.n.max() == 2
    again = bench.run(*STEPS, method="edges", limit=2, out=folder, layer="bn2.act", reference="edges")
    assert set(again.method) == {"edges"}  # not the other one, which lies in the same folder


def test_load_results_has_a_row_a_case_method_and_layer(results: tuple[pd.DataFrame, Path]) -> None:
    cases = bench.load_results(results[1])
    assert len(cases) == 4
    assert not cases.duplicated(["case_id", "method", "layer", "protocol"]).any()
    assert list(cases.columns[:6]) == ["dataset", "model", "protocol", "method", "layer", "case_id"]
    means = cases.groupby("method")["box_coverage.coverage"].mean()
    table = results[0].query("metric == 'box_coverage.coverage'").set_index("method")["mean"]
    pd.testing.assert_series_equal(means, table.sort_index(), check_names=False)


def test_load_results_gives_maps_and_boxes_as_arrays(results: tuple[pd.DataFrame, Path]) -> None:
    bench.run("gallery.cases=0", method=["grad_cam", "edges"], metric=["pointing_game"], limit=2, out=results[1])
    cases = bench.load_results(results[1]).query("layer != 'blocks.6.0.bn2.act'")
    assert len(cases) == 4  # the later metric stands beside the earlier ones, in the same rows
    assert cases["pointing_game.hit"].notna().all() and cases["box_coverage.coverage"].notna().all()
    for row in cases.itertuples():
        assert row.boxes.shape == (row.n_instances, 4)
        assert row.map.shape == (7, 7) if row.method == "grad_cam" else row.map is None


def test_one_picture_is_explained_and_scored_as_in_a_run(results: tuple[pd.DataFrame, Path]) -> None:
    cases = bench.load_results(results[1]).query("method == 'grad_cam' and layer == 'bn2.act'").set_index("case_id")
    scenes = {case.id: case for case in collage()}
    assert len(cases) == 2
    for name, row in cases.iterrows():
        case = scenes[str(name)]
        picture = case.load()[0].permute(1, 2, 0).numpy()
        explained = explain_image(picture, "grad_cam", target=case.target)
        assert explained.layer == "bn2.act" and explained.degenerate == "" and explained.target == case.target
        assert explained.probability == pytest.approx(row["probability"], abs=1e-5)
        scored = score_map(explained.heatmap, picture, target=case.target, boxes=case.boxes.tolist())
        # coverage needs no network; the scene has the input's size, so that nothing is resized
        for value in ("coverage", "min_coverage", "purity", "evenness", "curve_area"):
            key = f"box_coverage.{value}"
            assert scored[key] == pytest.approx(row[key], abs=1e-4, nan_ok=True)
        two = score_map(explained.heatmap, picture, ["deletion"], target=case.target)
        assert 0 < two["deletion.auc"] < 1


def test_map_of_any_size_comes_to_the_input() -> None:
    network = torchvision_model(name="resnet18", weights="random")
    picture = np.zeros((100, 300, 3), np.uint8)
    mine = np.zeros((10, 30))
    mine[:, 20:] = 1  # the right third
    boxes = [(200, 0, 300, 100)]
    scored = score_map(mine, picture, ["box_coverage", "pointing_game"], model=network, boxes=boxes)
    assert scored["pointing_game.hit"] == 1
    assert scored["box_coverage.coverage"] > 0.95
    turned = score_map(mine[:, ::-1].copy(), picture, ["box_coverage"], model=network, boxes=boxes)
    assert turned["box_coverage.coverage"] < 0.05


BOXES = [(10, 10, 60, 60), (70, 30, 95, 90)]


@pytest.fixture(scope="module")
def random_network() -> Network:
    return torchvision_model(name="resnet18", weights="random")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e60])
def test_a_map_that_is_not_finite_says_nothing(bad: float, random_network: Network) -> None:
    picture = np.zeros((100, 100, 3), np.uint8)
    heatmap = np.zeros((20, 20))
    heatmap[:5] = bad
    metrics = ["box_coverage", "pointing_game", "energy_pointing_game", "relevance", "complexity"]
    scored = score_map(heatmap, picture, metrics, model=random_network, boxes=BOXES)
    zero = score_map(np.zeros((20, 20)), picture, metrics, model=random_network, boxes=BOXES)
    assert scored.pop("degenerate") == "nonfinite" and zero.pop("degenerate") == "zero"
    np.testing.assert_equal(scored, zero)  # NaN equals NaN
    share = (50 * 50 + 25 * 60) / 100**2
    assert scored["energy_pointing_game.energy"] == pytest.approx(share, abs=0.01)
    assert scored["box_coverage.purity"] == pytest.approx(share, abs=0.01)


def test_a_map_is_scored_as_a_run_scores_it(random_network: Network) -> None:
    """Its ReLU, masks and regions to ignore, and no position passed over."""
    picture = np.zeros((100, 100, 3), np.uint8)
    signed = np.zeros((20, 20))
    signed[:, 10:], signed[:, :10] = 1, -9
    right = [(50, 0, 100, 100)]
    scored = score_map(signed, picture, ["complexity"], model=random_network)
    assert scored["degenerate"] == "" and scored["complexity.mean"] == pytest.approx(0.5, abs=0.01)
    plain = score_map(signed, picture, ["complexity"], model=random_network, relu=False)
    assert abs(plain["complexity.entropy"] - scored["complexity.entropy"]) > 0.1

    dots = np.zeros((896, 896))
    dots[::4, 448::4] = 1  # linear sampling sees none of them
    scored = score_map(dots, picture, ["energy_pointing_game"], model=random_network, boxes=right)
    assert scored["energy_pointing_game.energy"] == pytest.approx(1, abs=0.01)

    point = np.zeros((100, 100))
    point[:20, :20] = 1
    masks = np.zeros((1, 100, 100))
    masks[0, 60:, 60:] = masks[0, :3, 60:] = masks[0, 60:, :3] = 1  # the map's point is in its box only
    metrics = ["pointing_game", "relevance", "pxap"]
    by_box = score_map(point, picture, metrics, model=random_network, boxes=[(0, 0, 100, 100)])
    by_mask = score_map(point, picture, metrics, model=random_network, masks=masks)
    assert (by_box["pointing_game.hit"], by_mask["pointing_game.hit"]) == (1, 0)
    whole = score_map(point, picture, metrics, model=random_network, masks=masks, boxes=[(0, 0, 100, 100)])
    np.testing.assert_equal(by_mask, whole)
    ignored = score_map(point, picture, metrics, model=random_network, masks=masks, ignore=[(0, 0, 30, 30)])
    assert ignored["pxap.ap"] > by_mask["pxap.ap"] + 0.01


def test_metrics_that_need_what_is_not_there_are_left_out(
    random_network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    picture, heatmap = np.zeros((100, 100, 3), np.uint8), np.eye(20)
    scored = score_map(heatmap, picture, ["pointing_game", "complexity"], model=random_network)
    assert set(scored) == {"degenerate", "complexity.mean", "complexity.entropy"}
    assert "there are no boxes: pointing_game" in caplog.text
    scored = score_map(heatmap, picture, ["grid_pointing_game"], model=random_network, boxes=BOXES)
    assert scored == {"degenerate": ""} and "the pictures are no mosaics: grid_pointing_game" in caplog.text
    mistakes = {
        "2 boxes, 100, 100": np.ones((1, 100, 100)),
        "as the picture is": np.ones((2, 9, 9)),
        "a mask is empty": np.zeros((2, 100, 100)),
        "masks are": np.ones((100, 100)),
    }
    for message, masks in mistakes.items():
        with pytest.raises(UserError, match=message):
            score_map(heatmap, picture, ["complexity"], model=random_network, boxes=BOXES, masks=masks)


def test_a_function_is_a_method_and_the_picture_may_be_grey_or_a_file(tmp_path: Path) -> None:
    from skimage.io import imsave

    network = torchvision_model(name="resnet18", weights="random")
    grey = np.random.default_rng(0).integers(0, 255, (50, 80)).astype(np.uint8)
    imsave(tmp_path / "grey.png", grey)

    def channel(acts: torch.Tensor, *, number: int = 3) -> torch.Tensor:
        return acts[:, number]

    found = explain_image(grey, channel, model=network, layer="layer3")
    same = explain_image(tmp_path / "grey.png", channel, model=network, layer="layer3")
    assert found.heatmap.shape == (50, 80) and found.layer == "layer3"
    np.testing.assert_allclose(found.heatmap, same.heatmap)
    assert explain_image(grey, "center", model=network).layer == "-"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "grad_cm"}, "did you mean grad_cam"),
        ({"model": "vgg61"}, "vgg16"),
        ({"layer": "layer*"}, "layers; a picture is explained at one"),
        ({"target": 1000}, "outputs 0 to 999"),
        ({"target": -1}, "output -1, but the network has outputs 0 to 999"),
        ({"target": [3, -5000]}, "output -5000"),
        ({"target": "tabby"}, "target=tabby is no output index"),
        ({"target": 1.5}, "target=1.5 is no output index"),
        ({"image": np.zeros((5, 5, 3))}, "img_as_ubyte"),
        ({"image": np.zeros((3, 5, 5), np.uint8)}, "uint8 array"),
        ({"image": "missing.png"}, "missing.png cannot be read"),
    ],
)
def test_mistakes(asked: dict, message: str) -> None:
    network = torchvision_model(name="resnet18", weights="random")
    with pytest.raises(UserError, match=message):
        explain_image(**{"image": np.zeros((9, 9, 3), np.uint8), "model": network, **asked})


def test_more_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results under"):
        bench.load_results(tmp_path)
    with pytest.raises(UserError, match="did you mean limit"):
        bench.run(limits=3)
    with pytest.raises(UserError, match="two dimensions"):
        score_map(np.zeros(3), np.zeros((9, 9, 3), np.uint8))
    network = torchvision_model(name="resnet18", weights="random")
    # four boxes of three numbers are as many numbers as three boxes
    for boxes in ([(1, 2, 3)], [(1, 2, 3)] * 4, (1, 2, 3, 4), [(1, 2, 3, 4), (1, 2)], [("a", 2, 3, 4)]):
        with pytest.raises(UserError, match="boxes are rows of four numbers"):
            score_map(np.zeros((9, 9)), np.zeros((9, 9, 3), np.uint8), ["box_coverage"], model=network, boxes=boxes)
    for asked in ({"workers": 2}, {"estimate": True}):
        with pytest.raises(UserError, match="python -m bench … (workers=N|estimate=true)"):
            bench.run(limit=1, out=tmp_path, **asked)
    with pytest.raises(UserError, match="workers=0 must be"):
        bench.run(workers=0, out=tmp_path)
    assert not list(tmp_path.iterdir())
    assert not hasattr(bench, "nothing")


MAP = np.arange(81, dtype=np.float32).reshape(9, 9)
ODD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a map with a graph": ({"heatmap": torch.tensor(MAP).requires_grad_()}, {}),
    "a map of half precision": ({"heatmap": torch.tensor(MAP).bfloat16()}, {}),
    "a sparse map": ({"heatmap": torch.tensor(MAP).to_sparse()}, {}),
    "a picture as map": ({"heatmap": Image.fromarray(MAP)}, {}),
    "lists as map": ({"heatmap": MAP.tolist()}, {}),
    "boxes with a graph": ({"boxes": torch.tensor([[2.0, 3, 6, 8]]).requires_grad_()}, {}),
    "masks with a graph": ({"masks": torch.ones(1, 9, 9).requires_grad_()}, {"masks": np.ones((1, 9, 9))}),
    "pictures as masks": ({"masks": [Image.new("L", (9, 9), 255)]}, {"masks": np.ones((1, 9, 9))}),
}


@pytest.mark.parametrize("name", ODD)
def test_arrays_of_any_kind_are_scored_as_plain_ones(name: str, random_network: Network) -> None:
    given = {"heatmap": MAP, "image": np.zeros((9, 9, 3), np.uint8), "boxes": [(2, 3, 6, 8)], "model": random_network,
             "metrics": ["pointing_game", "box_coverage"]}  # fmt: skip
    odd, plain = ODD[name]
    np.testing.assert_equal(score_map(**given | odd), score_map(**given | plain))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"heatmap": [["a", "b"], ["c", "d"]]}, "two dimensions .* of numbers, not object"),
        ({"heatmap": [[1, 2], [3]]}, "two dimensions"),
        ({"heatmap": np.ones((3, 3)) + 1j}, "two dimensions"),
        ({"heatmap": None}, "two dimensions"),
        ({"image": [[1], [1, 2]]}, "a picture is a uint8 array"),
        ({"boxes": (box for box in [(1, 2, 3, 4)])}, "boxes are rows of four numbers"),
        ({"masks": [[1], [1, 2]]}, "masks are"),
        ({"masks": "x"}, "masks are"),
        ({"metrics": 5}, "unknown metric '5'"),
        ({"metrics": [None]}, "unknown metric 'None'"),
        ({"model": {"fc.weight": 1}}, r"model=\{'fc.weight': 1\} is no name of a network"),
        ({"model": torchvision.models.resnet18}, "is no name of a network, no torch.nn.Module"),
        ({"model": None}, "model=None is no name"),
        ({"target": np.arange(1000) == 5}, "is no output index"),
    ],
)
def test_odd_arguments_are_one_line(asked: dict[str, Any], message: str, random_network: Network) -> None:
    plain = {"heatmap": np.eye(9), "image": np.zeros((9, 9, 3), np.uint8), "boxes": [(2, 3, 6, 8)],
             "metrics": ["box_coverage"], "model": random_network}  # fmt: skip
    with pytest.raises(UserError, match=message) as raised:
        score_map(**plain | asked)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1500


def test_layers_that_are_no_names_are_one_line(random_network: Network) -> None:
    for layer in (5, random_network.module.layer4):
        with pytest.raises(UserError, match="has no layer"):
            explain_image(np.zeros((9, 9, 3), np.uint8), model=random_network, layer=layer)


@pytest.mark.parametrize("result", [None, np.zeros((1, 7, 7)), torch.zeros(1, 7, 7, dtype=torch.complex64)])
def test_what_a_method_of_ones_own_gives_is_checked(result: Any, random_network: Network) -> None:
    with pytest.raises(TypeError, match=r"gave .* instead of a tensor \(1, 7, 7\) of numbers"):
        explain_image(np.zeros((9, 9, 3), np.uint8), lambda acts: result, model=random_network)


@pytest.mark.parametrize("result", [None, {"x": 1.0}, torch.zeros(1)])
def test_what_a_metric_of_ones_own_gives_is_checked(result: Any, random_network: Network) -> None:
    with pytest.raises(TypeError, match="gave .* instead of a dict of tensors"):
        score_map(np.eye(9), np.zeros((9, 9, 3), np.uint8), lambda heatmaps, batch: result, model=random_network)


def weights_in_place(acts: torch.Tensor, grads: torch.Tensor) -> torch.Tensor:
    """Grad-CAM as tutorials write it."""
    acts *= grads.mean((2, 3), keepdim=True)
    return acts.sum(1).clamp_(min=0)


def test_a_method_that_writes_into_activations_changes_no_other(tmp_path: Path) -> None:
    words = {"model": "resnet18", "model.weights": "random", "metric": ["sparseness"], "limit": 1}
    both = bench.run(method=[weights_in_place, peak], out=tmp_path / "both", **words)
    alone = bench.run(method=[peak], out=tmp_path / "alone", **words)
    beside = both[both["method"].str.startswith("peak")]
    assert beside["mean"].tolist() == alone["mean"].tolist()


def test_a_metric_that_writes_into_the_maps_changes_no_other(random_network: Network) -> None:
    def erases(heatmaps: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        return {"sum": heatmaps.zero_().sum((1, 2))}

    scores = score_map(np.eye(9), np.zeros((9, 9, 3), np.uint8), [erases, spread], model=random_network)
    assert scores["erases.sum"] == 0 and scores["spread.range"] > 0


@pytest.mark.parametrize("word", ["--help", "-m", "--cfg=job", "grad_cam", 5])
def test_words_that_are_no_settings_are_one_line(word: Any) -> None:
    with pytest.raises(UserError, match="is no setting: write NAME=VALUE; options are for the command line"):
        bench.run(word, limit=1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        3,
        0.5,
        "a",
        "a b,c={x}",
        "it's",
        "a/b*.png",
        ["x.*", "y,z"],
        [1, None],
        {"name": "a b", "n": [1]},
    ],
)
def test_python_values_reach_the_config_as_they_are(value: object) -> None:
    assert compose_config([f"+mine={written(value)}"]).mine == value


def test_settings_of_what_was_not_chosen_are_passed_over_and_nothing_else() -> None:
    chosen = compose_config(["experiment=demo"], {"metric": ["pointing_game", "insertion"]}).metric
    assert set(chosen) == {"deletion", "insertion", "pointing_game"}  # the demo has settings for deletion
    assert {part.name for part in bind_all(chosen, GIVEN_TO_METRIC)} == {"insertion", "pointing_game"}
    for target in (None, "???", "os.system"):
        with pytest.raises(UserError, match="is refused"):
            bind_all({"deletion": {"_target_": target, "steps": 3}}, GIVEN_TO_METRIC)
    with pytest.raises(UserError, match="unknown metric 'delation'; did you mean deletion"):
        bind_all({"delation": {"steps": 3}}, GIVEN_TO_METRIC)
    with pytest.raises(UserError, match="unknown method 'deletion'"):
        bind_all({"deletion": {"steps": 3}}, GIVEN_TO_METHOD)
    with pytest.raises(UserError, match="not a config node"):
        bind_all({"deletion": 3}, GIVEN_TO_METRIC)


def peak(acts: torch.Tensor) -> torch.Tensor:
    return acts.amax(1)


def spread(heatmaps: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    return {"range": heatmaps.flatten(1).amax(1) - heatmaps.flatten(1).amin(1)}


def test_functions_and_modules_of_ones_own(tmp_path: Path) -> None:
    words = {
        "model": "resnet18",
        "model.weights": "random",
        "metric": ["box_coverage"],
        "limit": 2,
        "out": str(tmp_path),
    }
    table = bench.run(method=["center", peak], **words)
    names = set(table["method"])
    assert "center" in names and any(name.startswith("peak(code=") for name in names) and len(names) == 2
    assert set(bench.run(method=peak, **words)["method"]) == names - {"center"}
    module = torchvision.models.resnet18(weights=None).train()
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    explained = bench.explain_image(picture, peak, model=module)
    assert explained.heatmap.shape == (60, 80) and module.training and next(module.parameters()).requires_grad
    scored = bench.score_map(explained.heatmap, picture, [spread, "sparseness"], model=module)
    assert scored["spread.range"] > 0 and any(name.startswith("sparseness.") for name in scored)
    with pytest.raises(UserError, match="needs strange="):
        bench.explain_image(picture, lambda acts, strange: acts, model=module)


def test_a_hydra_program_may_call_it() -> None:
    from hydra import initialize_config_dir

    from bench.config import CONF

    with initialize_config_dir(str(CONF), version_base="1.3"):
        own = GlobalHydra.instance().hydra
        assert compose_config(["limit=3"]).limit == 3
        assert GlobalHydra.instance().hydra is own
