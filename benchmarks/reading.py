"""What reading results costs: `bench.report` on 2.4 million made rows, its seconds and its peak memory.

50,000 images x 12 methods x 4 layers are 48 run folders of 782 chunk files each, with the columns of the default
metrics. The values are made up (a level per method, a difficulty per image, noise), the files are as the runner writes
them, merged files among them; a few cases have pictures and maps, for the gallery. Making them takes some minutes and
2.9 GB of disk; ``--folder`` keeps them for the next time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from PIL import Image

from bench.analysis.groups import conf_of
from bench.analysis.merged import merge
from bench.runs import store
from bench.runs.rows import META
from benchmarks.common import measured

IMAGES, CHUNK, CLASSES = 50_000, 64, 1000
METHODS = [
    "grad_cam", "hirescam", "respond_cam", "xgrad_cam", "grad_cam_pp", "layer_cam", "grad_entropy", "feature_entropy",
    "eigen_cam", "score_cam", "ablation_cam", "activation_sum",
]  # fmt: skip
LAYERS = ["layer1.2.relu", "layer2.3.relu", "layer3.5.relu", "layer4.2.relu"]
METRICS = ["deletion", "insertion", "pointing_game", "energy_pointing_game", "box_coverage"]
CURVES = {"deletion.curve": 29, "insertion.curve": 29, "box_coverage.coverage_curve": 20}
PICTURES, MAP = 8, 7  # cases of the gallery, each in a chunk of its own; side of their maps
SECONDS, BYTES = 60, 4 * 2**30  # what the report may take

Values = NDArray[np.float32]


def scalars() -> list[str]:
    """Columns with one value per case: those that have a direction."""
    found = {name: conf_of("metric", name)["about"]["higher_is_better"] for name in METRICS}
    return [f"{name}.{output}" for name, outputs in found.items() for output in outputs]


def lists(values: NDArray[np.generic]) -> pa.ListArray:
    """Arrow list column of an array (rows, length)."""
    rows, length = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * length), pa.array(values.ravel()))


def case_columns(start: int, rows: int, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Columns that are the same for all methods and layers; those of maps are empty."""
    number = np.arange(start, start + rows)
    classes = [f"n{i * 7919 % CLASSES:08d}" for i in number]
    given = {
        "case_id": [f"ILSVRC2012_val_{i:08d}/{name}" for i, name in zip(number, classes, strict=True)],
        "image_id": [f"ILSVRC2012_val_{i:08d}" for i in number],
        "class_name": classes,
        "target": lists(number[:, None] % CLASSES),
        "n_instances": np.minimum(rng.geometric(0.6, rows), 8),
        "box_area": rng.beta(1.2, 2, rows),
        "probability": rng.beta(1.5, 0.7, rows),
        "predicted": number % CLASSES,
        "predicted_probability": rng.random(rows),
        "boxes": lists(rng.random((rows, 4), dtype=np.float32) * 224),
        "other_boxes": lists(np.empty((rows, 0), dtype=np.float32)),
        "height": np.full(rows, 224),
        "width": np.full(rows, 224),
        "degenerate": [""] * rows,
    }
    columns = {name: value if isinstance(value, pa.Array) else pa.array(value) for name, value in given.items()}
    empty = {field.name: pa.nulls(rows, field.type) for field in META if field.name not in columns}
    return {field.name: (columns | empty)[field.name].cast(field.type) for field in META}


def metric_columns(
    level: float, difficulty: Values, large: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, pa.Array]:
    """Values of one method at one layer for a chunk; `large` boxes have no box coverage."""
    rows = len(difficulty)
    columns: dict[str, pa.Array] = {}
    for name in scalars():
        value = np.clip(level + 0.25 * difficulty + 0.1 * rng.standard_normal(rows, dtype=np.float32), 0, 1)
        if name == "pointing_game.hit":
            value = (value > 0.4).astype(np.float32)
        if name.startswith("box_coverage"):
            value = np.where(large, np.float32(np.nan), value)
        columns[name] = pa.array(value.astype(np.float64))
    for name, length in CURVES.items():
        share = np.linspace(0, 1, length, dtype=np.float32)
        steep = 2 + 3 * level + difficulty[:, None] + 0.3 * rng.standard_normal((rows, 1), dtype=np.float32)
        columns[name] = lists(np.exp(-steep * share))
    return columns


def gallery_numbers(images: int) -> list[int]:
    """Which cases have a picture and maps: the first of each of a few chunks far apart."""
    return list(range(0, images, CHUNK * max(images // CHUNK // PICTURES, 1)))[:PICTURES]


def map_columns(rows: int, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Columns of a chunk whose first case has its map kept."""
    heat = rng.random(MAP * MAP).astype(np.float16)
    kept = {"map": heat, "map_shape": [MAP, MAP], "map_scale": 1.0}
    return {name: pa.array([value, *[None] * (rows - 1)], META.field(name).type) for name, value in kept.items()}


def write_pictures(folder: Path, images: int) -> None:
    """Pictures of the gallery's cases, soft patches of colour."""
    for number in gallery_numbers(images):
        rng = np.random.default_rng(number)
        (case_id,) = case_columns(number, 1, rng)["case_id"].to_pylist()
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((224, 224))
        path = folder / f"{store.image_name(case_id)}.png"
        store.write_atomically(path, lambda to, picture=picture: picture.save(to, "png"))


def make(root: Path, images: int = IMAGES) -> None:
    """Write the results folder; what is there already is kept."""
    base = root / "imagenet" / "resnet50"
    measured = {name: conf_of("metric", name) for name in METRICS}
    folders = {}
    for i, method in enumerate(METHODS):
        for j, layer in enumerate(LAYERS):
            folder = base / f"{method}@{layer}-{10 * i + j:010x}"
            folders[folder] = 0.25 + 0.02 * i + 0.05 * j
            config = {
                "dataset": "imagenet", "model": "resnet50", "weights": "default", "method": method, "layer": layer,
                "layer_index": j, "key": folder.name[-10:], "protocol": "made", "cases": images, "chunk": CHUNK,
                "seed": 0, "metrics": measured, "method_parameters": {"relu": True},
            }  # fmt: skip
            store.write_text(folder / store.CONFIG, yaml.safe_dump(config, sort_keys=False))
    write_pictures(base / "_images-made", images)
    shown = gallery_numbers(images)
    for index, start in enumerate(range(0, images, CHUNK)):
        if all(store.chunk_path(folder, index).is_file() for folder in folders):
            continue
        rng = np.random.default_rng(index)
        rows = min(CHUNK, images - start)
        about = case_columns(start, rows, rng)
        difficulty = rng.standard_normal(rows, dtype=np.float32)
        large = about["box_area"].to_numpy() > 0.85
        for folder, level in folders.items():
            values = metric_columns(level, difficulty, large, rng)
            maps = map_columns(rows, rng) if start in shown else {}
            table = pa.table(about | maps | values)
            store.write_table(store.chunk_path(folder, index), table, {"key": folder.name[-10:], "skipped": []})
    for run in store.find_runs(root):
        merge(run)


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
