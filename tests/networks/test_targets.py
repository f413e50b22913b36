"""A user's function as the target: every score, gradient and curve is the function's, and mistakes are one line."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_targets
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from small_networks import batch_of
from torch import Tensor, nn

import bench
from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind
from bench.datasets.transforms import seen_batch
from bench.maps.capture import Captured
from bench.maps.jobs import shared_pass
from bench.maps.method_inputs import offered
from bench.maps.scorer import Scorer
from bench.maps.target_scores import read_output
from bench.maps.targets import region
from bench.networks import sources
from bench.networks.layers import resolve_layers
from bench.networks.outputs import target_function, target_name
from bench.networks.own import custom_model
from bench.networks.sources import torchvision_model
from bench.options import conf_node
from bench.runs.rows import metric_columns
from bench.types import Batch, Network, UserError

STEPS = 4
custom = partial(custom_model, name="custom", size=32, any_output=True)
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
# Network, settings, its layer, target: what users bring.
KINDS = [
    ("dense", {"output": "out"}, "body.3", "second"),
    ("dense", {"output": "out"}, "body.3", "objects"),
    ("embeds", {}, "body.1", "like"),
    ("embeds", {}, "body.1", "by_case"),
    ("regresses", {}, "body.1", "age"),
    ("detects", {}, "body.1", "found"),
]


def cases(target: str, images: Tensor = IMAGES) -> Batch:
    """Two pictures; the first is asked about twice, for classes with names of another length."""
    batch = batch_of(images[[0, 0, 1]])
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[:, 4:20, 8:30] = True
    return replace(
        batch, image_ids=["a", "a", "b"], class_names=["cat", "bird", "horse"], masks=[masks, masks.flip(2), None],
        boxes=[torch.zeros(1, 4), torch.zeros(1, 4), torch.tensor([[3.0, 2, 9, 12]])],
        explains=target_function(f"own_targets:{target}"),
    )  # fmt: skip


def by_hand(module: nn.Module, settings: dict[str, Any], target: str, images: Tensor, batch: Batch) -> Tensor:
    """Scores (3,) from the network as the user wrote it."""
    rows = []
    for i in range(3):
        output = module(images[i : i + 1])
        name = target
        if isinstance(output, dict):
            output = output[settings["output"]]
        if name == "second":
            rows.append(output[0, 1][output[0].argmax(0) == 1].sum())
        elif name == "objects":
            inside = torch.zeros(32, 32, dtype=torch.bool)
            inside[[slice(4, 20), slice(4, 20), slice(2, 12)][i], [slice(8, 30), slice(2, 24), slice(3, 9)][i]] = True
            rows.append(output[0, 1][inside].sum())
        elif name == "like":
            reference = torch.tensor([1.0, -2, 0.5, 3], dtype=output.dtype)
            rows.append(output[0] @ reference / output[0].norm() / reference.norm())
        elif name == "by_case":
            rows.append(output[0, [3, 0, 1][i]])
        elif name == "age":
            rows.append(output[0, 0])
        else:
            rows.append(sum(s for s, k in zip(output[0]["scores"], output[0]["labels"], strict=True) if k == 2))
    return torch.stack([torch.as_tensor(row) for row in rows])


def written(factory: str) -> nn.Module:
    return getattr(own_targets, factory)().eval()


def built(factory: str, settings: dict[str, Any], layer: str) -> Network:
    return custom(target=f"own_targets:{factory}", layers=[layer], **settings)


@pytest.mark.parametrize(("factory", "settings", "layer", "target"), KINDS, ids=[kind[3] for kind in KINDS])
def test_activations_and_gradients_are_those_of_the_score(
    factory: str, settings: dict[str, Any], layer: str, target: str
) -> None:
    network, batch, module = built(factory, settings, layer), cases(target), written(factory)
    kept: list[Tensor] = []
    handle = module.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.append(output))
    scores = by_hand(module, settings, target, batch.images, batch)
    handle.remove()
    grads = torch.autograd.grad(scores.sum(), kept)
    captured = shared_pass(network.module, batch, [layer], True, torch.contiguous_format, network.reshape)
    torch.testing.assert_close(captured.logits[:, 0], scores.detach())
    torch.testing.assert_close(captured.layers[layer].acts, torch.cat(kept).detach())
    torch.testing.assert_close(captured.layers[layer].grads, torch.cat(grads))
    assert all(grad.abs().max() > 0 for grad in grads)
    wide = shared_pass(network.module, batch, [layer], True, torch.contiguous_format, network.reshape, float64=True)
    torch.testing.assert_close(wide.logits, captured.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide.layers[layer].grads, captured.layers[layer].grads, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("factory", "settings", "layer", "target"), KINDS, ids=[kind[3] for kind in KINDS])
@pytest.mark.parametrize("pad", [False, True])
def test_what_methods_and_metrics_ask_for_is_the_score(
    factory: str, settings: dict[str, Any], layer: str, target: str, pad: bool
) -> None:
    """Of changed pictures of any of the cases, in any order."""
    network, batch, module = built(factory, settings, layer), cases(target), written(factory)
    order = torch.tensor([2, 0, 1, 1])
    changed = batch.images + 0.3
    expected = by_hand(module, settings, target, changed, batch).detach()[order]
    score = Scorer(network.module, batch.targets, 3, pad=pad, probability="none", read=partial(read_output, batch))
    torch.testing.assert_close(score(changed[order], order), expected)
    torch.testing.assert_close(score.logit(changed[order], order), expected)
    captured = shared_pass(network.module, batch, [layer], True, torch.contiguous_format)
    offer = offered(network.module, layer, captured.layers[layer], captured.logits, batch, score)
    torch.testing.assert_close(offer["logits"]()(changed[order], order)[:, 0], expected)
    torch.testing.assert_close(offer["module"]()(changed)[:, 0][order], expected)
    part = offer["module"]().get_submodule(offer["layer_name"]())
    assert part is network.module.get_submodule(layer)
    acts, grads, logits = offer["gradient"]()(changed[order], order)
    torch.testing.assert_close(logits[:, 0], expected)
    other = shared_pass(network.module, replace(batch, images=changed), [layer], True, torch.contiguous_format)
    torch.testing.assert_close(logits, other.logits[order])
    if target != "by_case":  # whose picture is another in its two cases there
        torch.testing.assert_close(grads, other.layers[layer].grads[order])
    again = offer["forward_from"]()(acts, order)
    torch.testing.assert_close(again[:, 0], expected)


def test_two_cases_of_one_image_have_their_own_score() -> None:
    network, batch = built("embeds", {}, "body.1"), cases("by_case")
    own_targets.calls.clear()
    captured: Captured = shared_pass(network.module, batch, ["body.1"], True, torch.contiguous_format)
    assert own_targets.calls == [batch.ids]
    assert captured.logits[0] != captured.logits[1]
    assert not torch.equal(captured.layers["body.1"].grads[0], captured.layers["body.1"].grads[1])


def test_curves_of_a_regression_are_in_its_unit() -> None:
    """Deletion and insertion by plain loops: years, not a probability, also below 0."""
    network, plain = built("regresses", {}, "body.1"), written("regresses")
    with torch.no_grad():
        for one in (network.module.fc, plain.fc):
            one.weight.mul_(-30)
    batch = replace(batch_of(IMAGES), explains=target_function("own_targets:age"))
    heatmaps = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(4))
    score = Scorer(network.module, batch.targets, 4, probability="none", read=partial(read_output, batch))
    metric = bind("deletion", conf_node("metric", "deletion") | {"steps": STEPS}, GIVEN_TO_METRIC)
    columns = metric_columns(metric, "deletion", heatmaps, batch, score)
    for image, heat, row in zip(IMAGES.double().numpy(), heatmaps.numpy(), columns, strict=True):
        order, expected = np.argsort(-heat.ravel(), kind="stable"), []
        for step in range(STEPS + 1):
            removed = image.copy().reshape(3, -1)
            removed[:, order[: step * 1024 // STEPS]] = 0
            with torch.no_grad():
                expected.append(float(plain(torch.from_numpy(removed.reshape(1, 3, 32, 32)).float())))
        np.testing.assert_allclose(row["deletion.curve"], expected, rtol=1e-5)
        area = sum((a + b) / 2 / STEPS for a, b in zip(expected, expected[1:], strict=False))
        assert row["deletion.auc"] == pytest.approx(area, rel=1e-5) and abs(area) > 1


def test_region_of_a_segmentation_by_hand() -> None:
    output = torch.zeros(1, 2, 2, 3)
    output[0, 1] = torch.tensor([[2.0, -1, 0.5], [0, 3, -4]])  # higher than class 0 in three pixels
    batch = replace(batch_of(torch.zeros(1, 3, 2, 3)), boxes=[torch.tensor([[1.0, 0, 3, 1]])])
    assert region(output, batch, index=1) == 5.5
    assert region(output, batch, index=1, over="all") == 0.5
    assert region(output, batch, index=1, over="objects") == -0.5
    masks = torch.tensor([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]]).bool()
    assert region(output, replace(batch, masks=[masks]), index=1, over="objects") == 5.5
    with pytest.raises(UserError, match="over=some is unknown; it takes predicted, objects, all"):
        region(output, batch, index=1, over="some")


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large"])
def test_networks_of_torchvision_that_segment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their names, with their dict as the output; at a small size, as 520 pixels take seconds."""
    finish = sources.finish
    monkeypatch.setattr(sources, "finish", lambda name, module, spec, *rest, **more: finish(
        name, module, replace(spec, size=64), *rest, **more))  # fmt: skip
    network = torchvision_model(name=name, weights="random", output="out", any_output=True)
    layer = {"l": "backbone.16"}.get(name[0], "backbone.layer4")
    assert network.layers == [] and network.probability == "none"
    with pytest.raises(UserError, match="no default layer.* name one with layer="):
        resolve_layers(network, None)
    batch = replace(cases("second", torch.randn(2, 3, 64, 64)), explains=partial(region, index=3, over="all"))
    captured = shared_pass(network.module, batch, [layer], True, torch.contiguous_format, network.reshape)
    grad = captured.layers[layer].grads
    assert grad.shape == captured.layers[layer].acts.shape and grad.abs().amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(captured.logits[:, 0], network.module(batch.images)[:, 3].sum((1, 2)), rtol=1e-3, atol=1)
    with pytest.raises(UserError, match=r"gives \(2, 21, 64, 64\), which are not logits.*target=package"):
        torchvision_model(name=name, weights="random", output="out")


RUN = [
    "model=custom", "model.size=32", "model.weights=default", "limit=3", "gallery.cases=2", "device=cpu", "batch=4",
    "score_batch=4", "compile=false",
]  # fmt: skip


def test_a_run_from_pictures_to_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, "model.target=own_targets:dense", "model.output=out", "layer=body.3", "target=own_targets:objects"]
    words.append("metric.deletion.steps=4")
    methods = ["grad_cam", "layer_cam", "score_cam", "ablation_cam", "cam", "finer_cam", "gradient", "random"]
    methods += ["guided_grad_cam", "pytorch_grad_cam"]
    metrics = ["deletion", "box_coverage", "class_sensitivity", "gt_known", "complexity"]
    table = bench.run(*words, "quiet=false", method=methods, metric=metrics, out=tmp_path)
    said = capsys.readouterr().err
    assert "left out, because a function is explained and no class: cam, finer_cam" in said
    assert "left out, because a function is explained and no class: class_sensitivity" in said
    assert set(table["method"]) == set(methods) - {"cam", "finer_cam", "pytorch_grad_cam"}
    cases = bench.load_results(tmp_path)
    assert cases["predicted"].isna().all() and cases["probability"].abs().max() > 1
    (protocol,) = tmp_path.glob("*/*/_protocol.yaml")
    parameters = yaml.safe_load(protocol.read_text())["parameters"]
    assert parameters["target"] == target_name("own_targets:objects") and parameters["probability"] == "none"
    page = (tmp_path / "report.html").read_text()
    assert "mean explained score" in page and "lower is better, explained score" in page.replace("\n", " ")
    assert "mean target probability" not in page and "hardly sees" not in page
    breakdown = pd.read_csv(tmp_path / "breakdown.csv")
    assert "probability" not in set(breakdown["by"])


def test_changed_code_or_parameters_are_another_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    names = {}
    for version, text in {
        "first": "value = partial(bench.maps.targets.value, index=0)",
        "same": "value = partial(bench.maps.targets.value, index=0)",
        "parameter": "value = partial(bench.maps.targets.value, index=1)",
        "code": "def value(output, cases):\n    return output[:, 0]",
        "other code": "def value(output, cases):\n    return output[:, 0] * 2",
    }.items():
        folder = tmp_path / version.replace(" ", "_")
        folder.mkdir()
        (folder / "changing_target.py").write_text(
            f"from functools import partial\nimport bench.maps.targets\n{text}\n"
        )
        monkeypatch.syspath_prepend(str(folder))
        sys.modules.pop("changing_target", None)
        names[version] = target_name("changing_target:value")
    assert names["first"] == names["same"] and len(set(names.values())) == 4
    assert all(name.startswith("value(code=") for name in names.values())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["target=own_targets:pixels"], r"=own_targets:pixels gives a tensor \(3, 4\) for 3 pictures, not a score"),
        (["target=own_targets:labels"], r"gives a tensor \(3,\) for 3 pictures"),
        (["target=own_targets:fails"], r"target=own_targets:fails raised AttributeError: .*own_targets\.py line \d+"),
        (["target=own_targets:nothing"], "cannot be imported"),
        (["target=own_targets:SIDE"], "is no function"),
        (["target=own_targets:age", "method=[cam]"], "left out, because a function is explained and no class: cam"),
        (["target=own_targets:age", "dataset=mosaic"], "dataset=mosaic asks which classes the network recognizes"),
        (["target=own_targets:age", "model.probability=sigmoid"], "model.probability=sigmoid is about classes"),
        (["target=lable"], "it takes label, predicted, an output index or package.module:function"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    own = [*RUN, "model.target=own_targets:embeds", "metric=[complexity]", *words]
    if not any(word.startswith("method=") for word in own):
        own.append("method=[grad_cam]")
    with pytest.raises(UserError, match=line) as raised:
        bench.run(*own, out=tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("words", ["scale=[1,1.5]", "augment=[flip,scales]"])
@pytest.mark.parametrize(("factory", "target"), [("dense", "objects"), ("detects", "found"), ("embeds", "by_case")])
def test_functions_score_pictures_of_other_sizes(words: str, factory: str, target: str, tmp_path: Path) -> None:
    own = [f"model.target=own_targets:{factory}", f"target=own_targets:{target}", "layer=body.1", words]
    own += ["model.output=out"] * (factory == "dense") + ["method=[grad_cam,score_cam]", "metric=[box_coverage]"]
    table = bench.run(*RUN, *own, out=tmp_path)
    other = {"scale": "body.1@1.5", "augment": "body.1@scales_flip"}[words.partition("=")[0]]
    assert set(table["layer"]) == {"body.1", other}
    assert not bench.load_results(tmp_path)["degenerate"].any()


@pytest.mark.parametrize("scale", [1.5, -1.5, -1])
def test_a_score_over_objects_looks_at_them_at_their_place(scale: float) -> None:
    """Masks or boxes, at a larger size and in the mirror: by hand over the pixels of the larger output."""
    network, size, flip = built("dense", {"output": "out"}, "body.3"), abs(scale), scale < 0
    side = round(32 * size)
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(6))
    batch = cases("objects")
    samples = [SimpleNamespace(scaled={size: one.flip(2) if flip else one}) for one in images]
    if size == 1:
        batch = replace(batch, images=images.flip(3))
    batch = seen_batch(batch, samples, scale)
    torch.testing.assert_close(batch.images, images)
    scores = read_output(batch, network.module(images))[:, 0]
    for i, (rows, columns) in enumerate([((4, 20), (8, 30)), ((4, 20), (2, 24)), ((2, 12), (3, 9))]):
        inside = torch.zeros(side, side, dtype=torch.bool)
        if flip:
            columns = (32 - columns[1], 32 - columns[0])
        whole = [round(edge * size) for edge in (*rows, *columns)]
        inside[whole[0] : whole[1], whole[2] : whole[3]] = True
        off = abs(float(scores[i] - written("dense")(images[i : i + 1])["out"][0, 1][inside].sum().detach()))
        assert off < (1e-4 if size == 1 else 0.04) * abs(float(scores[i]))


PICTURE = np.random.default_rng(5).integers(0, 255, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("factory", "settings", "layer", "target"), KINDS[:1] + KINDS[2:5:2], ids=lambda kind: str(kind)
)
def test_a_picture_is_explained_by_a_function(
    factory: str, settings: dict[str, Any], layer: str, target: str, tmp_path: Path
) -> None:
    """As a run explains it with ``target=module:function``, and by hand: Grad-CAM, score, insertion's first point."""
    Image.fromarray(PICTURE).save(tmp_path / "one.png")
    words = ["model=custom", f"model.target=own_targets:{factory}", "model.size=32", f"layer={layer}"]
    words += [f"model.{key}={value}" for key, value in settings.items()]
    words += ["dataset=folder", f"dataset.root={tmp_path}", "transform=stretch", "save_maps=all", "gallery.cases=0"]
    bench.run(*words, "method=[grad_cam]", "metric=[deletion]", f"target=own_targets:{target}", out=tmp_path / "out")
    row = bench.load_results(tmp_path / "out").iloc[0]
    network = built(factory, settings, layer)
    function = getattr(own_targets, target)
    answer = bench.explain_image(PICTURE, "grad_cam", model=network, target=function)
    assert answer.probability == pytest.approx(row["probability"], rel=1e-5) and abs(answer.probability) > 1e-3
    assert (answer.target, answer.name, answer.layer) == ((0,), "", layer)
    native = torch.tensor(row["map"])[None, None]
    whole = nn.functional.interpolate(native, (32, 32), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(answer.heatmap, whole, rtol=1e-4, atol=1e-6 * float(whole.max()))
    scores = bench.score_map(answer.heatmap, PICTURE, ["deletion"], model=network, target=function)
    assert scores["deletion.auc"] == pytest.approx(row["deletion.auc"], rel=0.01)  # its ties have another order
    assert scores["deletion.curve"][0] == pytest.approx(answer.probability, rel=1e-5)


def test_a_module_that_returns_a_dict_is_explained_by_a_function() -> None:
    module = written("dense")

    def third(output: dict[str, Tensor], cases: Batch) -> Tensor:
        return output["out"][:, 2, :, :100].sum((1, 2))

    answer = bench.explain_image(PICTURE, "grad_cam", model=module, target=third, layer="body.3")
    assert answer.heatmap.shape == (32, 32) and answer.degenerate == ""
    for name in ("score_cam", "gradient", "smooth_grad_cam_pp"):
        other = bench.explain_image(PICTURE, name, model=module, target=third, layer="body.3")
        assert np.isfinite(other.heatmap).all() and np.ptp(other.heatmap) > 0, name


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"method": "cam"}, "left out, because a function is explained and no class: cam"),
        ({"target": own_targets.pixels}, r"target=pixels gives a tensor \(1, 4\) for 1 pictures, not a score for each"),
        ({"target": own_targets.fails}, r"target=fails raised AttributeError: .*own_targets\.py line \d+"),
    ],
)
def test_mistakes_with_a_function_are_one_line(options: dict[str, Any], line: str) -> None:
    options = {"target": own_targets.age, "model": built("embeds", {}, "body.1"), **options}
    with pytest.raises(UserError, match=line) as raised:
        bench.explain_image(PICTURE, **options)
    assert "\n" not in str(raised.value)


def test_methods_of_classes_say_so() -> None:
    needing = [name for name in ("cam", "finer_cam") if "classes" in conf_node("method", name)["about"]["needs"]]
    assert needing == ["cam", "finer_cam"]
    assert bind("cam", conf_node("method", "cam"), GIVEN_TO_METHOD).about["needs"] == ["classes"]
