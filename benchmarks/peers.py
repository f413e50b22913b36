"""The shared pass against pytorch-grad-cam 1.5.7 and torchcam 0.5.0: same network, pictures, layers and methods.

Each peer is timed as its manual shows it (the network as loaded, 16 pictures per batch), and at its best:
channels_last, no gradients of parameters, the faster of two batch sizes, all layers in one call (of which
pytorch-grad-cam returns only the mean). Maps are as each returns them: pytorch-grad-cam's at input size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from bench.networks.layers import resolve_layers
from benchmarks.common import lite0, load, pictures, row
from benchmarks.passes import GRADIENT, shared_pass

GRAD_CAM = dict(zip(GRADIENT, ["GradCAM", "HiResCAM", "XGradCAM", "GradCAMPlusPlus", "LayerCAM"], strict=True))
TORCHCAM = {"grad_cam": "GradCAM", "xgrad_cam": "XGradCAM", "grad_cam_pp": "GradCAMpp", "layer_cam": "LayerCAM"}
Work = Callable[[nn.Module, Tensor, list[int], list[str], list[str]], None]


def grad_cam_separately(
    model: nn.Module, images: Tensor, classes: list[int], layers: list[str], names: list[str]
) -> None:
    """Call pytorch-grad-cam for every method and layer: for several layers it returns their mean."""
    for name in names:
        for layer in layers:
            with getattr(pytorch_grad_cam, name)(model, [model.get_submodule(layer)]) as peer:
                peer(images, [ClassifierOutputTarget(index) for index in classes])


def grad_cam_together(
    model: nn.Module, images: Tensor, classes: list[int], layers: list[str], names: list[str]
) -> None:
    """Give pytorch-grad-cam all layers at once: one pass per method, and only the layers' mean map."""
    for name in names:
        with getattr(pytorch_grad_cam, name)(model, [model.get_submodule(layer) for layer in layers]) as peer:
            peer(images, [ClassifierOutputTarget(index) for index in classes])


def torchcam_together(
    model: nn.Module, images: Tensor, classes: list[int], layers: list[str], names: list[str]
) -> None:
    """Give torchcam all layers at once, as its manual does: one forward and one backward pass per method."""
    for name in names:
        with getattr(torchcam.methods, name)(model, layers) as peer:
            peer(classes, model(images))


def seconds(function: Callable[[], object]) -> float:
    """Time one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def rows(repeats: int) -> list[str]:
    """Rows of the table, medians of alternating timings; pytorch-grad-cam's 85 passes are timed once."""
    ours, theirs = lite0(), lite0().module
    layers, batch = resolve_layers(ours, "*bn2.act"), pictures(ours, 16)
    classes = [target[0] for target in batch.targets]
    table = []

    def peer_pass(work: Work, names: list[str], size: int, images: Tensor) -> None:
        for first in range(0, len(images), size):
            part = images[first : first + size].clone().requires_grad_()  # the peers differentiate down to the pixels
            work(theirs, part, classes[first : first + size], layers, names)

    for package, pairs, separate, together, goal in (
        ("torchcam 0.5.0", TORCHCAM, torchcam_together, torchcam_together, "2.5 times faster"),
        ("pytorch-grad-cam 1.5.7", GRAD_CAM, grad_cam_separately, grad_cam_together, "60 times faster"),
    ):
        methods, names = [load("method", name) for name in pairs], list(pairs.values())
        for best in (False, True):
            form = torch.channels_last if best else torch.contiguous_format
            theirs.to(memory_format=form).requires_grad_(not best)
            images = batch.images.clone(memory_format=form)
            work, size, settings = separate, 16, "as its manual has it"
            if best:
                work = together
                size = min((4, 16), key=lambda n: seconds(partial(peer_pass, together, names[:1], n, images)))
                settings = f"its best: channels_last, batch {size}, no gradients of parameters, all layers in one call"
            own, other = [], []
            shared_pass(ours.module, batch, layers, methods)
            for _ in range(1 if work is grad_cam_separately else min(repeats, 3)):
                own.append(seconds(partial(shared_pass, ours.module, batch, layers, methods)))
                other.append(seconds(partial(peer_pass, work, names, size, images)))
                own.append(seconds(partial(shared_pass, ours.module, batch, layers, methods)))
            label = f"{', '.join(pairs)} x {len(layers)} layers"
            table.append(row(label, f"{package}, {settings}", median(own), median(other), "" if best else goal))
    return table
