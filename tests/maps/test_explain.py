"""A method asked again gives the maps of a run on the other images, classes or network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind
from bench.maps.capture import capture
from bench.maps.explain import Explain
from bench.maps.heatmaps import fuse, upsample
from bench.maps.jobs import job_map
from bench.maps.scorer import Scorer
from bench.options import conf_node
from bench.runs.plan import looks_at_layer
from bench.runs.rows import metric_columns
from bench.types import Batch, Job, UserError
from metrics.robustness.noise import Noise

# Shared-pass, multi-pass, attribution and control; with a layer or without.
METHODS = ("grad_cam", "activation_sum", "ablation_cam", "score_cam", "smooth_grad_cam_pp", "input_x_gradient",
           "full_grad", "random", "center")  # fmt: skip
LAYERS = ("1", "3")


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def batch_of(images: Tensor, targets: list[tuple[int, ...]]) -> Batch:
    n = len(images)
    empty, none = [torch.zeros(0, 4)] * n, [None] * n
    return Batch(
        images, [f"case {i}" for i in range(n)], [f"image {i}" for i in range(n)], ["cat"] * n, targets, empty, empty,
        none, empty, none, [torch.zeros(0, dtype=torch.bool)] * n, [(32, 48)] * n, [(1.0, 1.0, 0.0, 0.0)] * n,
        torch.tensor([-2.0, -2.0, -1.8]),
    )  # fmt: skip


def images_of(seed: int) -> Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed))


def jobs_of(*names: str) -> list[Job]:
    jobs = []
    for name in names:
        node = conf_node("method", name)
        small = {"samples": 2} if "samples" in node else {}
        method = bind(name, node | small, GIVEN_TO_METHOD)
        places = {"1": ("1",), "3": ("3",), "fuse_mean": LAYERS} if looks_at_layer(method) else {"-": ()}
        for layer, layers in places.items():
            key = f"{name}@{layer}"
            fuse = "mean" if len(layers) > 1 else ""
            jobs.append(Job(method=method, label=name, layer=layer, layers=layers, index=0, key=key, fuse=fuse))
    return jobs


def explain_of(module: nn.Module, batch: Batch, jobs: list[Job]) -> Explain:
    captured = capture(module, batch.images.contiguous(memory_format=torch.channels_last), batch.targets, LAYERS)
    score = Scorer(module, batch.targets, 4)
    running = [name for name, _ in module.named_modules()]
    shared = {"module": module, "batch": batch, "captured": captured, "score": score, "running": running}
    return Explain(**shared, natives={}, jobs=jobs, job=jobs[0])


def map_of(explain: Explain, job: Job) -> Tensor:
    """The job's map as a run makes it, at input size."""
    native = job_map(explain.module, explain.batch, explain.captured, explain.score, job, explain.natives)
    return upsample(native, (32, 48))


TARGETS: list[tuple[int, ...]] = [(1,), (2, 3)]
OTHERS: list[tuple[int, ...]] = [(0,), (4,)]


@dataclass(frozen=True)
class Doubled:
    """Another network: the first convolution's channels in another order, so that all maps change."""

    def __call__(self, module: nn.Module) -> nn.Module:
        changed = copy.deepcopy(module)
        with torch.no_grad():
            changed[2].weight.copy_(module[2].weight.flip(0))
        return changed


@dataclass(frozen=True)
class Brighter:
    """Another picture for each image id: brighter by the id's number."""

    def __call__(self, images: Tensor, image_ids: Sequence[str]) -> Tensor:
        return images + torch.tensor([0.5 + int(name.split()[-1]) for name in image_ids]).view(-1, 1, 1, 1)


@pytest.mark.parametrize("question", ["images", "targets", "change", "perturb"])
def test_equals_a_run_of_its_own(question: str) -> None:
    module, jobs = network(), jobs_of(*METHODS)
    explain = explain_of(module, batch_of(images_of(1), TARGETS), jobs)
    changes = {"images": images_of(2), "targets": OTHERS, "change": Doubled(), "perturb": Brighter()}
    anew = {
        "images": lambda: explain_of(module, batch_of(images_of(2), TARGETS), jobs),
        "targets": lambda: explain_of(module, batch_of(images_of(1), OTHERS), jobs),
        "change": lambda: explain_of(Doubled()(module), batch_of(images_of(1), TARGETS), jobs),
        "perturb": lambda: explain_of(module, batch_of(Brighter()(images_of(1), ["0", "1"]), TARGETS), jobs),
    }[question]()
    changed = set()
    for job in jobs:
        heatmaps = replace(explain, job=job)(**{question: changes[question]})
        assert heatmaps.shape == (2, 32, 48)
        torch.testing.assert_close(heatmaps, map_of(anew, job), rtol=1e-4, atol=1e-5, msg=job.key)
        if not torch.equal(heatmaps, map_of(explain, job)):
            changed.add(job.method.name)
    stays = {"random", "center"} | ({"activation_sum"} if question == "targets" else set())
    assert changed == set(METHODS) - stays


def test_questions_combine() -> None:
    """Other images, classes and weights at once are a run of all three; so are a perturbation, classes and weights."""
    module, (job,) = network(), jobs_of("grad_cam")[:1]
    explain = explain_of(module, batch_of(images_of(1), TARGETS), [job])
    brighter = Brighter()(images_of(1), ["0", "1"])
    anew = explain_of(Doubled()(module), batch_of(brighter, OTHERS), [job])
    expected = map_of(anew, job)
    for question in ({"images": brighter}, {"perturb": Brighter()}):
        combined = explain(targets=OTHERS, change=Doubled(), **question)
        torch.testing.assert_close(combined, expected, rtol=1e-4, atol=1e-5)
        for left_out in ("targets", "change"):
            some = {"targets": OTHERS, "change": Doubled(), **question}
            some.pop(left_out)
            assert not torch.allclose(explain(**some), expected, rtol=1e-2)


def test_a_layers_map_is_made_once_for_itself_and_for_a_fused_map() -> None:
    jobs, calls = jobs_of("grad_cam"), []
    plain = jobs[0].method
    counted = replace(plain, call=lambda **inputs: calls.append(1) or plain.call(**inputs))
    jobs = [replace(job, method=counted) for job in jobs]
    explain = explain_of(network(), batch_of(images_of(1), TARGETS), jobs)
    natives = [map_of(explain, job) for job in jobs]
    assert len(calls) == len(LAYERS)
    assert torch.equal(natives[2], fuse(natives[:2], "mean"))


def test_all_jobs_share_one_pass_a_question() -> None:
    module, jobs = network(), jobs_of("grad_cam", "hirescam", "activation_sum", "center")
    explain = explain_of(module, batch_of(images_of(1), TARGETS), jobs)
    passes = []
    module.register_forward_hook(lambda *_: passes.append(1))
    for job in jobs[::-1]:
        replace(explain, job=job)(targets=OTHERS)
        assert len(passes) == (job.method.name in ("grad_cam", "hirescam"))
    for job in jobs:  # a copy of the network keeps its hooks; an equal change is the same change
        replace(explain, job=job)(change=Doubled())
    assert len(passes) == 2
    for job in jobs:
        replace(explain, job=job)(perturb=Brighter())
    assert len(passes) == 3
    for job in jobs:
        replace(explain, job=job)(change=Doubled(), perturb=Brighter())
    assert len(passes) == 4
    for job in jobs:  # every map has images of its own
        replace(explain, job=job)(images=images_of(3))
    assert len(passes) == 4 + len(jobs)


def test_cases_of_one_image_share_its_forward_pass() -> None:
    """Other classes and other networks: one image forward for two cases. Other images are each case's own."""
    module, jobs = network(), jobs_of("grad_cam")
    twice = images_of(1)[:1].repeat(2, 1, 1, 1)
    batch = replace(batch_of(twice, TARGETS), image_ids=["image", "image"])
    explain = explain_of(module, batch, jobs)
    seen: list[int] = []
    module.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    heatmaps = explain(targets=OTHERS)
    anew = explain_of(module, batch_of(twice, OTHERS), jobs)
    torch.testing.assert_close(heatmaps, map_of(anew, jobs[0]), rtol=1e-4, atol=1e-5)
    assert not torch.equal(heatmaps[0], heatmaps[1])
    explain(change=Doubled())
    explain(images=images_of(3))
    explain(perturb=Noise(0.2, 0, 0))
    assert seen == [1, 2, 1, 2, 1]  # the second is the reference's


SHARED = ("grad_cam", "hirescam", "xgrad_cam", "grad_cam_pp", "layer_cam", "grad_entropy", "feature_entropy",
          "eigen_cam", "eigen_grad_cam", "activation_sum")  # fmt: skip
ROBUSTNESS = ("max_sensitivity", "avg_sensitivity", "local_lipschitz", "relative_stability")


def test_robustness_of_all_methods_and_layers_costs_one_shared_pass_a_perturbed_batch() -> None:
    """Ten methods at two layers and fused, four metrics, three samples: three forward, three backward passes."""
    module, jobs = network(), jobs_of(*SHARED)
    explain = explain_of(module, batch_of(images_of(1), TARGETS), jobs)
    forward, backward = [], []

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        forward.append(len(output))
        if output.requires_grad:
            output.register_hook(lambda _: backward.append(1))

    module.register_forward_hook(count)
    values: dict[str, set[float]] = {}
    for name in ROBUSTNESS:
        metric = bind(name, conf_node("metric", name) | {"samples": 3}, GIVEN_TO_METRIC)
        for job in jobs:
            again = replace(explain, job=job)
            rows = metric_columns(metric, name, map_of(explain, job), explain.batch, explain.score, again)
            for key, value in rows[0].items():
                values.setdefault(key, set()).add(round(float(value), 5))
    assert len(jobs) == 30 and forward == [2, 2, 2] and len(backward) == 3
    assert all(len(different) > 10 and min(different) > 0 for different in values.values())


def test_a_wrong_parameter_of_a_metric_in_a_folder_is_the_user_s() -> None:
    explain = explain_of(network(), batch_of(images_of(1), TARGETS), jobs_of("grad_cam"))
    metric = bind("max_sensitivity", conf_node("metric", "max_sensitivity") | {"samples": 0}, GIVEN_TO_METRIC)
    with pytest.raises(UserError, match="max_sensitivity: needs samples of at least 1"):
        metric_columns(metric, "x", torch.rand(2, 32, 48), explain.batch, explain.score, explain)


def test_what_a_perturbation_changes_in_the_network() -> None:
    """The images, the logits, and the activations of the job's layer; of a fused map those of all its layers."""
    module, jobs = network(), jobs_of("grad_cam", "center")
    images, perturb = images_of(1), Brighter()
    explain = explain_of(module, batch_of(images, TARGETS), jobs)
    other = perturb(images, ["0", "1"])
    acts = {name: [module[: int(name) + 1](x).double().flatten(1) for x in (images, other)] for name in LAYERS}
    acts["fuse_mean"] = [torch.cat([acts[name][i] for name in LAYERS], 1) for i in range(2)]
    for job in jobs:
        shift, logits, moved = replace(explain, job=job).effect(perturb)
        torch.testing.assert_close(shift, (other - images).double().flatten(1).norm(dim=1))
        torch.testing.assert_close(logits, module(other).detach(), rtol=1e-4, atol=1e-5)
        if job.layer == "-":
            assert moved is None
            continue
        before, after = acts[job.layer]
        expected = (after - before).norm(dim=1) / before.norm(dim=1)
        torch.testing.assert_close(moved, expected.detach(), rtol=1e-4, atol=1e-6)


def test_nothing_is_left_behind_by_a_failure() -> None:
    module, jobs = network(), jobs_of("grad_cam")
    explain = explain_of(module, batch_of(images_of(1), TARGETS), jobs)

    def broken(module: nn.Module) -> nn.Module:
        changed = Doubled()(module)
        changed[4].register_forward_hook(lambda *_: 1 / 0)
        return changed

    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ZeroDivisionError):
        explain(change=broken)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_class_sensitivity_of_methods_that_ignore_the_class() -> None:
    """The class similarity of a method that is not told the class is exactly 1, of Grad-CAM it is not."""
    module, jobs = network(), jobs_of("feature_entropy", "activation_sum", "eigen_cam", "random", "grad_cam")
    explain = explain_of(module, batch_of(images_of(1), TARGETS), jobs)
    for name in ("class_sensitivity", "random_logit"):
        metric = bind(name, conf_node("metric", name), GIVEN_TO_METRIC)
        for job in jobs:
            again = replace(explain, job=job)
            rows = metric_columns(metric, name, map_of(explain, job), explain.batch, explain.score, again)
            values = [row[f"{name}.{output}"] for row in rows for output in ("spearman", "ssim", "hog")]
            assert (values == [1.0] * 6) == (job.method.name != "grad_cam"), job.key


def test_randomization_leaves_maps_that_do_not_look_at_the_network() -> None:
    module, jobs = network(), jobs_of("center", "edges", "grad_cam")
    explain = explain_of(module, batch_of(images_of(1), TARGETS), jobs)
    before = copy.deepcopy(module.state_dict())
    for name in ("cascading_randomization", "independent_randomization"):
        metric = bind(name, conf_node("metric", name) | {"stages": 3}, GIVEN_TO_METRIC)
        for job in jobs:
            again = replace(explain, job=job)
            rows = metric_columns(metric, name, map_of(explain, job), explain.batch, explain.score, again)
            same = [row[f"{name}.{output}"] == 1 for row in rows for output in ("spearman", "ssim", "hog")]
            assert all(same) if job.layer == "-" else not any(same), job.key
            assert len(rows[0][f"{name}.spearman_curve"]) == 3
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_features_are_mean_activations_of_every_layer() -> None:
    """Of the batch from the shared pass, of other images from one forward pass that keeps no graph."""
    batch, module = batch_of(images_of(1), [(0,), (2,)]), network()
    explain = explain_of(module, batch, jobs_of("grad_cam"))
    other = images_of(2)
    for images, found in ((batch.images, explain.features()), (other, explain.features(other))):
        assert set(found) == set(LAYERS)
        for name, features in found.items():
            expected = module[: int(name) + 1](images).detach().double().mean((2, 3))
            torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
            assert not features.requires_grad
    assert explain.score.passes == 2
