"""Maps averaged over the mirror image and over scales: ``augment=flip``, ``augment=[flip,scales]``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contract import METHODS, job_of, make_batch, make_network, maps, part
from counted_runs import Counted, contents, counted, rows_of
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

import bench
from bench.analysis.comparisons import opponents_of
from bench.analysis.groups import group_folders
from bench.analysis.loading import load_group
from bench.config import GIVEN_TO_METHOD, bind_all, build, compose_config
from bench.datasets.transforms import collate, mirrored, prepare, seen_batch
from bench.maps.capture import capture
from bench.maps.heatmaps import upsample
from bench.maps.jobs import View, job_map
from bench.maps.scorer import Scorer
from bench.maps.targets import region
from bench.report import report
from bench.runs.cost import passes_of
from bench.runs.plan import plan_jobs, reads_network
from bench.runs.setup.checks import other_views
from bench.store.folders import find_folders
from bench.types import Batch, Case, InputSpec, Job, UserError

__all__ = ["counted"]
ALONE = ["gallery.cases=0", "batch=16", "score_batch=4"]
READING = [name for name in METHODS if reads_network(part("method", name))]


def bound(*names: str) -> list:
    return bind_all(compose_config([f"method=[{','.join(names)}]"]).method, GIVEN_TO_METHOD)


def planned(*names: str, layers: tuple[str, ...] = ("a",), **options) -> dict[str, Job]:
    options = {"fuse": None, "scales": [1.0], "augment": [], **options}
    jobs = plan_jobs(bound(*names), layers, {}, options["fuse"], lambda _: {}, options["scales"], options["augment"])
    return {job.layer: job for job in jobs}


def map_of(row: pd.Series) -> Tensor:
    return torch.tensor(np.reshape(row["map"], row["map_shape"]))


def mean_of(several: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Each brought to a size and divided by its maximum, pixel by pixel averaged: written out."""
    total = torch.zeros(size, dtype=torch.float64)
    for one in several:
        whole = upsample(one[None], size)[0].double()
        total += whole / whole.max() if whole.max() > 0 else 0
    return total / len(several)


def test_names_and_scales() -> None:
    assert list(planned("grad_cam", augment=["flip"])) == ["a", "a@flip"]
    assert planned("grad_cam", augment=["flip"])["a@flip"].scales == (1, -1)
    flips = planned("grad_cam", augment=["flip"], scales=[1, 2], fuse="max", layers=("a", "b"))
    assert [name for name in flips if "flip" in name] == [
        "a@flip", "a@2_flip", "b@flip", "b@2_flip", "fuse_max@flip", "fuse_max@2_flip",
    ]  # fmt: skip
    assert flips["fuse_max@2_flip"].scales == (2, -2) and flips["fuse_max@2_flip"].fuse == "max"
    both = planned("grad_cam", augment=["scales", "flip"])
    assert list(both) == ["a", "a@scales_flip"]
    assert both["a@scales_flip"].scales == (0.5, -0.5, 1, -1, 1.5, -1.5, 2, -2)
    assert planned("grad_cam", augment=["scales"], scales=[1, 3])["a@scales"].scales == (1, 3)
    assert list(planned("gradient", augment=["flip"], scales=[2, 3])) == ["-", "-@flip"]
    assert planned("gradient", augment=["flip", "scales"])["-@scales_flip"].scales[:2] == (0.5, -0.5)
    assert list(planned("center", augment=["flip", "scales"])) == ["-"]
    fused = planned("refine_cam", augment=["flip"], layers=("a", "b"))
    assert list(fused) == ["fuse_product", "fuse_product@flip"] and fused["fuse_product@flip"].fuse == "product"


def test_keys_of_plain_maps_do_not_depend_on_it() -> None:
    options = {"scales": [1, 2], "fuse": "mean", "layers": ("a", "b")}
    plain, more = planned("grad_cam", **options), planned("grad_cam", **options, augment=["flip"])
    assert {name: more[name].key for name in plain} == {name: job.key for name, job in plain.items()}
    keys = {job.key for job in more.values()}
    keys |= {planned("grad_cam", augment=["scales"], scales=scales)["a@scales"].key for scales in ([1], [1, 2])}
    assert len(keys) == len(more) + 2


@pytest.mark.parametrize("name", READING)
def test_every_method_is_the_mean_of_its_maps(name: str) -> None:
    """By hand: the method itself on the batch and on a batch of mirrored images, that map mirrored back."""
    network, batch = make_network(), make_batch()
    method, size = part("method", name), batch.images.shape[2:]
    job = replace(job_of(method), scales=(1.0, -1.0), augmented=True)
    made = job_map(network, batch, *passed(network, batch), job, {}, views_of(network, batch))
    other = maps(method, network, mirror_of(batch)).flip(-1)
    both = list(zip(maps(method, network, batch), other, strict=True))
    assert made.shape == other.shape
    for one, pair in zip(made, both, strict=True):
        torch.testing.assert_close(one.double(), mean_of(list(pair), tuple(one.shape)), rtol=1e-6, atol=1e-6)
        assert tuple(one.shape) in ((8, 12), tuple(size))
    plain, other = both[0]
    if plain.max() > 0:  # entropies of gradients that pooling makes constant are 0
        assert (plain - other).abs().max() > 1e-3 * plain.max(), "the mirror image says something else"


@pytest.mark.parametrize("name", READING)
def test_the_map_of_the_mirrored_picture_is_the_mirrored_map(name: str) -> None:
    network, batch = make_network(), make_batch()
    job = replace(job_of(part("method", name)), scales=(1.0, -1.0), augmented=True)
    made = []
    for one in (batch, mirror_of(batch)):
        made.append(job_map(network, one, *passed(network, one), job, {}, views_of(network, one)))
    assert torch.equal(made[0], made[1].flip(-1))


def mirror_of(batch: Batch) -> Batch:
    """Images and what was planted in them, which some methods are told; written out."""
    width = batch.images.shape[3]
    parts = [torch.stack([width - p[:, 2], p[:, 1], width - p[:, 0], p[:, 3]], 1) for p in batch.parts]
    return replace(batch, images=batch.images[..., torch.arange(width - 1, -1, -1)], parts=parts)


def passed(network: nn.Module, batch: Batch):
    return capture(network, batch.images, batch.targets, ["3"]), Scorer(network, batch.targets, 4)


def views_of(network: nn.Module, batch: Batch) -> dict[float, View]:
    other = seen_batch(batch, [], -1.0)
    return {-1.0: View(other, *passed(network, other))}


def test_layers_are_fused_before_the_mean() -> None:
    network, batch = make_network(), make_batch()
    job = Job(
        method=part("method", "hirescam"), label="", layer="", layers=("1", "3"), index=0, key="",
        scales=(1.0, -1.0), fuse="max", augmented=True,
    )  # fmt: skip

    def looked(one: Batch):
        return capture(network, one.images, one.targets, ["1", "3"]), Scorer(network, one.targets, 4)

    other = seen_batch(batch, [], -1.0)
    made = job_map(network, batch, *looked(batch), job, {}, {-1.0: View(other, *looked(other))})
    for i in range(2):
        wholes = []
        for images, back in ((batch, 1), (mirror_of(batch), -1)):
            each = [maps(job.method, network, images, name)[i] for name in job.layers]
            each = [upsample(one[None], (32, 48))[0] for one in each]
            whole = torch.maximum(*[one / one.max() for one in each])
            wholes.append(whole.flip(-1) if back < 0 else whole)
        torch.testing.assert_close(made[i].double(), mean_of(wholes, (32, 48)), rtol=1e-5, atol=1e-6)


def test_volumes_are_mirrored_along_the_last_axis() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    boxes = [torch.tensor([[1.0, 2, 0, 4, 5, 3]])]
    batch = replace(
        make_batch(), images=torch.randn(1, 1, 4, 6, 8), ids=["a"], image_ids=["a"], targets=[(1,)], boxes=boxes,
        other_boxes=[], ignore=[], parts=[], masks=[None], original_boxes=boxes, original_masks=[None],
        sizes=[(4, 6, 8)], to_input=[(1.0, 1, 1, 0, 0, 0)],
    )  # fmt: skip
    other = seen_batch(batch, [], -1.0)
    assert other.boxes[0].tolist() == [[4, 2, 0, 7, 5, 3]] and torch.equal(other.images, batch.images.flip(4))
    looked = [capture(network, one.images, one.targets, ["1"]) for one in (batch, other)]
    job = replace(job_of(part("method", "grad_cam"), "1"), scales=(1.0, -1.0), augmented=True)
    made = job_map(network, batch, looked[0], None, job, {}, {-1.0: View(other, looked[1], None)})
    each = []
    for captured in looked:
        layer = captured.layers["1"]
        each.append((layer.grads.mean((2, 3, 4), keepdim=True) * layer.acts).sum(1).clamp(min=0)[0])
    expected = (each[0] / each[0].max() + each[1].flip(2) / each[1].max()) / 2
    torch.testing.assert_close(made[0], expected)


def test_a_mirrored_batch_holds_everything_at_its_place() -> None:
    """A picture that is white in its boxes: so is the mirrored one, in input and in original pixels."""
    pixels = torch.zeros(3, 50, 80, dtype=torch.uint8)
    boxes = torch.tensor([[8.0, 10, 24, 40]])
    pixels[:, 10:40, 8:24] = 255
    masks = pixels[:1] > 0
    case = Case("a", "a", "", (0,), lambda: (pixels, masks), boxes, other_boxes=boxes, ignore=boxes, parts=boxes)
    spec = InputSpec(64, 72, (0.0,) * 3, (1.0,) * 3)
    for geometry in ("stretch", "pad", "center_crop"):
        sample = prepare(case, spec, geometry, scales=[2])
        batch = collate([sample], spec, torch.device("cpu"))
        for scale in (2, -1, -2):
            other = seen_batch(batch, [sample], scale)
            expected = other.images[0, 0] > 0.5
            assert (other.masks[0][0] != expected).float().mean() < 0.02 and expected.any()
            for one in (*other.boxes, *other.other_boxes, *other.ignore, *other.parts):
                assert (drawn(one[0], expected.shape) != expected).float().mean() < 0.03
            original = pixels[0] > 0 if scale > 0 else pixels[0].flip(-1) > 0
            assert torch.equal(drawn(other.original_boxes[0][0], original.shape), original)
            assert torch.equal(other.original_masks[0][0], original)
            sx, sy, tx, ty = other.to_input[0]
            x0, y0, x1, y1 = other.original_boxes[0][0].tolist()
            moved = torch.tensor([sx * x0 + tx, sy * y0 + ty, sx * x1 + tx, sy * y1 + ty])
            torch.testing.assert_close(moved.clamp(0, expected.shape[1]), other.boxes[0][0], atol=1e-3, rtol=0)
        again = mirrored(mirrored(batch))
        assert torch.equal(again.images, batch.images) and torch.allclose(again.boxes[0], batch.boxes[0])
        assert again.to_input[0] == pytest.approx(batch.to_input[0])


def drawn(box: Tensor, shape: tuple[int, ...]) -> Tensor:
    inside = torch.zeros(shape, dtype=torch.bool)
    x0, y0, x1, y1 = box.round().long().tolist()
    inside[y0:y1, x0:x1] = True
    return inside


def test_a_function_of_the_boxes_sees_them_in_the_mirror() -> None:
    """The sum over a case's boxes: on the mirrored batch it is that of the mirrored output."""
    batch = replace(make_batch(), explains=lambda output, cases: region(output, cases, index=1, over="objects"))
    torch.manual_seed(0)
    segmenter = nn.Conv2d(3, 4, 1)
    scores = [one.explains(segmenter(one.images), one) for one in (batch, seen_batch(batch, [], -1.0))]
    torch.testing.assert_close(*scores)
    off = replace(batch, images=batch.images.flip(-1))
    assert not torch.allclose(scores[0], off.explains(segmenter(off.images), off))


def test_a_run_adds_rows_beside_the_plain_ones(counted: Counted, tmp_path: Path) -> None:
    """Nothing that is on disk changes or is made again: one pass of the mirror image for all methods and layers."""
    words = ["method=[grad_cam,hirescam,activation_sum,center]", "limit=2", "layer=[layer3,layer4]", *ALONE]
    counted(*words, f"out={tmp_path / 'a'}")
    before = contents(tmp_path / "a")
    assert counted(*words, f"out={tmp_path / 'a'}", "augment=null").computed == 0
    counted(*words, f"out={tmp_path / 'a'}", "augment=flip")
    assert (counted.forwards, counted.images, counted.backwards) == (1, 2, 1)
    after = contents(tmp_path / "a")
    assert {name: after[name] for name in before} == before and len(after) == 2
    assert len(find_folders(tmp_path / "a")) == 1
    # All at once it is the same.
    counted(*words, f"out={tmp_path / 'b'}", "augment=flip")
    assert (counted.forwards, counted.backwards) == (1 + 2, 2)  # the network is looked at once
    first, second = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert first["layer"].unique().tolist() == ["layer3", "layer3@flip", "layer4", "layer4@flip", "-"]
    assert len(first) == 2 * (3 * 4 + 1) and first["case_id"].tolist() == second["case_id"].tolist()
    for one, other in zip(first["map"], second["map"], strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(one).max())


def test_a_metric_that_is_added_starts_from_kept_maps(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,gradient]", "limit=2", "layer=layer4", "augment=flip", f"out={tmp_path}", *ALONE]
    counted(*words)
    flips = rows_of(tmp_path).query("layer == 'layer4@flip'")
    assert [row["map_shape"].tolist() for _, row in flips.iterrows()] == [[7, 7]] * 2
    counted("method=[grad_cam]", *words[1:], "metric=[box_coverage]")
    assert not counted.loaded and counted.forwards == 0


def test_maps_of_scales_and_flips_by_hand(counted: Counted, tmp_path: Path) -> None:
    """Grad-CAM of the picture resized to 112 and 336 pixels and mirrored, one picture after the other."""
    words = ["method=[grad_cam]", "limit=2", "layer=layer4", "scale=[0.5,1.5]", "augment=[flip,scales]"]
    counted(*words, "save_maps=all", f"out={tmp_path}", *ALONE)
    rows = rows_of(tmp_path)
    assert rows["layer"].unique().tolist() == ["layer4@0.5", "layer4@1.5", "layer4@scales_flip"]
    network = build("model", compose_config(["model=resnet18", "model.weights=random"]).model, seed=0)
    cases = {case.id: case for case in build("dataset", compose_config([]).dataset)}
    for _, row in rows[rows["layer"] == "layer4@scales_flip"].iterrows():
        case, each = cases[row["case_id"]], []
        for side in (112, 336):
            pixels = F.resize(
                case.load()[0], [side, side], InterpolationMode(network.spec.interpolation), antialias=True
            )
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (network.spec.mean, network.spec.std))
            image = (pixels / 255 - mean) / std
            each += [by_hand(network.module, image, case.target)]
            each += [by_hand(network.module, image.flip(2), case.target).flip(1)]
        assert {tuple(one.shape) for one in each} == {(4, 4), (11, 11)}
        expected = mean_of(each, (224, 224)).float()
        torch.testing.assert_close(map_of(row), expected, rtol=1e-4, atol=1e-4)


def by_hand(module: nn.Module, image: Tensor, target: tuple[int, ...]) -> Tensor:
    acts = nn.Sequential(*list(module.children())[:-2])(image[None]).detach().requires_grad_()
    logits = module.fc(acts.mean((2, 3)))
    (grads,) = torch.autograd.grad(logits[0, list(target)].logsumexp(0), acts)
    return (grads.mean((2, 3), keepdim=True) * acts).sum(1).clamp(min=0).detach()[0]


def test_runs_of_a_picture_and_of_its_mirror_image(counted: Counted, tmp_path: Path) -> None:
    """From files to maps; plain maps differ."""
    generator = np.random.default_rng(0)
    for name in ("plain", "other"):
        (tmp_path / name).mkdir()
    for i in range(2):
        pixels = generator.integers(0, 255, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((256, 200)).save(tmp_path / "plain" / f"{i}.png")
        Image.open(tmp_path / "plain" / f"{i}.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
            tmp_path / "other" / f"{i}.png"
        )
    rows = []
    for name in ("plain", "other"):
        words = ["method=[grad_cam,gradient]", "layer=layer3", "augment=flip", "target=5", "save_maps=all"]
        words += ["dataset=folder", f"dataset.root={tmp_path / name}", "transform=stretch"]
        counted(*words, f"out={tmp_path / 'out' / name}", *ALONE)
        rows.append(rows_of(tmp_path / "out" / name))
    assert sorted(rows[0]["layer"].unique()) == ["-", "-@flip", "layer3", "layer3@flip"]
    for (_, one), (_, other) in zip(rows[0].iterrows(), rows[1].iterrows(), strict=True):
        assert (one["method"], one["layer"]) == (other["method"], other["layer"])
        same, off = map_of(one), (map_of(one) - map_of(other).flip(-1)).abs().max()
        assert (off < 1e-5 * same.max()) == ("flip" in one["layer"])


def test_passes_are_counted() -> None:
    shapes = {"a": [8, 7, 7], "a@2": [8, 14, 14]}

    def passes(*names: str, **options) -> tuple[int, ...]:
        jobs = plan_jobs(bound(*names), ["a"], {}, None, lambda _: {}, options.get("scales", [1.0]), options["augment"])
        return tuple(vars(passes_of(jobs, [], shapes)).values())[:4]

    assert passes("grad_cam", "layer_cam", augment=[]) == (1, 1, 0, 0)
    assert passes("grad_cam", "layer_cam", augment=["flip"]) == (2, 2, 0, 0)
    assert passes("activation_sum", augment=["flip", "scales"], scales=[1, 2]) == (4, 0, 0, 0)
    assert passes("gradient", augment=["flip"]) == (2, 0, 2, 2)
    assert passes("recipro_cam", augment=["flip"], scales=[1, 2]) == (4, 0, 2 * (49 + 196), 0)
    assert passes("recipro_cam", augment=["scales"], scales=[1, 2]) == (2, 0, 49 + 196, 0)


def test_what_is_left_out_or_refused() -> None:
    from bench.config import GIVEN_TO_METRIC

    metrics = bind_all(compose_config(["metric=[box_coverage,max_sensitivity]"]).metric, GIVEN_TO_METRIC)
    notes, left = other_views([1], ["flip"], bound("grad_cam", "gradient"), metrics)
    assert [metric.name for metric in left] == ["box_coverage"] and len(notes) == 1 and "max_sensitivity" in notes[0]


@pytest.mark.parametrize("word", ["scale=2", "scale=[1,2]", "augment=scales", "augment=[flip,scales]"])
def test_volumes_are_not_resized(word: str, tmp_path: Path) -> None:
    words = ["model=planted", "model.rank=3", "model/mechanism@model.mechanisms=[additive,blind]", "dataset=planted"]
    with pytest.raises(UserError, match="scale= and augment=scales are for pictures; volumes are not resized"):
        bench.run(*words, word, "method=[grad_cam]", "metric=[]", "limit=1", out=tmp_path)


def test_each_is_compared_with_its_plain_map(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,layer_cam,gradient,activation_sum,center]", "metric=[box_coverage]", "limit=3"]
    counted(*words, "layer=layer4", "augment=flip", f"out={tmp_path}", *ALONE[1:], "gallery.cases=1")
    group = load_group(*group_folders(find_folders(tmp_path))[0])
    assert group is not None and group.last_layer == "layer4"
    entries = {entry.label: entry for entry in group.entries}
    opponents = {label: [e.label for e in opponents_of(group, entry, "grad_cam")] for label, entry in entries.items()}
    assert opponents["grad_cam@layer4@flip"] == ["grad_cam@layer4", "activation_sum@layer4@flip", "center"]
    assert opponents["layer_cam@layer4@flip"][:2] == ["grad_cam@layer4@flip", "layer_cam@layer4"]
    assert opponents["gradient@-@flip"] == ["grad_cam@layer4", "gradient", "activation_sum@layer4", "center"]
    summary = report(tmp_path, console=None)
    assert {"layer4", "layer4@flip", "-", "-@flip"} == set(summary["layer"])
    page = (tmp_path / "report.html").read_text()
    assert "no layer@flip" in page and "depth 1 of 1" in page and "depth 2" not in page
    assert "depth 1: layer4@flip" in page
