"""What the shared pass costs against one forward and one backward pass of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import options
from bench.maps.capture import capture
from bench.maps.jobs import job_map
from bench.maps.scorer import Scorer
from bench.maps.target_scores import group_logit
from bench.networks.layers import resolve_layers
from bench.networks.sources import timm_model
from bench.types import Batch, Bound, Job, Reshape
from benchmarks.common import DEVICE, alternate, lite0, load, pictures, row

PAPER = ["grad_cam", "hirescam", "respond_cam", "grad_entropy", "feature_entropy"]
BATCH = 16 if DEVICE.type == "cpu" else 128
GRADIENT = ["grad_cam", "hirescam", "xgrad_cam", "grad_cam_pp", "layer_cam"]


def one_forward_one_backward(model: nn.Module, batch: Batch, layer: str) -> None:
    """Do the least that any gradient method needs: one layer is kept, gradients flow down to it."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # torch refuses an in-place operation on a leaf

    handle = model.get_submodule(layer).register_forward_hook(keep)
    score = group_logit(model(batch.images), batch.targets).sum()
    handle.remove()
    torch.autograd.grad(score, kept)


def shared_pass(
    model: nn.Module, batch: Batch, layers: list[str], methods: list[Bound], reshape: Reshape | None = None
) -> None:
    """Make the native maps of all methods at all layers, as a run does."""
    captured = capture(model, batch.images, batch.targets, layers, reshape=reshape)
    score = Scorer(model, batch.targets, 4)
    natives: dict[tuple[str, str], Tensor] = {}
    for name in layers:
        for method in methods:
            job = Job(method=method, label=method.name, layer=name, layers=(name,), index=0, key="")
            job_map(model, batch, captured, score, job, natives)


def rows(repeats: int) -> list[str]:
    """Rows of the table, each a median of `repeats` alternating repeats."""
    network = lite0()
    model, batch = network.module, pictures(network, BATCH)
    default, many = resolve_layers(network, None), resolve_layers(network, "*bn2.act")
    about = {name: options.conf_node("method", name)["about"] for name in options.names("method")}
    usual = {
        name: facts for name, facts in about.items() if facts["category"] != "attention" and "cam" != name != "lift_cam"
    }
    shared = [name for name, facts in usual.items() if facts["passes"] == "shared"]
    table = []
    for names, layers, goal in (
        (GRADIENT, many, "at most 1.5"),
        (PAPER, default, "at most 1.3"),
        (PAPER, many, "at most 2.5"),
        (shared, default, "at most 2.5"),
    ):
        methods = [load("method", name) for name in names]
        label = ", ".join(names) if len(names) < 6 else f"all {len(names)} shared-pass methods"
        ours, other = alternate(
            [
                lambda layers=layers, methods=methods: shared_pass(model, batch, layers, methods),
                lambda layers=layers: one_forward_one_backward(model, batch, layers[0]),
            ],
            repeats,
        )
        against = f"one forward, one backward to {layers[0]}"
        table.append(row(f"{label} x {len(layers)} layers", against, ours, other, goal))
    return [*table, transformer(repeats)]


def transformer(repeats: int) -> str:
    """Row of the table: five methods at all blocks of a small transformer, random weights."""
    network = timm_model(name="vit_tiny_patch16_224", weights="random")
    network.module.to(DEVICE)
    batch = pictures(network, BATCH)
    layers = resolve_layers(network, "blocks.*.norm1")
    methods = [load("method", name) for name in GRADIENT]
    ours, other = alternate(
        [
            lambda: shared_pass(network.module, batch, layers, methods, network.reshape),
            lambda: one_forward_one_backward(network.module, batch, layers[0]),
        ],
        repeats,
    )
    work = f"{', '.join(GRADIENT)} x {len(layers)} blocks of {network.name}"
    return row(work, f"one forward, one backward to {layers[0]}", ours, other, "at most 1.5")
