"""The picture at multiples of the network's input size: an axis of the sweep like the layer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contract import job_of, make_batch, make_network, maps, part
from counted_runs import Counted, contents, counted, rows_of
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.analysis.comparisons import compare_group, opponents_of
from bench.analysis.groups import group_folders
from bench.analysis.loading import load_group
from bench.config import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, build, compose_config
from bench.datasets.transforms import GEOMETRIES, prepare
from bench.maps.capture import capture
from bench.maps.heatmaps import upsample
from bench.maps.jobs import View, job_map
from bench.maps.scorer import Scorer
from bench.networks.network import finish
from bench.report import report
from bench.runs.cost import passes_of
from bench.runs.facts import shapes_at
from bench.runs.plan import parameters_of, plan_jobs
from bench.runs.setup.checks import other_views, scales_in
from bench.store.files import hash_key
from bench.store.folders import find_folders
from bench.types import Case, InputSpec, UserError, at_scale, plain_layer

__all__ = ["counted"]
ALONE = ["gallery.cases=0", "batch=16", "score_batch=4"]
SPEC = InputSpec(64, 72, (0.5,) * 3, (0.25,) * 3)


def bound(*names: str) -> list:
    return bind_all(compose_config([f"method=[{','.join(names)}]"]).method, GIVEN_TO_METHOD)


def maps_of(rows: pd.DataFrame) -> dict[tuple[str, str, str], Tensor]:
    """Kept maps by method, layer and case."""
    return {
        (row.method, row.layer, row.case_id): torch.tensor(np.reshape(row.map, row.map_shape))
        for row in rows.itertuples()
        if row.map is not None
    }


def test_scale_1_is_no_scale_and_another_only_adds(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,center]", "limit=2", "layer=[layer3,layer4]", "fuse=mean", f"out={tmp_path}", *ALONE]
    counted(*words)
    before = contents(tmp_path)
    assert counted(*words, "scale=1").computed == counted(*words, "scale=[1.0]").computed == 0
    counted(*words, "scale=[1,2]")
    after = contents(tmp_path)
    assert len(after) == 2 and {name: after[name] for name in before} == before
    assert len(find_folders(tmp_path)) == 1


def test_fuse_with_nothing_to_fuse_is_named(counted: Counted, tmp_path: Path) -> None:
    words = ["method=grad_cam", "limit=1", "fuse=product", f"out={tmp_path}", *ALONE]
    said = "fuse=product: nothing to fuse; name several layers or scales with layer= or scale="
    assert said in counted(*words, "layer=layer4").notes
    assert said not in counted(*words, "layer=[layer3,layer4]").notes


def test_keys_at_scale_1_are_those_without_scales() -> None:
    """Published results are found by their keys, so these may never change."""
    (method,) = bound("grad_cam")
    jobs = {job.layer: job.key for job in plan_jobs([method], ["a", "b"], {}, "mean", lambda _: {}, [1, 2])}
    own = [method.name, parameters_of(method)]
    assert jobs["a"] == hash_key([*own, "a", ()]) and jobs["fuse_mean"] == hash_key([*own, "fuse_mean", ["a", "b"]])
    names = ["a", "a@2", "a@fuse_mean", "b", "b@2", "b@fuse_mean", "fuse_mean", "fuse_mean@2", "fuse_mean@fuse_mean"]
    assert list(jobs) == names and len(set(jobs.values())) == 9
    assert jobs["a@fuse_mean"] == hash_key([*own, "a@fuse_mean", ["a", "a@2"]])


def test_a_method_without_a_layer_is_run_once() -> None:
    jobs = plan_jobs(bound("center", "gradient"), ["a"], {}, "mean", lambda _: {}, [1, 2])
    assert [(job.layer, job.scales) for job in jobs] == [("-", (1.0,))] * 2


def test_a_method_of_several_layers_is_fused_over_them_at_every_scale() -> None:
    jobs = plan_jobs(bound("refine_cam"), ["a", "b"], {}, "mean", lambda _: {}, [1, 2])
    assert [(job.layer, job.members) for job in jobs] == [
        ("fuse_product", [("a", 1), ("b", 1)]), ("fuse_product@2", [("a", 2), ("b", 2)]),
    ]  # fmt: skip


def test_a_method_says_how_it_is_fused() -> None:
    (method,) = bound("poly_cam")
    jobs = plan_jobs([method], ["a", "b"], {}, "mean", lambda _: {}, [1, 2])
    assert [(job.layer, job.fuse) for job in jobs] == [("fuse_backward", "backward"), ("fuse_backward@2", "backward")]
    # two forward passes for each channel, and one, at each of its layers and scales
    shapes = {"a": (3, 4, 5), "b": (10, 2, 2), "a@2": (3, 8, 10), "b@2": (10, 4, 4)}
    assert passes_of(jobs, [], shapes).own_forward == 2 * (7 + 21)
    wrong = replace(method, about={**method.about, "fuse": "forward"})
    with pytest.raises(UserError, match=r"poly_cam.about.fuse=forward is unknown; it takes mean, max, product, backw"):
        plan_jobs([wrong], ["a", "b"], {}, None, lambda _: {}, [1])


def test_a_backward_fused_map_is_made_of_the_layers_own_maps() -> None:
    """The earlier layer's first, whatever the size: from native maps, not from upsampled ones."""
    network, batch, (method,) = make_network(), make_batch(), bound("poly_cam")
    captured = capture(network, batch.images, batch.targets, ["1", "3"])
    score = Scorer(network, batch.targets, 4)
    (job,) = plan_jobs([method], ["1", "3"], {}, None, lambda _: {}, [1])
    ours = job_map(network, batch, captured, score, job, {})
    early, late = (maps(method, network, batch, layer) for layer in ("1", "3"))
    assert early.shape[1:] == (16, 24) and late.shape[1:] == (8, 12)
    down = nn.functional.interpolate(early[:, None], (8, 12), mode="bilinear")
    around, large = (nn.functional.interpolate(x, (16, 24), mode="bilinear")[:, 0] for x in (down, late[:, None]))
    expected = torch.where(around > 0, early / around, 0) * large
    assert expected.any()
    torch.testing.assert_close(ours, upsample(expected, (32, 48)), rtol=1e-4, atol=1e-6)


def test_a_map_at_a_scale_is_that_of_the_resized_picture(counted: Counted, tmp_path: Path) -> None:
    """By hand: the scene itself resized to 336 pixels, Grad-CAM, upsampled to 224, scored with the boxes of 224."""
    words = ["method=[grad_cam]", "metric=[box_coverage]", "limit=2", "layer=layer4", "scale=1.5", *ALONE]
    counted(*words, f"out={tmp_path}")
    rows = rows_of(tmp_path)
    assert rows["layer"].unique().tolist() == ["layer4@1.5"] and (rows["width"] == 224).all()
    network = build("model", compose_config(["model=resnet18", "model.weights=random"]).model, seed=0)
    (metric,) = bind_all(compose_config(["metric=[box_coverage]"]).metric, GIVEN_TO_METRIC)
    cases = {case.id: case for case in build("dataset", compose_config([]).dataset)}
    for row in rows.itertuples():
        case = cases[row.case_id]
        pixels = F.resize(case.load()[0], [336, 336], InterpolationMode(network.spec.interpolation), antialias=True)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.spec.mean, network.spec.std))
        image = ((pixels / 255 - mean) / std)[None]
        acts = nn.Sequential(*list(network.module.children())[:-2])(image).detach().requires_grad_()
        logits = network.module.fc(acts.mean((2, 3)))
        (grads,) = torch.autograd.grad(logits[0, list(case.target)].logsumexp(0), acts)
        expected = (grads.mean((2, 3), keepdim=True) * acts).sum(1).clamp(min=0).detach()
        native = torch.tensor(np.reshape(row.map, row.map_shape))
        assert native.shape == (11, 11)
        torch.testing.assert_close(native, expected[0], rtol=1e-3, atol=1e-5 * float(expected.max()))
        sample = prepare(case, network.spec, "stretch")
        batch = replace(_batch(sample), boxes=[sample.boxes])
        values = metric.call(upsample(native[None], (224, 224)), batch)
        assert float(values["coverage"][0]) == pytest.approx(getattr(row, "_" + str(_at(rows, "coverage"))), abs=1e-6)


def _at(rows: pd.DataFrame, output: str) -> int:
    """Place that `itertuples` gives a column whose name is no Python name."""
    return rows.columns.get_loc(f"box_coverage.{output}") + 1


def _batch(sample):
    from bench.datasets.transforms import collate

    return collate([sample], SPEC, torch.device("cpu"))


def test_methods_with_passes_of_their_own_see_the_pictures_of_the_scale() -> None:
    """As of a batch of larger pictures: scores, changed activations and gradients are of that size."""
    network, batch = make_network(), make_batch()
    larger = replace(batch, images=torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2)))
    captured = [capture(network, one.images, one.targets, ["3"]) for one in (batch, larger)]
    views = {2.0: View(larger, captured[1], Scorer(network, larger.targets, 4))}
    for name in ("grad_cam", "score_cam", "ablation_cam", "smooth_grad_cam_pp", "is_cam", "shapley_cam"):
        method = part("method", name)
        job = replace(job_of(method), layer="3@2", scales=(2.0,))
        made = job_map(network, batch, captured[0], Scorer(network, batch.targets, 4), job, {}, views)
        expected = maps(method, network, larger)
        assert made.shape == (2, 16, 24) and torch.equal(made, expected) and expected.max() > 0


def test_one_pass_a_scale_for_all_methods_and_none_twice(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,hirescam,activation_sum,center]", "limit=2", "layer=[layer3,layer4]", f"out={tmp_path}"]
    counted(*words, "scale=[1,1.5,2]", "fuse=mean", *ALONE)
    # The network is looked at once at its own size and twice at each other one.
    assert (counted.forwards, counted.backwards) == (5 + 3, 3)
    assert len(rows_of(tmp_path)) == 2 * (3 * 3 * 4 + 1)
    # One more scale: its own pass alone. A method without gradients takes none backward.
    counted("method=[activation_sum]", *words[1:], "scale=[1,1.5,0.5]", *ALONE)
    assert (counted.forwards, counted.backwards) == (5 + 1, 0)
    assert counted(*words, "scale=[2,1.5]", *ALONE).computed == 0 and not counted.loaded


def test_fused_over_scales_layers_and_both(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam]", "limit=2", "layer=[layer3,layer4]", "scale=[1,2]", "fuse=mean", "save_maps=all"]
    counted(*words, f"out={tmp_path}", *ALONE)
    maps = maps_of(rows_of(tmp_path))
    members = {
        "layer3@fuse_mean": ["layer3", "layer3@2"],
        "fuse_mean@2": ["layer3@2", "layer4@2"],
        "fuse_mean": ["layer3", "layer4"],
        "fuse_mean@fuse_mean": ["layer3", "layer4", "layer3@2", "layer4@2"],
    }
    for case in {case for _, _, case in maps}:
        for fused, layers in members.items():
            whole = [upsample(maps["grad_cam", layer, case][None], (224, 224))[0] for layer in layers]
            expected = sum(one / one.max() for one in whole) / len(whole)
            torch.testing.assert_close(maps["grad_cam", fused, case], expected, rtol=1e-4, atol=1e-6)


def ramp(height: int, width: int, flipped: bool = False) -> Case:
    """A picture whose red is its column and whose green is its row."""
    pixels = torch.zeros(3, height, width)
    pixels[0], pixels[1] = torch.arange(width) * (255 / width), torch.arange(height)[:, None] * (255 / height)
    pixels = pixels.round().to(torch.uint8)
    return Case("a", "a", "", (0,), lambda: (pixels.flip(2) if flipped else pixels, None))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(120, 200), (90, 61), (300, 100)])
def test_a_larger_image_shows_the_same_part_of_the_picture(geometry: str, size: tuple[int, int]) -> None:
    """Averaged down it is the plain one, to half a pixel; and a mirrored picture's is the mirrored image."""
    sample = prepare(ramp(*size), SPEC, geometry, scales=[1.5, 2])
    assert {scale: tuple(image.shape) for scale, image in sample.scaled.items()} == {
        1.5: (3, 96, 96), 2: (3, 128, 128),
    }  # fmt: skip
    per_pixel = max(255 / side for side in size) / 255 / 0.25  # what one pixel of the picture is worth
    per_pixel *= max(size[0], size[1]) / 64
    for scale, image in sample.scaled.items():
        down = F.resize(image, [64, 64], antialias=True)
        inner = (slice(0, 2), slice(6, -6), slice(6, -6))
        off = (down - sample.image)[inner]
        # Where pad's border begins, half a pixel is a step from the picture to its mean.
        assert float(off.abs().median()) < 0.5 * per_pixel and scale > 1
    even = prepare(ramp(128, 256), SPEC, geometry, scales=[2]).scaled[2]
    mirrored = prepare(ramp(128, 256, flipped=True), SPEC, geometry, scales=[2]).scaled[2]
    assert torch.equal(even.flip(2), mirrored)


def test_images_are_resampled_from_the_picture_not_from_the_input() -> None:
    """A checkerboard of single pixels, which the plain input cannot show, is whole where the scale shows it."""
    pixels = ((torch.arange(128)[:, None] + torch.arange(128)) % 2 * 255).to(torch.uint8).expand(3, -1, -1)
    sample = prepare(Case("a", "a", "", (0,), lambda: (pixels, None)), SPEC, "stretch", scales=[2])
    assert float(sample.image.std()) < 0.2 and torch.equal(sample.scaled[2], (pixels / 255 - 0.5) / 0.25)
    again = prepare(Case("b", "a", "", (0,), lambda: (pixels, None)), SPEC, "stretch", sample, [2])
    assert again.scaled[2] is sample.scaled[2]


def fixed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 5))


def vit() -> nn.Module:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=5)


@pytest.mark.parametrize(("make", "layer"), [(fixed, "1"), (vit, "blocks.0.norm1")])
def test_a_network_of_one_size_refuses_in_one_line(make, layer: str) -> None:
    spec = InputSpec(32, 32, (0.5,) * 3, (0.5,) * 3)
    network = finish("fixed", make(), spec, [layer], "random", {})
    match = r"scale=1.5: fixed does not take pictures of 48 x 48 \(.*\); leave scale= at 1"
    with pytest.raises(UserError, match=match) as raised:
        shapes_at(network, [layer], torch.device("cpu"), 1.5, 5)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 350


def test_what_other_scales_leave_out_is_said() -> None:
    metrics = bind_all(compose_config(["metric=[box_coverage,max_sensitivity]"]).metric, GIVEN_TO_METRIC)
    notes, left = other_views([1, 2], [], bound("grad_cam", "gradient", "center"), metrics)
    assert [metric.name for metric in left] == ["box_coverage"] and len(notes) == 2
    assert "gradient" in notes[0] and "center" not in notes[0] and "max_sensitivity" in notes[1]
    assert other_views([1], [], bound("gradient"), metrics) == ([], metrics)


def test_scales_are_told_apart_by_their_names() -> None:
    assert scales_in(2) == [2.0] and scales_in([2, 1, 1.0, 1.0000001]) == [1.0, 2.0]
    with pytest.raises(UserError, match="names no scale"):
        scales_in([])
    for layer in ("bn2.act", "blocks.6.0", "0", "fuse_mean", "-"):
        for scale in (1, 1.5, 2.0, 0.25, "fuse_mean", -1, -1.5, "scales", "scales_flip"):
            assert plain_layer(at_scale(layer, scale)) == layer
    assert plain_layer("a@b") == "a@b" and at_scale("a", 1.0) == "a"


def test_another_scale_is_compared_with_the_plain_size(counted: Counted, tmp_path: Path) -> None:
    """Every method with itself at scale 1, with the reference and the controls at its own scale."""
    words = ["method=[grad_cam,layer_cam,activation_sum,center]", "metric=[box_coverage]", "limit=3"]
    counted(*words, "layer=layer4", "scale=[1,2]", f"out={tmp_path}", *ALONE)
    group = load_group(*group_folders(find_folders(tmp_path))[0])
    assert group is not None and group.layers == ["layer4", "layer4@2"] and group.last_layer == "layer4"
    entries = {entry.label: entry for entry in group.entries}
    opponents = {label: [e.label for e in opponents_of(group, entry, "grad_cam")] for label, entry in entries.items()}
    assert opponents["grad_cam@layer4"] == ["activation_sum@layer4", "center"]
    assert opponents["grad_cam@layer4@2"] == ["grad_cam@layer4", "activation_sum@layer4@2", "center"]
    assert opponents["layer_cam@layer4@2"][:2] == ["grad_cam@layer4@2", "layer_cam@layer4"]
    assert opponents["activation_sum@layer4@2"] == ["grad_cam@layer4@2"]
    table = compare_group(group, "grad_cam", resamples=50).set_index(["method", "layer", "against", "against_layer"])
    row = table[table["metric"] == "box_coverage.coverage"].loc["grad_cam", "layer4@2", "grad_cam", "layer4"].iloc[0]
    own = [group.values(entries[f"grad_cam@{at}"], "box_coverage.coverage") for at in ("layer4@2", "layer4")]
    assert row["difference"] == pytest.approx(float((own[0] - own[1]).mean()))
    summary = report(tmp_path, console=None, only=())
    assert {"layer4", "layer4@2", "-"} == set(summary["layer"])


def test_a_scale_out_of_bounds_is_refused() -> None:
    from bench.binding import check_settings
    from bench.config import plain

    compose = partial(compose_config)
    for word in ("scale=0", "scale=[1,9]", "scale=large"):
        with pytest.raises(UserError, match="scale="):
            check_settings(plain(compose([word])))
