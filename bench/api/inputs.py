"""What a user gives in Python, as a run has it: a network, a method, a layer, one picture with its boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from operator import index
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bench.config import GIVEN_TO_METHOD, bind_all, bind_function, build, check_name, compose_config
from bench.datasets.arrays.stored import given_pixels
from bench.datasets.images import Picture, shorten
from bench.datasets.records import read_boxes, read_instances
from bench.datasets.transforms import Unfit, collate, prepare
from bench.maps.capture import capture
from bench.maps.explain import copied
from bench.maps.target_scores import read_output
from bench.networks.layers import resolve_layers
from bench.networks.network import finish
from bench.networks.outputs import checked_scores
from bench.networks.sources import IMAGENET_MEAN, IMAGENET_STD
from bench.runs.execution import memory_format
from bench.runs.plan import check_targets
from bench.types import Batch, Bound, Case, InputSpec, Network, UserError

TargetFunction = Callable[[Any, Batch], Tensor]


def present_in(batch: Batch, outputs: int) -> set[str]:
    """Name what a batch offers of `bench.runs.setup.checks.NEEDS`; `outputs` is how many outputs the network has."""
    pictures = {"pictures"} if batch.images.ndim == 4 else set()
    classes = set() if batch.explains else {"classes"}
    others = {"others"} if outputs > 1 else set()
    return pictures | classes | others | ({"boxes"} if len(batch.original_boxes[0]) else set())


@lru_cache(maxsize=1)
def named_network(name: str, any_output: bool = False) -> Network:
    """Build the network that a config names, `any_output` as in `finish`; the last one is kept for the next picture."""
    check_name("model", name)
    node = compose_config([f"model={name}"])
    network = build("model", node.model, seed=node.seed, any_output=any_output)
    return replace(network, module=network.module.to(memory_format=memory_format(network.channels_last)))


def find_network(model: str | nn.Module | Network, any_output: bool = False) -> Network:
    """Take the network as it is, describe a copy of the module, or build the network of this name.

    `any_output` as in `bench.networks.network.finish`.
    """
    if isinstance(model, nn.Module):
        spec = InputSpec(size=(224, 224), resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return finish(type(model).__name__, copied(model), spec, None, "random", {}, any_output=any_output)
    if not isinstance(model, str | Network):
        raise UserError(f"model={shorten(model)} is no name of a network, no torch.nn.Module and no Network")
    return model if isinstance(model, Network) else named_network(model, any_output)


def find_method(method: str | Callable[..., Tensor]) -> Bound:
    """Bind the named method with its config's parameters, or the function itself."""
    if callable(method):
        return bind_function(method, GIVEN_TO_METHOD)
    check_name("method", method)
    return bind_all(compose_config([f"method=[{method}]"]).method, GIVEN_TO_METHOD)[0]


def one_layer(network: Network, layer: str | None) -> list[str]:
    """Name of the asked layer in a list of one, by default the last of the network's default layers."""
    chosen = resolve_layers(network, layer)
    if layer is not None and len(chosen) > 1:
        raise UserError(f"layer={layer} names {len(chosen)} layers; a picture is explained at one: {', '.join(chosen)}")
    return chosen[-1:]


def one_case(
    image: Picture,
    network: Network,
    target: int | Sequence[int] | TargetFunction | None,
    boxes: Sequence[Sequence[float]] = (),
    masks: ArrayLike | None = None,
    ignore: Sequence[Sequence[float]] = (),
) -> tuple[Batch, Tensor]:
    """Put one picture into a batch, with the predicted class where no target is given, and the logits (1, C).

    Where a function is the target its score is the only logit.
    """
    group, pixels = (0,) if callable(target) else read_target(target), given_pixels(image, network.spec)
    shape = pixels.shape[-network.spec.rank :]
    outlines, shapes = read_instances(boxes, masks, shape)
    case = Case(
        id="picture", image_id="picture", class_name="", target=group, load=lambda: (pixels, shapes), boxes=outlines,
        difficult=torch.zeros(len(outlines), dtype=torch.bool), ignore=read_boxes(ignore, shape),
    )  # fmt: skip
    try:
        batch = collate([prepare(case, network.spec, "stretch")], network.spec, torch.device("cpu"))
    except Unfit as error:
        raise UserError(str(error)) from error
    images = batch.images.contiguous(memory_format=memory_format(network.channels_last))
    if callable(target):
        name = getattr(target, "__name__", type(target).__name__)
        batch = replace(batch, images=images, explains=checked_scores(name, target))
    captured = capture(network.module, images, None, [], gradients=False, read=partial(read_output, batch))
    check_targets([case], captured.logits.shape[1])
    targets = [group or captured.targets[0]]
    # Of one output the highest says nothing.
    predicted = captured.logits.argmax(1).tolist() if captured.logits.shape[1] > 1 else [None]
    return replace(batch, images=images, targets=targets, predicted=predicted), captured.logits


def read_target(target: int | Sequence[int] | None) -> tuple[int, ...]:
    """Output indices as a group, none where no target is given."""
    if target is None:
        return ()
    try:
        return tuple(map(index, target)) if np.iterable(target) else (index(target),)
    except TypeError as error:
        raise UserError(f"target={shorten(target)} is no output index and no sequence of them") from error
