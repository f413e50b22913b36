"""Results folders made without a network, for the tests of tables, figures and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from bench.runs import store

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


def write_run(
    folder: Path, rows: Sequence[dict[str, Any]], config: dict[str, Any], chunk: int = 16, key: str | None = None
) -> None:
    """A results folder as the runner leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (folder / "_provenance.json").write_text("{}", encoding="utf-8")
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        schema = pa.Table.from_pylist(list(part)).schema
        note = {"key": key or config.get("key"), "skipped": []}
        store.write_chunk(store.chunk_path(folder, start // chunk), part, schema, note)


def config_of(method: str, layer: str, dataset: str, model: str, cases: int) -> dict[str, Any]:
    """A `_config.yaml` with what the readers look at."""
    return {
        "dataset": dataset, "model": model, "method": method, "layer": layer, "protocol": "abc123",
        "layer_index": LAYERS.index(layer) if layer in LAYERS else -1, "cases": cases, "chunk": 16, "seed": 0,
        "metrics": METRICS, "method_parameters": {"relu": True},
    }  # fmt: skip


def make_results(
    root: Path,
    cases: int = 24,
    methods: Sequence[tuple[str, str]] = METHODS,
    dataset: str = "collage",
    model: str = "efficientnet_lite0",
    gallery: int = 4,
    seed: int = 0,
    **names: Any,
) -> Path:
    """A whole results root with pictures; grad_entropy vanishes at the last layer. Returns `root`.

    `names` (``classes``, ``picture``) go to `case_of`.
    """
    rng = np.random.default_rng(seed)
    about = [case_of(i, rng, **names) for i in range(cases)]
    base = root / store.safe_name(dataset) / store.safe_name(model)
    for number, (method, layer) in enumerate(methods):
        rows = []
        zero = method == "grad_entropy" and layer == LAYERS[-1]
        for i, case in enumerate(about):
            row = case | values_of(0.3 + 0.06 * (number % 7), rng) | {"degenerate": "zero" if zero else ""}
            if i == 3:
                row["box_coverage.coverage"] = row["box_coverage.min_coverage"] = float("nan")
            size = 7 if layer != "-" else 224
            heat = np.zeros(size * size) if zero else rng.random(size * size)
            kept = i < gallery
            row |= {"map": heat.astype(np.float16) if kept else None, "map_shape": [size, size] if kept else None}
            rows.append(row | {"map_scale": 1.0 if kept else None})
        name = f"{store.safe_name(method)}@{store.safe_name(layer)}-{number:08x}"
        write_run(base / name, rows, config_of(method, layer, dataset, model, cases))
    images = base / "_images-abc123"
    images.mkdir(parents=True, exist_ok=True)
    for case in about[:gallery]:
        picture = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).resize((224, 224)).save(images / f"{store.image_name(case['case_id'])}.png")
    return root


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
    """Chunk files that are read in this test, each with the names of its columns that are."""
    found: list[tuple[Path, list[str]]] = []

    class Noted(pq.ParquetFile):
        def __init__(self, path: Path, **options: Any) -> None:
            super().__init__(path, **options)
            self.path = path

        def read(self, **options: Any) -> pa.Table:
            table = super().read(**options)
            found.append((self.path, table.column_names))
            return table

    monkeypatch.setattr(store.pq, "ParquetFile", Noted)
    return found


@pytest.fixture
def one_run(tmp_path: Path) -> Callable[..., Path]:
    """``one_run(method, layer, rows)``: a folder with exactly these rows; case columns are filled in."""

    def make(method: str, layer: str, rows: Sequence[dict[str, Any]], name: str = "results", **config: Any) -> Path:
        filled = [case_of(0, np.random.default_rng(0)) | {"degenerate": ""} | row for row in rows]
        folder = tmp_path / name / "data" / "net" / f"{method}@{layer}-{len(rows):08x}"
        write_run(folder, filled, config_of(method, layer, "data", "net", len(rows)) | config)
        return tmp_path / name

    return make
