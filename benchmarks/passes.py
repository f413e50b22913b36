"""What the shared pass costs beside one forward and one backward pass of the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import options
from bench.maps.capture import capture
from bench.maps.heatmaps import native_map
from bench.maps.method_inputs import offered
from bench.maps.scorer import Scorer
from bench.maps.target_scores import group_logit
from bench.networks.layers import resolve_layers
from bench.types import Batch, Bound
from benchmarks.common import alternate, lite0, load, pictures, row

PAPER = ["grad_cam", "hirescam", "respond_cam", "grad_entropy", "feature_entropy"]
GRADIENT = ["grad_cam", "hirescam", "xgrad_cam", "grad_cam_pp", "layer_cam"]


def one_forward_one_backward(model: nn.Module, batch: Batch, layer: str) -> None:
    """Do the least that any gradient method needs: nothing is kept, gradients go down to one layer."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # torch refuses an in-place operation on a leaf

    handle = model.get_submodule(layer).register_forward_hook(keep)
    score = group_logit(model(batch.images), batch.targets).sum()
    handle.remove()
    torch.autograd.grad(score, kept)


def shared_pass(model: nn.Module, batch: Batch, layers: list[str], methods: list[Bound]) -> None:
    """Native maps of all methods at all layers, as the program makes them."""
    captured = capture(model, batch.images, batch.targets, layers)
    score = Scorer(model, batch.targets, 4)
    for name in layers:
        layer = captured.layers[name]
        offer = offered(model, name, layer, captured.logits, batch, score)
        for method in methods:
            native_map(method, offer, (len(batch.ids), *layer.acts.shape[2:]))


def rows(repeats: int) -> list[str]:
    """Finished rows of the table, each measured as the median of `repeats` alternating repeats."""
    network = lite0()
    model, batch = network.module, pictures(network, 16)
    default, many = resolve_layers(network, None), resolve_layers(network, "*bn2.act")
    everything = [load("method", name) for name in options.names("method")]
    shared = [part.name for part in everything if part.about["passes"] == "shared" and part.name != "cam"]
    found = []
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
        found.append(row(f"{label} x {len(layers)} layers", against, ours, other, goal))
    return found
