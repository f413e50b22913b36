"""Pictures and maps that a run kept: read back, upsampled as in the benchmark, laid over each other."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from bench.analysis.groups import Group
from bench.analysis.parts import read_parts
from bench.store.files import image_name, read_file

log = logging.getLogger(__name__)
LARGEST = 4096**2  # pixels of a kept picture, which has the network's input size

SHOWN_COLUMNS = [
    "case_id", "class_name", "boxes", "other_boxes", "height", "width", "probability", "predicted",
    "predicted_probability", "degenerate", "map", "map_shape",
]  # fmt: skip


PALETTE, OPACITY = "inferno", 0.85  # in figures and on the page


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures of the gallery and each entry's rows for them, by case id; `kept` counts the pictures on disk.

    A picture is (H, W, 3); of a volume all slices, below each other.
    """

    images: dict[str, np.ndarray]
    rows: dict[str, dict[str, dict[str, Any]]]
    kept: int


def upsample(values: np.ndarray, *size: int) -> np.ndarray:
    """Finite map (*spatial) at another size, as `bench.maps.heatmaps.upsample` has it, but without loading torch."""
    for axis, target in enumerate(size):
        weights = _weights(target, values.shape[axis])
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return np.asarray(values)


@lru_cache(maxsize=16)
def _weights(target: int, size: int) -> np.ndarray:
    """Share of each of `size` positions in each of `target`: linear between centres, averaged where these are fewer."""
    scale = size / target
    centres = (np.arange(target)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centres) / max(scale, 1.0)
    weights = np.clip(1 - distance, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Image (H, W, 3) in 0 to 1 under a map (H, W) scaled to its own minimum and maximum, as on the page.

    What the map leaves cold is clear, so that the picture can be seen.
    """
    span = heat.max() - heat.min()
    heat = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    alpha = OPACITY * heat[..., None]
    return (1 - alpha) * image + alpha * colormaps[PALETTE](heat)[..., :3]


def read_shown(group: Group, limit: int, named: Collection[str] = ()) -> Shown:
    """Read pictures and maps of the cases that the gallery shows: those whose picture was kept.

    At most `limit`, those with several instances first, as the benchmark asks about them; or, where case or image ids
    are `named`, only these in this order.
    """
    paths = {path.name: path for folder in group.folders for path in folder.images.glob("*.png")}
    ids = zip(group.cases["case_id"], group.cases["image_id"], group.cases["n_instances"], strict=True)
    kept = [(case, image, several > 1) for case, image, several in ids if f"{image_name(case)}.png" in paths]
    if named:
        wanted = [case for name in named for case, image, _ in kept if name in (case, image)]
        names = list(dict.fromkeys(wanted))[:limit]
    else:
        chosen = {case for case, _, _ in sorted(kept, key=lambda item: not item[2])[:limit]}
        names = [case for case, _, _ in kept if case in chosen]
    pictures = {case: load(paths[f"{image_name(case)}.png"]) for case in names}
    images = {case: picture for case, picture in pictures.items() if picture is not None}
    return Shown(images, read_maps(group, set(images)), len(kept))


def fewer(shown: Shown, group: Group, limit: int) -> Shown:
    """At most `limit` of these pictures, those with several instances first."""
    several = set(group.cases.loc[group.cases["n_instances"] > 1, "case_id"])
    kept = set(sorted(shown.images, key=lambda case: case not in several)[:limit])
    return replace(shown, images={case: picture for case, picture in shown.images.items() if case in kept})


def read_maps(group: Group, cases: set[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Each entry's rows for these cases, by label and case id; of several rows one with a map counts."""
    labels = {(entry.key, entry.layer): entry.label for entry in group.entries}
    rows: dict[str, dict[str, dict[str, Any]]] = {label: {} for label in labels.values()}
    holding = [part.path for part in group.parts if not cases.isdisjoint(part.cases)]
    for part, table in read_parts(holding, lambda schema: SHOWN_COLUMNS, lambda part, table: (part, table)):
        for i, entry in enumerate(part.entries):
            label = labels.get((entry["key"], entry["layer"]))
            for j, case in enumerate(part.cases):
                if label and case in cases:
                    row = table.slice(i * len(part.cases) + j, 1).to_pylist()[0]
                    if row["map"] is not None or case not in rows[label]:
                        rows[label][case] = row
    return rows


def load(path: Path) -> np.ndarray | None:
    """Picture (H, W, 3) in 0 to 1, or None where it cannot be read."""
    try:
        data = read_file(path)
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            image.verify()
        with Image.open(BytesIO(data), formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        log.warning("left out: %s: %s", path, error)
        return None


def native_map(row: dict[str, Any]) -> np.ndarray | None:
    """Map of a row at native size, or None where it was not kept."""
    return None if row["map"] is None else np.reshape(np.asarray(row["map"], dtype=np.float64), row["map_shape"])
