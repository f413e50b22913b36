"""Result folders that can be compared with each other, read into one set of arrays."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from bench.analysis.reading import Curves, held_curves, read_frame, read_values
from bench.analysis.statistics import Array, Codes
from bench.runs.store import Run

log = logging.getLogger(__name__)

NO_LAYER = "-"
CONTROLS = ("activation_sum", "random", "center", "edges", "uniform")
CATEGORIES = ("gradient", "entropy", "activation", "perturbation", "attribution", "other", "control")
# Categories of those modules in methods/ that are not called after theirs.
MODULES = {"multipass_gradient": "gradient", "full_gradient": "gradient", "rise": "perturbation"}
CASE_COLUMNS = ["case_id", "image_id", "class_name", "n_instances", "box_area", "probability"]


@dataclass(frozen=True, eq=False)
class Entry:
    """One method at one layer: a row of the table.

    Attributes
    ----------
    method : str
        Name as shown: the config's, with the parameters that tell it from others of that name.
    name : str
        Name in the config.
    values : ndarray, shape (cases, outputs)
        NaN where the case is not there or the metric is not defined for it.
    rows : int
        Cases that are there.
    degenerate : dict
        Number of cases by reason, without the sound ones.
    curves : dict of ndarray, shape (cases, L)
        Curves that were read with the values; `bench.analysis.curves.read_curves` reads the others.
    """

    method: str
    name: str
    layer: str
    category: str
    run: Run
    values: Array
    rows: int
    degenerate: dict[str, int]
    curves: Curves = field(default_factory=dict)

    @property
    def degenerate_share(self) -> float:
        """Share of the cases whose map is constant, zero or not finite."""
        return sum(self.degenerate.values()) / self.rows

    @property
    def flat_gradient(self) -> bool:
        """Whether maps vanish because the entropy of a spatially constant gradient is 0, not by chance."""
        vanished = self.degenerate.get("zero", 0) + self.degenerate.get("constant", 0)
        return self.name.startswith("grad_entropy") and vanished >= 0.9 * self.rows

    @property
    def label(self) -> str:
        """Unique within the group: ``method@layer``, or the method where it looks at no layer."""
        return self.method if self.layer == NO_LAYER else f"{self.method}@{self.layer}"


@dataclass(frozen=True, eq=False)
class Group:
    """All results of one data set, model and protocol.

    Attributes
    ----------
    cases : DataFrame
        Sorted by case id, so that nothing depends on the order in which results were found:
        case_id, image_id, class_name, n_instances, box_area, probability, and the index of its chunk file.
    images, classes : ndarray of int, shape (cases,)
        Codes of image_id and class_name.
    entries : list of Entry
        Layer by layer, methods before controls.
    outputs : list of str
        Columns of the entries' values, ``<metric>.<output>``, sorted.
    metrics : dict
        As in `_config.yaml`: parameters and ``about`` of each metric.
    """

    dataset: str
    model: str
    protocol: str
    cases: pd.DataFrame
    images: Codes
    classes: Codes
    entries: list[Entry]
    outputs: list[str]
    metrics: dict[str, dict[str, Any]]

    @property
    def layers(self) -> list[str]:
        """Layers in order, without the one of methods that look at none."""
        return [layer for layer in dict.fromkeys(entry.layer for entry in self.entries) if layer != NO_LAYER]

    @property
    def last_layer(self) -> str:
        """Last layer of the network, not one fused of several: where methods without a layer are compared."""
        own = [layer for layer in self.layers if not layer.startswith("fuse_")]
        return (own or self.layers or [NO_LAYER])[-1]

    def higher_is_better(self, output: str) -> bool | None:
        """Direction of ``<metric>.<output>`` (None: it has none); a class mean's is that of its output."""
        metric, _, name = output.partition(".")
        about = self.metrics.get(metric, {}).get("about", {})
        if output in self.statistics:
            return self.statistics[output].get("higher_is_better")
        directions = about.get("higher_is_better", {})
        return directions.get(name, directions.get(name.removesuffix("_class_mean")))

    @property
    def statistics(self) -> dict[str, dict[str, Any]]:
        """Statistics of the whole data set by ``<metric>.<name>``: ``function``, ``of``, direction, as in conf/."""
        found = {metric: node.get("about", {}).get("dataset_statistics") or {} for metric, node in self.metrics.items()}
        return {f"{metric}.{name}": node for metric, named in found.items() for name, node in named.items()}

    def values(self, entry: Entry, output: str) -> Array:
        """One output of an entry, shape (cases,)."""
        return entry.values[:, self.outputs.index(output)]


def conf_of(kind: str, name: str) -> dict[str, Any]:
    """Node of ``conf/<kind>/<name>.yaml``, empty for a name that the program does not ship."""
    path = Path(__file__).parents[1] / "conf" / kind / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        return {}
    node = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(name)
    return node if isinstance(node, dict) else {}


def category_of(name: str) -> str:
    """Kind of a method: by the module that its config file names, ``control`` or ``other``."""
    if name in CONTROLS:
        return "control"
    module = (str(conf_of("method", name).get("_target_", "")).split(".") + ["", ""])[1]
    category = MODULES.get(module, module)
    return category if category in CATEGORIES else "other"


def natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key that puts ``features.4`` before ``features.22``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part]


def group_runs(runs: Iterable[Run]) -> dict[tuple[str, str, str], list[Run]]:
    """Sort runs into groups by (dataset, model, protocol), in canonical order."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (str(run.config["method"]), str(run.config["layer"]), run.path.name)):
        key = (str(run.config["dataset"]), str(run.config["model"]), str(run.config["protocol"]))
        groups.setdefault(key, []).append(run)
    return dict(sorted(groups.items()))


def load_group(runs: Sequence[Run]) -> Group | None:
    """Read the scalar columns of runs that share data set, model and protocol.

    Parameters
    ----------
    runs : sequence of Run
        One entry of `group_runs`.

    Returns
    -------
    Group or None
        None where no run holds a readable case. Maps are not read, curves only if there is room for all
        (`run_reading.HELD`); the memory needed is 16 bytes a value at most, and twice `HELD` at most.
    """
    parts: list[tuple[Run, pd.DataFrame, Curves]] = []
    outputs: set[str] = set()
    known: set[str] = set()
    cases = pd.DataFrame(columns=[*CASE_COLUMNS, "chunk"])
    held = held_curves(runs, {f"{metric}.curve" for run in runs for metric in run.config["metrics"]})
    # Two at a time: while one waits for files, the other's become arrays.
    with ThreadPoolExecutor(2) as pool:
        for run, (frame, curves) in zip(runs, pool.map(partial(read_values, curves=held), runs), strict=True):
            if frame.empty:
                log.warning("left out: %s holds no readable case", run.path)
                continue
            if not known.issuperset(frame["case_id"].tolist()):
                # Nearly always the cases of all runs are the same, and only the first run's are read.
                own, _ = read_frame(run, CASE_COLUMNS)
                cases = pd.concat([cases, own] if len(cases) else [own])
                cases = cases.drop_duplicates("case_id").sort_values("case_id", ignore_index=True)
                known = set(cases["case_id"].tolist())
            parts.append((run, frame, curves))
            outputs |= set(frame.columns) - {"case_id", "degenerate", "chunk"}
    if not parts:
        return None
    names = sorted(outputs)
    labels = method_labels([run for run, _, _ in parts])
    ordered, entries = cases["case_id"].tolist(), []
    at, before = np.empty(0, dtype=np.intp), None
    for label, (run, frame, curves) in zip(labels, parts, strict=True):
        ids = frame["case_id"].tolist()
        if ids != before:
            row = {case_id: i for i, case_id in enumerate(ids)}
            at, before = np.array([row.get(case_id, -1) for case_id in ordered]), ids
        values = placed(frame.reindex(columns=names).to_numpy(dtype=np.float64), at)
        reasons = frame["degenerate"].fillna("").value_counts()
        degenerate = {str(reason): int(number) for reason, number in sorted(reasons.items()) if reason}
        kept = {curve: placed(matrix, at) for curve, matrix in curves.items()}
        curves.clear()  # else all of them would be there twice
        config, name = run.config, str(run.config["method"])
        of = (label, name, str(config["layer"]), category_of(name), run)
        entries.append(Entry(*of, values, len(frame), degenerate, kept))
    metrics = {name: node for run, _, _ in parts for name, node in run.config["metrics"].items()}
    first = parts[0][0].config
    return Group(
        str(first["dataset"]),
        str(first["model"]),
        str(first["protocol"]),
        cases,
        pd.factorize(cases["image_id"], sort=True)[0].astype(np.int64),
        pd.factorize(cases["class_name"], sort=True)[0].astype(np.int64),
        sorted(entries, key=entry_order),
        names,
        metrics,
    )


def placed(rows: NDArray[Any], at: NDArray[np.intp]) -> NDArray[Any]:
    """Rows in another order, NaN where it asks for -1."""
    found = rows[at]
    found[at < 0] = np.nan
    return found


def entry_order(entry: Entry) -> tuple[Any, ...]:
    """Sort key: layers in the network's order, last those that look at no layer; categories, then names."""
    index = entry.run.config.get("layer_index", 0)
    category = CATEGORIES.index(entry.category)
    return entry.layer == NO_LAYER, index, natural(entry.layer), category, entry.method


def method_labels(runs: Sequence[Run]) -> list[str]:
    """Name of each run's method; where one name stands for several parameter sets, with those that differ."""
    variants: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        variants.setdefault(str(run.config["method"]), []).append(run.config.get("method_parameters") or {})
    labels = []
    for run in runs:
        name = str(run.config["method"])
        mine = run.config.get("method_parameters") or {}
        keys = sorted({key for other in variants[name] for key in other})
        differing = [key for key in keys if any(other.get(key) != mine.get(key) for other in variants[name])]
        labels.append(f"{name}({', '.join(f'{key}={mine.get(key)}' for key in differing)})" if differing else name)
    places = [(label, str(run.config["layer"])) for label, run in zip(labels, runs, strict=True)]
    return [
        label if places.count(place) == 1 else f"{label}#{run.path.name.rpartition('-')[2]}"
        for label, place, run in zip(labels, places, runs, strict=True)
    ]
