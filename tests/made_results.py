"""Results folders made without a network, for the tests of tables, figures and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from bench.analysis import parts
from bench.analysis.groups import Group, group_folders
from bench.analysis.loading import load_group
from bench.store.files import hash_key, image_name, safe_name
from bench.store.folders import PROTOCOL, find_folders
from bench.store.parts import CHUNK, read_part, write_part

CASE = pa.schema(
    [
        ("method", pa.string()), ("layer", pa.string()), ("case_id", pa.string()), ("image_id", pa.string()),
        ("class_name", pa.string()), ("target", pa.list_(pa.int64())), ("n_instances", pa.int64()),
        ("box_area", pa.float64()), ("probability", pa.float64()), ("predicted", pa.int64()),
        ("predicted_probability", pa.float64()), ("boxes", pa.list_(pa.float32())),
        ("other_boxes", pa.list_(pa.float32())), ("height", pa.int64()), ("width", pa.int64()),
        ("degenerate", pa.string()), ("map", pa.list_(pa.float32())), ("map_shape", pa.list_(pa.int64())),
    ]
)  # fmt: skip
PARAMETERS = {"dataset": {"name": "made"}, "seed": 0, "input": {"size": 224}}
KEY = hash_key(PARAMETERS)
CATEGORIES = {"grad_cam": "gradient", "hirescam": "gradient", "grad_entropy": "entropy"}
CONTROLS = ("activation_sum", "random", "center", "edges", "uniform")

METRICS = {
    "deletion": {
        "steps": 14,
        "baseline": "zero",
        "about": {"higher_is_better": {"auc": False}, "show": ["auc"], "unit": "probability"},
    },
    "insertion": {"steps": 28, "about": {"higher_is_better": {"auc": True}, "show": ["auc"]}},
    "pointing_game": {
        "tolerance": 15,
        "about": {"higher_is_better": {"hit": True}, "show": ["hit"], "class_mean": ["hit"]},
    },
    "box_coverage": {
        "max_area": 0.85,
        "about": {
            "higher_is_better": {"coverage": True, "min_coverage": True, "purity": True},
            "show": ["min_coverage", "coverage", "purity"],
        },
    },
}
LAYERS = ("blocks.6.0.bn2.act", "bn2.act")
METHODS = (
    *((method, layer) for layer in LAYERS for method in ("grad_cam", "hirescam", "grad_entropy", "activation_sum")),
    ("random", "-"),
    ("center", "-"),
)


def case_of(
    i: int, rng: np.random.Generator, classes: Sequence[str] = ("cat", "cup", "moped"), picture: str = "{:04d}"
) -> dict[str, Any]:
    """Columns that describe the case; every third image carries two cases."""
    boxes = []
    for _ in range(i % 6 + 1 if i % 7 else 5):
        x, y = rng.uniform(0, 150, 2)
        boxes += [x, y, x + rng.uniform(20, 70), y + rng.uniform(20, 70)]
    name = classes[i % len(classes)]
    return {
        "case_id": f"{picture.format(i)}/{name}", "image_id": picture.format(i - (i % 3 == 2)),
        "class_name": name, "target": [i % 3],
        "n_instances": len(boxes) // 4, "box_area": float(rng.uniform(0.02, 0.6)),
        "probability": float(rng.uniform(0.05, 1)), "predicted": 1, "predicted_probability": 0.9,
        "boxes": boxes, "other_boxes": [5.0, 5.0, 40.0, 60.0] if i % 2 else [], "height": 224, "width": 224,
    }  # fmt: skip


def values_of(level: float, rng: np.random.Generator) -> dict[str, Any]:
    """Metric columns of a case; the better the level, the lower the deletion curve."""
    x = np.linspace(0, 1, 15)
    noise = rng.normal(0, 0.08)
    deletion, insertion = np.exp(-x * (4 * level + noise + 1)), 1 - np.exp(-x * (5 * level + noise + 1))
    coverage = float(np.clip(level + noise, 0, 1))
    return {
        "deletion.auc": float(np.trapezoid(deletion, x)), "deletion.curve": deletion.tolist(),
        "insertion.auc": float(np.trapezoid(insertion, x)), "insertion.curve": insertion.tolist(),
        "pointing_game.hit": float(rng.random() < level), "box_coverage.coverage": coverage,
        "box_coverage.min_coverage": coverage * 0.7, "box_coverage.purity": float(np.clip(level + 0.1, 0, 1)),
    }  # fmt: skip


def protocol_folder(root: Path, dataset: str, model: str, parameters: dict[str, Any] = PARAMETERS) -> Path:
    """Make the folder of a protocol."""
    key = hash_key(parameters)
    folder = root / safe_name(dataset) / f"{safe_name(model)}-{key}"
    protocol = {"format": 2, "key": key, "dataset": dataset, "model": model, "weights": "random"}
    folder.mkdir(parents=True, exist_ok=True)
    protocol |= {"parameters": parameters}
    text = yaml.safe_dump(protocol | {"hash": hash_key(protocol)}, sort_keys=False)
    (folder / PROTOCOL).write_text(text, encoding="utf-8")
    return folder


def entry_of(method: str, layer: str, **more: Any) -> dict[str, Any]:
    """Entry of a note; the method's name is its label without parameters."""
    name = method.partition("(")[0]
    entry = {
        "method": method, "name": name, "layer": layer, "layers": [layer], "version": 1, "parameters": {"relu": True},
        "index": LAYERS.index(layer) if layer in LAYERS else -1, "seconds": {},
        "category": "control" if name in CONTROLS else CATEGORIES.get(name, "other"),
    } | more  # fmt: skip
    return {"key": hash_key([method, layer, entry["version"]])} | entry


def metric_node(label: str, node: dict[str, Any]) -> dict[str, Any]:
    """Metric of a note, from parameters with ``about``."""
    about = node.get("about", {})
    parameters = {key: value for key, value in node.items() if key not in ("about", "_target_")}
    version = about.get("version", 1)
    return {"key": hash_key([label, parameters, version]), "name": label.partition("(")[0], "version": version,
            "parameters": parameters, "about": about}  # fmt: skip


def write_parts(
    folder: Path,
    entries: Sequence[tuple[dict[str, Any], Sequence[dict[str, Any]]]],
    metrics: dict[str, dict[str, Any]],
    size: int = CHUNK,
    first: int = 0,
    **note: Any,
) -> list[Path]:
    """Parts of `size` cases with all entries, as the runner leaves them.

    Parameters
    ----------
    entries : sequence of (entry, rows)
        From `entry_of`; the rows of all entries are of the same cases in the same order.
    metrics : dict
        By label, with ``about``.
    first : int
        Number of the first part's chunk.
    note
        More for the note.
    """
    paths = []
    for start in range(0, len(entries[0][1]), size):
        rows, written = [], []
        for entry, own in entries:
            part = own[start : start + size]
            rows += [{"method": entry["method"], "layer": entry["layer"], **row} for row in part]
            written.append(entry | {"maps": "".join(str(int(row.get("map") is not None)) for row in part)})
        names = dict.fromkeys(name for row in rows for name in row if "." in name)
        lists = {name for row in rows for name in names if isinstance(row.get(name), list)}
        kinds = {name: pa.list_(pa.float32()) if name in lists else pa.float64() for name in names}
        about = {
            "protocol": folder.name.rpartition("-")[2], "entries": written,
            "cases": [row["case_id"] for row in entries[0][1][start : start + size]],
             "metrics": {label: metric_node(label, node) for label, node in metrics.items()},
            "skipped": [], "dropped": [], "batch": 16, "score_batch": 64, "device": "cpu", "made": {},
        }  # fmt: skip
        schema = pa.schema([*CASE, *kinds.items()])
        paths.append(write_part(folder, first + start // size, rows, schema, about | note))
    return paths


def make_results(
    root: Path,
    cases: int = 24,
    methods: Sequence[tuple[str, str]] = METHODS,
    dataset: str = "collage",
    model: str = "efficientnet_lite0",
    gallery: int = 4,
    seed: int = 0,
    note: dict[str, Any] | None = None,
    **names: Any,
) -> Path:
    """A whole results root with pictures; grad_entropy vanishes at the last layer. Returns `root`.

    `names` (``classes``, ``picture``) go to `case_of`.
    """
    rng = np.random.default_rng(seed)
    about = [case_of(i, rng, **names) for i in range(cases)]
    folder = protocol_folder(root, dataset, model)
    entries = []
    for number, (method, layer) in enumerate(methods):
        rows = []
        zero = method == "grad_entropy" and layer == LAYERS[-1]
        for i, case in enumerate(about):
            row = case | values_of(0.3 + 0.06 * (number % 7), rng) | {"degenerate": "zero" if zero else ""}
            if i == 3:
                row["box_coverage.coverage"] = row["box_coverage.min_coverage"] = float("nan")
            size = 7 if layer != "-" else 24
            heat = np.zeros(size * size) if zero else rng.random(size * size)
            kept = i < gallery
            rows.append(row | {"map": heat.tolist() if kept else None, "map_shape": [size, size] if kept else None})
        entries.append((entry_of(method, layer), rows))
    write_parts(folder, entries, METRICS, **(note or {}))
    images = folder / "_images"
    images.mkdir(parents=True, exist_ok=True)
    for case in about[:gallery]:
        picture = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).resize((224, 224)).save(images / f"{image_name(case['case_id'])}.png")
    return root


def groups_of(root: Path, **filters: Any) -> list[Group]:
    """All groups below a root."""
    return [load_group(*folders, **filters) for folders in group_folders(find_folders(root))]


def group_of(root: Path, **filters: Any) -> Group:
    """The only group below a root."""
    (group,) = groups_of(root, **filters)
    return group


def rows_of(root: Path, method: str, layer: str) -> pd.DataFrame:
    """Rows of a method at a layer by case id, read as anyone would who does not know this program."""
    table = pd.concat([pd.read_parquet(path) for path in sorted(root.rglob("part-*.parquet"))])
    return table[(table["method"] == method) & (table["layer"] == layer)].set_index("case_id")


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """``results(**arguments)``: make a results folder, see `make_results`."""

    def make(name: str = "results", **arguments: Any) -> Path:
        return make_results(tmp_path / name, **arguments)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One results folder for all tests that only read it."""
    return make_results(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """Parts that are read in this test, each with the names of its columns that are."""
    noted: list[tuple[Path, list[str]]] = []

    def read_and_note(path: Path, columns: Any = None) -> tuple[pa.Table, dict[str, Any]]:
        table, note = read_part(path, columns)
        noted.append((path, table.column_names))
        return table, note

    monkeypatch.setattr(parts, "read_part", read_and_note)
    return noted


def records(root: Path, method: str, layer: str) -> list[dict[str, Any]]:
    """`rows_of` as rows for `write_parts`."""
    rows = rows_of(root, method, layer).reset_index().to_dict("records")
    return [{name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in row.items()} for row in rows]


def full(row: dict[str, Any]) -> dict[str, Any]:
    """Row with every column that describes a case."""
    return case_of(0, np.random.default_rng(0)) | {"degenerate": ""} | row


@pytest.fixture
def one_run(tmp_path: Path) -> Callable[..., Path]:
    """``one_run(method, layer, rows)``: parts with exactly these rows; case columns are filled in. Returns the root."""

    def make(
        method: str,
        layer: str,
        rows: Sequence[dict[str, Any]],
        name: str = "results",
        metrics: dict[str, Any] = METRICS,
        dataset: str = "data",
        model: str = "net",
        parameters: dict[str, Any] = PARAMETERS,
    ) -> Path:
        filled = [full(row) for row in rows]
        used = {column.rpartition(".")[0] for row in rows for column in row}
        folder = protocol_folder(tmp_path / name, dataset, model, parameters)
        write_parts(folder, [(entry_of(method, layer), filled)], {k: v for k, v in metrics.items() if k in used})
        return tmp_path / name

    return make
