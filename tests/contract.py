"""A small network and batch, and every method's maps and every metric's columns on them, for the tests of the yamls."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind
from bench.maps.capture import Captured, capture
from bench.maps.explain import Explain
from bench.maps.heatmaps import native_map
from bench.maps.jobs import map_size
from bench.maps.method_inputs import offered
from bench.maps.scorer import Scorer
from bench.options import conf_node, names
from bench.runs.plan import looks_at_layer
from bench.runs.rows import metric_columns
from bench.types import NO_LAYER, Batch, Bound, Job, Layer

METRICS = names("metric")
ABOUT = {name: conf_node("method", name)["about"] for name in names("method")}
# Maps from a folder, those of other packages, and methods of attention, which `make_network` has not, have their own
# tests.
OTHERS = {"folder", "each", "attention"}
METHODS = [name for name, about in ABOUT.items() if not OTHERS & {*about, about["category"]}]
ATTENTION = [name for name, about in ABOUT.items() if about["category"] == "attention"]


def part(group: str, name: str) -> Bound:
    return bind(name, conf_node(group, name), GIVEN_TO_METHOD if group == "method" else GIVEN_TO_METRIC)


def job_of(method: Bound, layer: str = "3") -> Job:
    """The method at a layer of `make_network`."""
    layer = layer if looks_at_layer(method) else NO_LAYER
    layers = () if layer == NO_LAYER else (layer,)
    key = f"{method.name}@{layer}"
    return Job(method=method, label=method.name, layer=layer, layers=layers, index=0, key=key)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*layers, *head).eval()


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    boxes = [torch.tensor([[4.0, 6, 20, 22], [30, 8, 44, 18]]), torch.tensor([[10.0, 3, 40, 20]])]
    return Batch(
        images=torch.randn(2, 3, 32, 48, generator=generator),
        ids=["a/cat", "b/cat"],
        image_ids=["a", "b"],
        class_names=["cat", "cat"],
        targets=[(1,), (2, 3)],
        boxes=boxes,
        other_boxes=[torch.zeros(0, 4), torch.tensor([[0.0, 0, 5, 5]])],
        masks=[None, None],
        original_boxes=[box * 2 for box in boxes],
        original_masks=[None, None],
        difficult=[torch.zeros(2, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)],
        sizes=[(64, 96), (64, 96)],
        to_input=[(0.5, 0.5, 0.0, 0.0)] * 2,
        black=torch.tensor([-2.0, -2.0, -1.8]),
        ignore=[torch.zeros(0, 4), torch.tensor([[0.0, 20, 9, 32]])],
        distractors=[False, True],
        parts=[torch.tensor([[4.0, 6, 20, 22], [30, 8, 44, 18], [2, 26, 8, 31]]), torch.tensor([[10.0, 3, 40, 20]])],
        values=[torch.tensor([2.0, -1, 0]), torch.tensor([1.0])],
        predicted=[1, 0],
    )


def one(batch: Batch, i: int) -> Batch:
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{k: value if k in ("black", "explains") else value[i : i + 1] for k, value in fields.items()})


def maps(method: Bound, network: nn.Module, batch: Batch, name: str = "3") -> Tensor:
    captured = capture(network, batch.images, batch.targets, [name])
    return run(method, captured.layers[name], captured.logits, network, batch, name)


def run(method: Bound, layer: Layer, logits: Tensor, network: nn.Module, batch: Batch, name: str = "3") -> Tensor:
    offer = offered(network, name, layer, logits, batch, Scorer(network, batch.targets, 4))
    shape = map_size(method, layer if looks_at_layer(method) else None, batch)
    return native_map(method, offer, (len(batch.ids), *shape), batch.images.shape[2:])


def explain_of(network: nn.Module, batch: Batch, captured: Captured, score: Scorer, jobs: list[Job]) -> Explain:
    """What the runner hands to a metric that asks the first job's method again."""
    running = [name for name, _ in network.named_modules()]
    shared = {"module": network, "batch": batch, "captured": captured, "score": score, "running": running}
    return Explain(**shared, natives={}, jobs=jobs, job=jobs[0])


def measure(metric: Bound, heatmaps: Tensor, network: nn.Module, batch: Batch) -> list[dict]:
    """Columns of a metric, with Grad-CAM as the method that it may ask again."""
    captured = capture(network, batch.images, batch.targets, ["3"])
    score = Scorer(network, batch.targets, 4)
    explain = explain_of(network, batch, captured, score, [job_of(part("method", "grad_cam"))])
    return metric_columns(metric, metric.name, heatmaps, batch, score, explain)
