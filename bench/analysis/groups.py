"""Results of one protocol, read into one set of arrays: every method at every layer on every case."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.parts import Part, metric_of
from bench.analysis.statistics import Array, Codes
from bench.options import conf_node
from bench.store.folders import Folder
from bench.types import NO_LAYER, plain_layer

CATEGORIES = ("gradient", "entropy", "activation", "attention", "perturbation", "attribution", "other", "control")

Curves = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Entry:
    """One method at one layer: a row of the table.

    Attributes
    ----------
    key, index : str, int
        Hash of name, version and parameters; place of the layer in the network.
    method, name : str
        As shown, with the parameters that are not the yaml's defaults; and as in conf/.
    values : ndarray, shape (cases, outputs)
        NaN where the case was not computed or the metric is not defined for it.
    rows, measured, degenerate : int, dict, dict
        Number of cases that were computed; by metric; and by reason, without the sound ones.
    seconds : dict
        By stage (``capture``, ``method``, ``metrics``), of all cases together.
    curves : dict of ndarray, shape (cases, L)
        Curves that were read with the values; `bench.analysis.curves.read_curves` reads the others.
    """

    key: str
    method: str
    name: str
    layer: str
    category: str
    parameters: dict[str, Any]
    version: int
    index: int
    values: Array
    rows: int
    measured: dict[str, int]
    degenerate: dict[str, int]
    seconds: dict[str, float]
    curves: Curves = field(default_factory=dict)

    @property
    def degenerate_share(self) -> float:
        """Share of the cases whose map is constant, zero or not finite."""
        return sum(self.degenerate.values()) / self.rows

    @property
    def ranked(self) -> bool:
        """Whether the row takes part in rankings and marks: at least half of its maps say something."""
        return self.degenerate_share <= 0.5

    @property
    def flat_gradient(self) -> bool:
        """Whether maps vanish because the entropy of a spatially constant gradient is 0, not by chance."""
        vanished = self.degenerate.get("zero", 0) + self.degenerate.get("constant", 0)
        return self.name.startswith("grad_entropy") and vanished >= 0.9 * self.rows

    @property
    def control(self) -> bool:
        """Whether this is a control, which every method has to beat."""
        return self.category == "control"

    @property
    def title(self) -> str:
        """Name for readers, with the parameters that are not the defaults: ``Grad Entropy-CAM (bins=64)``."""
        title = str(about_method(self.name).get("title", self.name))
        return self.method.replace(self.name, title, 1).replace("(", " (", 1)

    @property
    def label(self) -> str:
        """Unique within the group, see `label_of`."""
        return label_of(self.method, self.layer)


def label_of(method: str, layer: str) -> str:
    """Name a method at a layer: ``method@layer``, or the method where it looks at no layer."""
    return method if layer == NO_LAYER else f"{method}@{layer}"


@dataclass(frozen=True, eq=False)
class Group:
    """All results of one data set, model and protocol.

    Attributes
    ----------
    protocol, parameters : str, dict
        Key of the protocol, and what it is a hash of.
    folders, parts : list
        Results folders of this protocol, usually one; sound parts, in the order of their names.
    cases : DataFrame
        Sorted by case id, so that nothing depends on the order in which results were computed:
        case_id, image_id, class_name, n_instances, box_area, probability.
    images, classes : ndarray of int, shape (cases,)
        Codes of image_id and class_name.
    entries, outputs : list
        Layer by layer, methods before controls; columns of their values, ``<metric>.<output>``, sorted.
    metrics, curves : dict
        By label: name, key, version, parameters and ``about``; number of points by name, ``<metric>.<output>``.
    """

    dataset: str
    model: str
    protocol: str
    parameters: dict[str, Any]
    folders: list[Folder]
    parts: list[Part]
    cases: pd.DataFrame
    images: Codes
    classes: Codes
    entries: list[Entry]
    outputs: list[str]
    metrics: dict[str, dict[str, Any]]
    curves: dict[str, int]

    @property
    def follows(self) -> str:
        """What curves show and the cases' ``probability`` is: ``probability``, or the ``explained score`` itself."""
        return "explained score" if self.parameters.get("probability") == "none" else "probability"

    @property
    def layers(self) -> list[str]:
        """Layers in order, without the one of methods that look at none."""
        return [layer for layer in dict.fromkeys(entry.layer for entry in self.entries) if layer != NO_LAYER]

    @property
    def depths(self) -> list[str]:
        """Layers in order at the plain input size: places along the network's depth."""
        return [layer for layer in self.layers if layer == plain_layer(layer)]

    @property
    def numbers(self) -> dict[str, int]:
        """Layers without their scales, numbered from 1 as they follow one another."""
        plain = dict.fromkeys(name for name in map(plain_layer, self.layers) if name != NO_LAYER)
        return {name: number for number, name in enumerate(plain, start=1)}

    @property
    def last_layer(self) -> str:
        """Last layer of the network, not one fused of several: where methods without a layer are compared."""
        own = [layer for layer in self.depths if not layer.startswith("fuse_")]
        other = [layer for layer in self.layers if plain_layer(layer) != NO_LAYER]
        return (own or other or [NO_LAYER])[-1]

    def higher_is_better(self, output: str) -> bool | None:
        """Direction of ``<metric>.<output>`` (None: it has none); a class mean's is that of its output."""
        metric, name = metric_of(output)
        if output in self.statistics:
            return self.statistics[output].get("higher_is_better")
        directions = self.about(metric).get("higher_is_better") or {}
        return directions.get(name, directions.get(name.removesuffix("_class_mean")))

    def about(self, metric: str) -> dict[str, Any]:
        """Return what a metric's yaml said when it was measured, and what today's says besides."""
        node = self.metrics.get(metric, {})
        return {**about_metric(str(node.get("name"))), **(node.get("about") or {})}

    def question(self, output: str) -> str:
        """Which of the reader's questions ``<metric>.<output>`` answers; empty where it answers none of them."""
        metric, name = metric_of(output)
        return str((self.about(metric).get("question") or {}).get(name.removesuffix("_class_mean"), ""))

    def width(self, output: str) -> float | None:
        """Difference between the best and the worst value that a metric can have; None where it has no bounds."""
        metric, name = metric_of(output)
        width = self.about(metric).get("range", 1.0)
        return width.get(name.removesuffix("_class_mean"), 1.0) if isinstance(width, dict) else width

    def title(self, metric: str) -> str:
        """Name of a metric in headings; with its parameters only where the group has it in several variants."""
        name = str(self.metrics[metric]["name"])
        return name if sum(node["name"] == name for node in self.metrics.values()) == 1 else metric

    @property
    def weights(self) -> str:
        """Weights of the network as they were asked for: ``random``, ``DEFAULT``, a file."""
        return str(self.folders[0].protocol.get("weights", ""))

    @cached_property
    def places(self) -> dict[str, int]:
        """Row of each case id in `cases`."""
        return {case: i for i, case in enumerate(self.cases["case_id"].tolist())}

    @cached_property
    def image_count(self) -> int:
        """Number of images."""
        return int(self.images.max()) + 1

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Statistics of the whole data set by ``<metric>.<name>``: ``function``, ``of``, direction, as in conf/."""
        named = {metric: self.about(metric).get("dataset_statistics") or {} for metric in self.metrics}
        return {f"{metric}.{name}": node for metric, nodes in named.items() for name, node in nodes.items()}

    def values(self, entry: Entry, output: str) -> Array:
        """One output of an entry, shape (cases,)."""
        return entry.values[:, self.outputs.index(output)]


@cache
def about_method(name: str) -> dict[str, Any]:
    """Read what ``conf/method/<name>.yaml`` says about a method; empty for one that the program does not ship."""
    return conf_node("method", name).get("about") or {}


@cache
def about_metric(name: str) -> dict[str, Any]:
    """Read what ``conf/metric/<name>.yaml`` says about a metric; empty for one that the program does not ship."""
    return conf_node("metric", name).get("about") or {}


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``features.4`` before ``features.22``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def entry_order(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Sort key: layers in the network's order, last those that look at no layer; categories, then names."""
    layer, category = entry["layer"], entry["category"]
    place = CATEGORIES.index(category if category in CATEGORIES else "other")
    return plain_layer(layer) == NO_LAYER, entry["index"], natural(layer), place, entry["method"]


def group_folders(folders: Iterable[Folder]) -> list[list[Folder]]:
    """Folders of one data set, network and protocol together, in canonical order."""
    groups: dict[tuple[str, ...], list[Folder]] = {}
    for folder in folders:
        groups.setdefault(tuple(folder.protocol[key] for key in ("dataset", "model", "key")), []).append(folder)
    return [members for _, members in sorted(groups.items())]
