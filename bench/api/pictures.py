"""Single pictures and maps: explain one, or score a map from anywhere, as a run does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bench.api.inputs import TargetFunction, find_method, find_network, one_case, one_layer, present_in
from bench.config import GIVEN_TO_METRIC, bind_all, bind_function, compose_config
from bench.datasets.classes.class_map import class_name
from bench.datasets.images import Picture, array_of
from bench.maps.capture import capture
from bench.maps.heatmaps import degenerate, upsample
from bench.maps.jobs import job_map, wanted_of
from bench.maps.scorer import Scorer
from bench.maps.target_scores import group_probability, read_output
from bench.runs.plan import looks_at_layer, plan_jobs
from bench.runs.rows import metric_columns
from bench.runs.setup.checks import usable
from bench.types import Network, UserError

SCORE_BATCH = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where a network's evidence for a class is.

    Attributes
    ----------
    heatmap : ndarray, shape (H, W), or (D, H, W)
        At the picture's own size, float32, not normalized.
    target : tuple of int
        Output indices explained: one, or a group that together is the class; (0,) for a function.
    name : str
        ImageNet's name of the class; empty for a group, a function, and networks with other classes.
    probability : float
        Of the class: softmax, or as the network's ``probability`` says; of a function its score.
    layer : str
        Where the method looked, ``-`` for one that looks at no layer.
    degenerate : str
        Why the map says nothing (``zero``, ``constant``, ``nonfinite``); empty where it says something.
    """

    heatmap: np.ndarray
    target: tuple[int, ...]
    name: str
    probability: float
    layer: str
    degenerate: str


def explain_image(
    image: Picture,
    method: str | Callable[..., Tensor] = "grad_cam",
    *,
    model: str | nn.Module | Network = "efficientnet_lite0",
    target: int | Sequence[int] | TargetFunction | None = None,
    layer: str | None = None,
) -> Explanation:
    """Explain one picture: the map that a run would score, at the picture's size.

    The whole picture is brought to the network's input (``transform=stretch``).

    Parameters
    ----------
    image : path or array, shape (H, W, 3) or (H, W), uint8
        For a network of other channels or of volumes, an array with its channels first or last; floats are 0 to 1.
    method : str or callable
        A name of ``python -m bench list methods``, or a function as in ``methods/``, see `Add your own` in the docs.
    model : str, Module or Network
        A name of ``python -m bench list models``, a module of torch's that takes ImageNet's pictures of 224 pixels (it
        is copied and not changed), or what a function of `bench.networks` returns.
    target : int, sequence of int or callable, optional
        Output index, or several that together are the class; by default the predicted class. Or what is explained
        instead of a class: ``function(output, cases) -> (n,)`` of what the network returns for n pictures, `cases` a
        `bench.types.Batch` of these; as ``target=package.module:function`` in a run, see `bench.maps.targets`.
    layer : str, optional
        Name of one layer; by default the last of the network's default layers.

    Returns
    -------
    Explanation

    Raises
    ------
    bench.types.UserError
        A name or output that does not exist, or a picture that cannot be used.
    """
    network, part = find_network(model, callable(target)), find_method(method)
    batch, logits = one_case(image, network, target)
    _, without = usable([part], present_in(batch, logits.shape[1]))
    if without:
        raise UserError(without[0])
    layers = one_layer(network, layer) if looks_at_layer(part) else []
    job = plan_jobs([part], layers, {}, None, lambda bound: {})[0]
    wanted = wanted_of([job])
    read = partial(read_output, batch)
    captured = capture(
        network.module, batch.images, batch.targets, layers, reshape=network.reshape, read=read, **wanted
    )
    kind = "none" if batch.explains else network.probability
    score = Scorer(network.module, batch.targets, SCORE_BATCH, probability=kind, read=read)
    native = job_map(network.module, batch, captured, score, job, {})
    size, group = batch.images.shape[2:], batch.targets[0]
    return Explanation(
        heatmap=upsample(upsample(native, size), batch.sizes[0])[0].numpy(),
        target=group,
        name="" if batch.explains else class_name(group, logits.shape[1]),
        probability=float(group_probability(logits, batch.targets, kind)[0]),
        layer=job.layer,
        degenerate=degenerate(native)[0],
    )


def score_map(
    heatmap: ArrayLike,
    image: Picture,
    metrics: Sequence[str | Callable[..., Any]] | None = None,
    *,
    model: str | nn.Module | Network = "efficientnet_lite0",
    target: int | Sequence[int] | TargetFunction | None = None,
    boxes: Sequence[Sequence[float]] = (),
    masks: ArrayLike | None = None,
    ignore: Sequence[Sequence[float]] = (),
    relu: bool = True,
) -> dict[str, str | float | list[float]]:
    """Score one map of one picture, wherever the map comes from, as a run scores a method's.

    Parameters
    ----------
    heatmap : array, shape (h, w)
        High where the evidence is; any size: it is brought to the network's input, linearly, a larger one averaged.
    image, model, target
        As in `explain_image`.
    metrics : sequence of str or callable, optional
        Names of ``python -m bench list metrics``, or functions as in ``metrics/``; by default the default run's. Those
        that need boxes where there are none, or a mosaic, are left out, and a warning names them.
    boxes : sequence of (x0, y0, x1, y1)
        Instances of the class in pixels of the picture, x1 and y1 exclusive; in a volume (x0, y0, z0, x1, y1, z1).
    masks : array, shape (M, H, W), or (M, D, H, W), optional
        One for each box, or instead of boxes, at the picture's size; not 0 where the instance is.
    ignore : sequence of (x0, y0, x1, y1)
        As `boxes`: regions where the class may or may not be, as COCO's crowds.
    relu : bool
        Whether negative values count as 0, as for most methods in a run.

    Returns
    -------
    dict
        ``<metric>.<value>``, as the columns of `load_results`; NaN where a value is not defined. ``degenerate`` says
        why the map says nothing (``zero``, ``constant``; ``nonfinite`` also beyond float32's range) and is empty where
        it says something; the values of a map that says nothing are those of no information.

    Raises
    ------
    bench.types.UserError
        A name or output that does not exist, a picture, map, boxes or masks that cannot be used, or a metric that
        needs more than a map.
    """
    network, given = find_network(model, callable(target)), array_of(heatmap)
    if given.ndim != network.spec.rank or not given.size or given.dtype == object:
        axes = ("depth", "height", "width")[-network.spec.rank :]
        words = {2: "two", 3: "three"}[len(axes)]
        raise UserError(f"a map has {words} dimensions ({', '.join(axes)}) of numbers, not {given.dtype} {given.shape}")
    with np.errstate(over="ignore"):
        native = torch.from_numpy(given.astype(np.float32))[None]
    native = native.clamp(min=0) if relu else native
    batch, logits = one_case(image, network, target, boxes, masks, ignore)
    listed = list(metrics or ()) if isinstance(metrics, list | tuple | None) else [metrics]
    names = [metric if isinstance(metric, str) else repr(metric) for metric in listed if not callable(metric)]
    parts = bind_all(compose_config([], None if metrics is None else {"metric": names}).metric, GIVEN_TO_METRIC)
    parts += [bind_function(metric, GIVEN_TO_METRIC) for metric in listed if callable(metric)]
    for part in parts:
        if "explain" in part.wants:
            raise UserError(f"{part.name} asks the method again, so it cannot score a map alone; use bench.run")
    parts, notes = usable(parts, present_in(batch, logits.shape[1]))
    for note in notes if metrics is not None else ():
        log.warning("%s", note)
    kind = "none" if batch.explains else network.probability
    read = partial(read_output, batch)
    score = Scorer(network.module, batch.targets, SCORE_BATCH, probability=kind, read=read)
    heatmaps = upsample(native, batch.images.shape[2:])
    values = [metric_columns(part, part.name, heatmaps, batch, score, native=native)[0] for part in parts]
    return {"degenerate": degenerate(native)[0]} | {name: value for row in values for name, value in row.items()}
