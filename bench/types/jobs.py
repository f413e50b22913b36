"""What is run: methods and metrics with their parameters, and a method at a layer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NO_LAYER = "-"  # the layer of methods that look at none
FUSED = "fuse_"  # + mean, max or product: the layer of a map fused over several layers, the scale of one over scales


def at_scale(layer: str, scale: float | str) -> str:
    """Name of a layer at a scale, or over several: ``bn2.act@1.5``, ``bn2.act@fuse_mean``; plain at scale 1.

    A negative scale is that of the mirror image: ``bn2.act@flip``, ``bn2.act@1.5_flip``.
    """
    if isinstance(scale, str) or scale == 1:
        return f"{layer}@{scale}" if isinstance(scale, str) else layer
    parts = [f"{abs(scale):g}"] * (scale != -1) + ["flip"] * (scale < 0)
    return f"{layer}@{'_'.join(parts)}"


def plain_layer(name: str) -> str:
    """Name without its scale."""
    return re.sub(rf"(?<=.)@({FUSED}\w+|(?:[\d.]+|scales)(?:_flip)?|flip)$", "", name)


@dataclass(frozen=True, eq=False)
class Bound:
    """A method or metric with its parameters bound.

    Attributes
    ----------
    name : str
        Its key in the config.
    call : callable
    wants : tuple of str
        Names of the arguments it takes from the runner.
    about : dict
        Version, unit, direction: the sidecar in its yaml.
    parameters : dict
        Everything else in its node, with ``_target_``.
    relu : bool
        Whether the runner puts a ReLU behind it.
    """

    name: str
    call: Callable[..., Any]
    wants: tuple[str, ...]
    about: dict[str, Any]
    parameters: dict[str, Any]
    relu: bool


@dataclass(frozen=True, eq=False)
class Job:
    """One method at one layer and scale.

    Attributes
    ----------
    method : Bound
    label : str
        Name of the method with those of its parameters that are not the defaults, e.g. ``grad_entropy(bins=64)``.
    layer : str
        Name of the layer; `NO_LAYER` for a method that looks at none, ``fuse_mean`` and the like for a map fused over
        several; with the scale behind it where that is not 1, see `at_scale`.
    layers : tuple of str
        Layers that the map is made of, in the order of the network; empty for `NO_LAYER`.
    index : int
        Place of the layer in the network, for sorting.
    key : str
        Hash of the method's name, version and parameters, and of the layer.
    scales : tuple of float
        Multiples of the network's input size at which the picture is looked at, negative ones in the mirror. The map
        is made of every layer at every scale.
    fuse : str
        ``mean``, ``max``, ``product`` or ``backward`` where those are several.
    augmented : bool
        Whether the map is the mean of the maps of each scale; `fuse` is then how those are made of several layers.
    """

    method: Bound
    label: str
    layer: str
    layers: tuple[str, ...]
    index: int
    key: str
    scales: tuple[float, ...] = (1.0,)
    fuse: str = ""
    augmented: bool = False

    @property
    def members(self) -> list[tuple[str, float]]:
        """Layers and scales that the map is made of; `NO_LAYER` at 1 for a method that looks at none."""
        return [(layer, scale) for layer in self.layers or (NO_LAYER,) for scale in self.scales]


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric as a run uses it.

    Attributes
    ----------
    bound : Bound
    label : str
        Name with those of its parameters that are not the defaults, e.g. ``deletion(steps=7)``.
    key : str
        Hash of its name, version and parameters.
    """

    bound: Bound
    label: str
    key: str
