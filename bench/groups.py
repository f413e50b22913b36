"""Result folders that can be compared with each other, read into one set of arrays."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bench.statistics import Array, Codes
from bench.store import Run, read_tables

log = logging.getLogger(__name__)

NO_LAYER = "-"
CONTROLS = ("activation_sum", "random", "center", "edges", "uniform")
CATEGORIES = ("gradient", "entropy", "activation", "perturbation", "attribution", "other", "control")
# Categories of those modules in methods/ that are not called after theirs.
MODULES = {"more_gradients": "gradient", "full_gradient": "gradient", "rise": "perturbation"}
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
    """

    method: str
    name: str
    layer: str
    category: str
    run: Run
    values: Array
    rows: int
    degenerate: dict[str, int]

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
    path = Path(__file__).parent / "conf" / kind / f"{name}.yaml"
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


def metric_columns(run: Run) -> tuple[list[str], list[str]]:
    """Names of the scalar columns and of the curve columns of a run, from its first readable chunk."""
    for path in sorted(run.path.glob("chunk-*.parquet")):
        try:
            schema = pq.read_schema(path)
        except (OSError, pa.ArrowException):
            continue
        fields = [field for field in schema if field.name.partition(".")[0] in run.config["metrics"]]
        curves = [field.name for field in fields if pa.types.is_list(field.type)]
        return [field.name for field in fields if field.name not in curves], curves
    return [], []


def read_frame(run: Run, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a run with ``chunk``, the index of the file, one row a case."""
    tables = [table.append_column("chunk", pa.repeat(index, len(table))) for index, table in read_tables(run, columns)]
    if not tables:
        return pd.DataFrame(columns=[*columns, "chunk"])
    return pa.concat_tables(tables, promote_options="default").to_pandas().drop_duplicates("case_id")


def load_group(runs: Sequence[Run]) -> Group | None:
    """Read the scalar columns of runs that share data set, model and protocol.

    Parameters
    ----------
    runs : sequence of Run
        One entry of `group_runs`.

    Returns
    -------
    Group or None
        None where no run holds a readable case. Maps and curves are not read, so the memory needed
        is 16 bytes a value at most.
    """
    parts: list[tuple[Run, pd.DataFrame]] = []
    outputs: set[str] = set()
    cases = pd.DataFrame(columns=[*CASE_COLUMNS, "chunk"])
    for run in runs:
        scalars, _ = metric_columns(run)
        frame = read_frame(run, ["case_id", "degenerate", *scalars])
        if frame.empty:
            log.warning("left out: %s holds no readable case", run.path)
            continue
        if not pd.Index(frame["case_id"]).isin(cases["case_id"]).all():
            # Nearly always the cases of all runs are the same, and only the first run's are read.
            cases = pd.concat([cases, read_frame(run, CASE_COLUMNS)] if len(cases) else [read_frame(run, CASE_COLUMNS)])
            cases = cases.drop_duplicates("case_id").sort_values("case_id", ignore_index=True)
        parts.append((run, frame.set_index("case_id")))
        outputs |= set(scalars)
    if not parts:
        return None
    names = sorted(outputs)
    labels = method_labels([run for run, _ in parts])
    entries = []
    for label, (run, frame) in zip(labels, parts, strict=True):
        values = frame.reindex(index=cases["case_id"], columns=names).to_numpy(dtype=np.float64)
        reasons = frame["degenerate"].fillna("").value_counts()
        degenerate = {str(reason): int(number) for reason, number in sorted(reasons.items()) if reason}
        config = run.config
        name = str(config["method"])
        entries.append(Entry(label, name, str(config["layer"]), category_of(name), run, values, len(frame), degenerate))
    metrics = {name: node for run, _ in parts for name, node in run.config["metrics"].items()}
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
