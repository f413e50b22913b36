"""Sanity checks: does the map change when the network's weights are random, or when another class is asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .ranking import generator, seed_of
from .similarity import Described, compare, describe

ORDERS = ("cascading", "independent", "bottom_up")
OTHERS = ("least", "second", "random")


def parameter_randomization(
    heatmaps: Tensor, batch: Any, *, explain: Any, order: str = "cascading", stages: int = 10, seed: int = 0
) -> dict[str, Tensor]:
    """Similarity of the map with that of the same network with random weights (Adebayo et al. 2018, section 3).

    The layers with weights are cut into stages from the output down, in the order of running (`cut`): the last layer
    alone, then the others in equal parts. A copy of the network is drawn anew stage by stage: weights from He's normal
    distribution, biases 0, normalizations without effect. A layer's weights follow from the seed and the layer's name
    alone. A map that stays as it was does not show what the network has learnt; edge detectors fail this way.

    From the output down, what lies before the random layers is still as trained, and shines through (Binder et al.
    2023); from the input up, nothing is left from the first stage on. Where the explained layer and all before it are
    as trained, only what a method makes of them can change: the values ``_kept`` are of these stages alone.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    explain : callable
        ``explain(change=function of the network) -> heatmaps`` (N, H, W), with ``explain.module``,
        ``explain.layers``, the names of the layers that the map is made of, and ``explain.running``, see `cut`. All
        methods and layers share one forward and one backward pass a stage; what a method pays beside is paid a stage.
    order : {"cascading", "independent", "bottom_up"}
        Whether the layers of earlier stages stay random, or have their trained weights again; or whether they stay
        random, and the stages run from the input up.
    stages : int
        At least 1 (the whole network at once); no more than there are layers with weights are used.
    seed : int

    Returns
    -------
    dict
        For each of ``spearman``, ``ssim`` and ``hog`` (see `metrics.similarity.compare`): the mean over the stages
        (N,), at most 1, lower is better, and ``<name>_curve`` (N, stages). 1, the worst, where the map is constant.
        For ``cascading`` also ``<name>_kept`` (N,): the mean over the stages behind the map's layers; NaN without one.
        A method that looks at no layer has no layer to keep: all stages count.

    Raises
    ------
    ValueError
        For an unknown order, ``stages`` below 1, or a network without weights.

    References
    ----------
    Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity checks for saliency maps, NeurIPS 2018. Binder, Weber,
    Lapuschkin, Montavon, Mueller, Samek: Shortcomings of top-down randomization-based sanity checks for evaluations of
    deep neural network explanations, CVPR 2023.
    """
    drawn = random_parts(explain.module, explain.running, order, stages)
    before = [describe(heatmap) for heatmap in heatmaps.cpu().numpy()]
    alike = [similarity(before, explain(change=Randomized(names, seed))) for names in drawn]
    curves = {name: torch.stack([stage[name] for stage in alike], dim=1).to(heatmaps.device) for name in alike[0]}
    result = {name: curve.mean(1) for name, curve in curves.items()} | {f"{n}_curve": c for n, c in curves.items()}
    if order == "cascading":
        kept = [set(names) <= behind(explain.running, explain.layers) for names in drawn]
        result |= {f"{name}_kept": curve[:, kept].mean(1) for name, curve in curves.items()}
    return result


def random_parts(module: nn.Module, running: Sequence[str], order: str, stages: int) -> list[tuple[str, ...]]:
    """Names of all modules that are random at each stage; sorted, so that orders share what they have in common."""
    if order not in ORDERS:
        raise ValueError(f"order={order} is unknown; it takes {', '.join(ORDERS)}")
    parts = cut(module, running, stages)
    if order == "independent":
        return parts
    turned = parts[::-1] if order == "bottom_up" else parts
    return [tuple(sorted(name for part in turned[: i + 1] for name in part)) for i in range(len(turned))]


def behind(running: Sequence[str], layers: Sequence[str]) -> set[str]:
    """Names of the modules that first run after the last run of all these layers, and lie in none of them."""
    last = max((place for place, name in enumerate(running) if name in layers), default=-1)
    inside = {name for name in running for layer in layers if name == layer or name.startswith(f"{layer}.")}
    return set(running[last + 1 :]) - set(running[: last + 1]) - inside


def class_sensitivity(
    heatmaps: Tensor, batch: Any, *, explain: Any, other: str = "least", seed: int = 0
) -> dict[str, Tensor]:
    """Similarity of the maps for two classes of one image: 1 for a method that never asks for the class.

    Parameters
    ----------
    heatmaps : Tensor, shape (N, H, W)
    batch : Batch
    explain : callable
        ``explain(targets=...) -> heatmaps`` (N, H, W), with ``explain.logits`` (N, C). All methods and layers share one
        forward and one backward pass; what a method pays beside is paid once more.
    other : {"least", "second", "random"}
        The class with the lowest logit (Rebuffi et al. 2020), the one with the highest among the others, or any other,
        drawn by the case's id (the random logit test of Sixt et al. 2020).
    seed : int
        Of ``random``.

    Returns
    -------
    dict
        ``spearman``, ``ssim``, ``hog`` (N,), see `metrics.similarity.compare`: at most 1, lower is better; exactly 1
        where both maps are the same and where the map is constant.

    Raises
    ------
    ValueError
        For an unknown `other`, or where the network has no class beside the target.

    References
    ----------
    Rebuffi, Fong, Ji, Vedaldi: There and back again: revisiting backpropagation saliency methods, CVPR 2020. Sixt,
    Granz, Landgraf: When explanations lie: why many modified BP attributions fail, ICML 2020.
    """
    if other not in OTHERS:
        raise ValueError(f"other={other} is unknown; it takes {', '.join(OTHERS)}")
    chosen = other_classes(explain.logits, batch.targets, batch.ids, other, seed)
    before = [describe(heatmap) for heatmap in heatmaps.cpu().numpy()]
    alike = similarity(before, explain(targets=[(index,) for index in chosen]))
    return {name: values.to(heatmaps.device) for name, values in alike.items()}


def other_classes(
    logits: Tensor, targets: Sequence[tuple[int, ...]], ids: Sequence[str], other: str, seed: int
) -> list[int]:
    """Output index of each case's other class, never one of the target's; arguments as in `class_sensitivity`."""
    chosen = []
    for row, target, case in zip(logits.cpu(), targets, ids, strict=True):
        left = [index for index in range(len(row)) if index not in target]
        if not left:
            raise ValueError(f"the network has no class beside the target's, {list(target)}")
        if other == "random":
            chosen.append(left[seed_of(f"{seed}:{case}") % len(left)])
        else:
            values = row[left]
            chosen.append(left[int(values.argmax() if other == "second" else values.argmin())])
    return chosen


@dataclass(frozen=True)
class Randomized:
    """A change of a network: gives a copy whose named modules are drawn anew. Equal ones give equal copies."""

    names: tuple[str, ...]
    seed: int

    def __call__(self, module: nn.Module) -> nn.Module:
        """Copy the network and draw the modules' own parameters; the given network stays as it is."""
        copy = deepcopy(module)
        for name in self.names:
            _draw(copy.get_submodule(name), f"{self.seed}:{name}")
        return copy


def cut(module: nn.Module, running: Sequence[str], stages: int) -> list[tuple[str, ...]]:
    """Names of the modules drawn anew at each stage, from the output down.

    `running` names all modules in the order in which they start to run; of several runs the last counts, which is
    nearest to the output. A module without a weight matrix, as a normalization, belongs to the layer with weights
    before it.
    """
    layers: list[list[str]] = []
    early: list[str] = []
    for name in reversed(dict.fromkeys(reversed(running))):
        part = module.get_submodule(name)
        if any(_has_fan_in(parameter) for parameter in part.parameters(recurse=False)):
            layers.append([*early, name])
            early = []
        elif [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            (layers[-1] if layers else early).append(name)
    if stages < 1 or not layers:
        raise ValueError(
            f"needs stages of at least 1, not {stages}, and a network with weights, not {len(layers)} layers"
        )
    layers.reverse()
    if stages == 1:
        parts = [layers]
    else:
        rest = np.array_split(np.arange(1, len(layers)), min(stages - 1, max(1, len(layers) - 1)))
        parts = [layers[:1], *([layers[i] for i in indices] for indices in rest if len(indices))]
    return [tuple(name for layer in part for name in layer) for part in parts]


def stage_names(module: nn.Module, *, running: Sequence[str], stages: int, order: str = "cascading") -> list[str]:
    """Name of the last layer with weights drawn at each stage of `parameter_randomization`: labels for its curves."""
    weighted = {name for name, part in module.named_modules() if any(map(_has_fan_in, part.parameters(recurse=False)))}
    parts = [[name for name in part if name in weighted] for part in cut(module, running, stages)]
    return [part[0] for part in reversed(parts)] if order == "bottom_up" else [part[-1] for part in parts]


def _has_fan_in(parameter: Tensor) -> bool:
    # Not so vectors, and scales of channels that are kept as (C, 1, 1).
    return parameter.ndim > 1 and parameter[0].numel() > 1


def _draw(part: nn.Module, key: str) -> None:
    with torch.no_grad():
        for name, parameter in part.named_parameters(recurse=False):
            if _has_fan_in(parameter):
                drawn = torch.randn(parameter.shape, generator=generator(f"{key}.{name}"))
                parameter.copy_(drawn * math.sqrt(2 / parameter[0].numel()))
            else:
                parameter.fill_(0 if "bias" in name else 1)
        for name, buffer in part.named_buffers(recurse=False):
            if name in ("running_mean", "running_var"):
                buffer.fill_(name == "running_var")


def similarity(before: Sequence[Described], after: Tensor) -> dict[str, Tensor]:
    """Similarities (N,) of maps with described ones, see `metrics.similarity.compare`."""
    rows = [compare(one, describe(other)) for one, other in zip(before, after.cpu().numpy(), strict=True)]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float32) for name in rows[0]}
