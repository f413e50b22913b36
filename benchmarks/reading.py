"""What reading results costs: `bench.report` on 2.4 million made rows, its seconds and its peak memory.

50,000 images x 12 methods x 4 layers are one results folder of 3,125 parts of 16 cases, with the columns of the default
metrics. The values are made up (a level per method, a difficulty per image, noise), the files are as the runner writes
them; a few cases have pictures and maps, for the gallery. Making them takes some minutes and 2 GB of disk; ``--folder``
keeps them for the next time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image

from bench.options import conf_node
from bench.store import parts
from bench.store.files import hash_key, image_name, write_atomically, write_text
from bench.store.folders import PROTOCOL
from bench.store.parts import FORMAT
from benchmarks.common import measured

IMAGES, CLASSES = 50_000, 1000
METHODS = [
    "grad_cam", "hirescam", "respond_cam", "xgrad_cam", "grad_cam_pp", "layer_cam", "grad_entropy", "feature_entropy",
    "eigen_cam", "score_cam", "ablation_cam", "activation_sum",
]  # fmt: skip
LAYERS = ["layer1.2.relu", "layer2.3.relu", "layer3.5.relu", "layer4.2.relu"]
METRICS = ["deletion", "insertion", "pointing_game", "energy_pointing_game", "box_coverage"]
CURVES = {"deletion.curve": 29, "insertion.curve": 29, "box_coverage.coverage_curve": 20}
PICTURES, MAP = 8, 7  # cases of the gallery, each in a part of its own; side of their maps
SECONDS, BYTES = 60, 4 * 2**30  # what the report may take
ABOUT = pa.schema(
    [
        ("method", pa.string()), ("layer", pa.string()), ("case_id", pa.string()), ("image_id", pa.string()),
        ("class_name", pa.string()), ("target", pa.list_(pa.int64())), ("n_instances", pa.int64()),
        ("box_area", pa.float64()), ("probability", pa.float64()), ("predicted", pa.int64()),
        ("predicted_probability", pa.float64()), ("boxes", pa.list_(pa.float32())),
        ("other_boxes", pa.list_(pa.float32())), ("height", pa.int64()), ("width", pa.int64()),
        ("degenerate", pa.string()), ("map", pa.list_(pa.float32())), ("map_shape", pa.list_(pa.int64())),
    ]
)  # fmt: skip


@cache
def scalars() -> list[str]:
    """Columns with one value per case: those that have a direction."""
    outputs = {name: conf_node("metric", name)["about"]["higher_is_better"] for name in METRICS}
    return [f"{name}.{output}" for name in METRICS for output in outputs[name]]


def case_of(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Columns that are the same for all methods and layers."""
    image, name = f"ILSVRC2012_val_{number:08d}", f"n{number * 7919 % CLASSES:08d}"
    return {
        "case_id": f"{image}/{name}", "image_id": image, "class_name": name, "target": [number % CLASSES],
        "n_instances": int(min(rng.geometric(0.6), 8)), "box_area": float(rng.beta(1.2, 2)),
        "probability": float(rng.beta(1.5, 0.7)), "predicted": number % CLASSES,
        "predicted_probability": float(rng.random()), "boxes": (rng.random(4) * 224).tolist(), "other_boxes": [],
        "height": 224, "width": 224, "degenerate": "",
    }  # fmt: skip


def metric_values(level: float, difficulty: float, large: bool, rng: np.random.Generator) -> dict[str, Any]:
    """Values of one method at one layer for a case; `large` boxes have no box coverage."""
    names = scalars()
    values = np.clip(level + 0.25 * difficulty + 0.1 * rng.standard_normal(len(names)), 0, 1)
    columns: dict[str, Any] = dict(zip(names, values.tolist(), strict=True))
    columns["pointing_game.hit"] = float(columns["pointing_game.hit"] > 0.4)
    if large:
        columns |= {name: float("nan") for name in names if name.startswith("box_coverage")}
    steep = 2 + 3 * level + difficulty + 0.3 * rng.standard_normal(len(CURVES))
    for (name, length), slope in zip(CURVES.items(), steep, strict=True):
        columns[name] = np.exp(-slope * np.linspace(0, 1, length, dtype=np.float32))
    return columns


def gallery_numbers(images: int) -> list[int]:
    """Which cases have a picture and maps: the first of each of a few parts far apart."""
    return list(range(0, images, parts.CHUNK * max(images // parts.CHUNK // PICTURES, 1)))[:PICTURES]


def write_picture(folder: Path, case: dict[str, Any], rng: np.random.Generator) -> None:
    """Picture of a case of the gallery, soft patches of colour."""
    picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((224, 224))
    path = folder / f"{image_name(case['case_id'])}.png"
    write_atomically(path, lambda to: picture.save(to, "png"))


def entries() -> list[dict[str, Any]]:
    """Make the notes of all methods at all layers, layer by layer."""
    return [
        {
            "key": hash_key([method, layer]), "method": method, "name": method, "layer": layer,
            "layers": [layer], "index": j, "version": 1, "parameters": {"relu": True}, "reads_network": True,
            "category": "control" if method == "activation_sum" else "gradient",
            "seconds": {"capture": 0.1, "method": 0.02 * (i + 1), "metrics": 0.5},
        }
        for j, layer in enumerate(LAYERS) for i, method in enumerate(METHODS)
    ]  # fmt: skip


@cache
def metric_nodes() -> dict[str, Any]:
    """Make the notes of all metrics."""
    nodes = {name: conf_node("metric", name) for name in METRICS}
    return {
        name: {
            "key": hash_key(node), "name": name, "version": 1, "about": node["about"],
            "parameters": {key: value for key, value in node.items() if key not in ("about", "_target_")},
        }
        for name, node in nodes.items()
    }  # fmt: skip


def make_part(folder: Path, chunk: int, images: int) -> None:
    """Write one part, with pictures and maps where the gallery has a case."""
    rng = np.random.default_rng(chunk)
    numbers = range(chunk * parts.CHUNK, min(images, (chunk + 1) * parts.CHUNK))
    cases = [case_of(number, rng) for number in numbers]
    difficulty = rng.standard_normal(len(cases))
    shown = [number in gallery_numbers(images) for number in numbers]
    rows, written = [], []
    for i, entry in enumerate(entries()):
        level = 0.25 + 0.02 * (i % len(METHODS)) + 0.05 * entry["index"]
        written.append({**entry, "maps": "".join(str(int(kept)) for kept in shown)})
        for case, kept, hard in zip(cases, shown, difficulty, strict=True):
            heat = {"map": rng.random(MAP * MAP, dtype=np.float32), "map_shape": [MAP, MAP]} if kept else {}
            values = metric_values(level, hard, case["box_area"] > 0.85, rng)
            rows.append({"method": entry["method"], "layer": entry["layer"], **case, **heat, **values})
    for case, kept in zip(cases, shown, strict=True):
        if kept:
            write_picture(folder / "_images", case, rng)
    fields = [*((name, pa.float64()) for name in scalars()), *((name, pa.list_(pa.float32())) for name in CURVES)]
    note = {
        "protocol": folder.name.rpartition("-")[2], "cases": [case["case_id"] for case in cases], "entries": written,
        "metrics": metric_nodes(), "skipped": [], "dropped": [], "batch": 16, "score_batch": 64, "device": "cpu",
        "made": {"command": ["benchmarks/reading.py"], "device": "cpu", "precision": "float32", "threads": 1},
    }  # fmt: skip
    parts.write_part(folder, chunk, rows, pa.schema([*ABOUT, *fields]), note)


def make(root: Path, images: int = IMAGES) -> None:
    """Write the results folder; parts that exist are kept."""
    parameters = {"dataset": {"name": "imagenet"}, "seed": 0}
    key = hash_key(parameters)
    folder = root / "imagenet" / f"resnet50-{key}"
    protocol = {"format": FORMAT, "key": key, "dataset": "imagenet", "model": "resnet50", "weights": "default"}
    write_text(folder / PROTOCOL, yaml.safe_dump({**protocol, "parameters": parameters}, sort_keys=False))
    for chunk in range(-(-images // parts.CHUNK)):
        if not any(folder.glob(f"part-{chunk:05d}-*.parquet")):
            make_part(folder, chunk, images)


def rows(repeats: int = 1, folder: Path | None = None) -> list[str]:
    """Rows of the benchmarks' table: seconds against the limit, peak memory against the limit.

    Parameters
    ----------
    repeats : int
        The median of the seconds and the largest peak count.
    folder : Path, optional
        Where the results lie or are to be made; a temporary folder by default.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        make(root)
        found = [measured([sys.executable, "-m", "bench.report", str(root)]) for _ in range(repeats)]
    seconds, peak = median(s for s, _ in found), max(p for _, p in found)
    work = f"report on {IMAGES * len(METHODS) * len(LAYERS) / 1e6:.1f} million rows"
    return [
        f"| {work} | {SECONDS} s | {seconds * 1e3:.0f} | {SECONDS * 1e3:.0f} | {seconds / SECONDS:.2f} | at most 1 |",
        f"| {work}, peak memory in MB | 4 GB | {peak / 2**20:.0f} | {BYTES / 2**20:.0f} | {peak / BYTES:.2f} "
        "| at most 1 |",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the made results are kept")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    print("\n".join(rows(arguments.repeats, arguments.folder)))


if __name__ == "__main__":
    main()
