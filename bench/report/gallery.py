"""Data of the page's gallery: pictures, boxes, maps as bytes, values, disagreement."""

from __future__ import annotations

import base64
import csv
import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from bench.analysis.groups import Entry, Group
from bench.analysis.kept_maps import PALETTE, Shown, native_map, upsample
from bench.analysis.tables import Column
from bench.analysis.views import View, input_size, view_of
from bench.figures.gallery import REASONS
from bench.types import NO_LAYER, plain_layer

CASES = 60  # in one gallery, at most
IMAGENET_OUTPUTS = 1000
SIDES = {2: 32, 3: 16}  # maps are compared at this size, by their number of axes


def palette() -> str:
    """256 RGB colours from cold to hot, as base64: those of the figures."""
    return encoded((colormaps[PALETTE](np.arange(256))[:, :3] * 255).round())


@lru_cache(maxsize=1)
def class_names(group: Group) -> dict[int, str]:
    """Names of a network's outputs: ImageNet's for a network of 1,000, else none are known."""
    outputs = (group.folders[0].protocol.get("network") or {}).get("outputs")
    if outputs != IMAGENET_OUTPUTS:
        return {}
    with (Path(__file__).parents[1] / "datasets" / "classes" / "imagenet.csv").open(encoding="utf-8") as stream:
        return {int(row["index"]): row["name"] for row in csv.DictReader(stream)}


def encoded(values: np.ndarray) -> str:
    """Whole numbers from 0 to 255 as base64."""
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()


def gallery_of(group: Group, shown: Shown, columns: list[Column], budget: int, layer: str) -> dict[str, Any]:
    """Cases whose pictures were kept, with every entry's map and values in these columns, ready for JSON.

    `layer` is shown first; `budget` says how many bytes pictures and maps may take; cases beyond it are left out.
    ``total`` counts the cases in the results, ``kept`` those with a picture.
    """
    columns = [column for column in columns if column.metric in group.outputs]
    cases: list[dict[str, Any]] = []
    for case_id, picture in shown.images.items():
        case = case_of(group, shown, columns, group.places[case_id], picture)
        if case is None:
            continue
        budget -= len(case["picture"]) + sum(len(each.get(k, "")) for each in case["maps"] for k in ("data", "picture"))
        if budget < 0 and cases:
            break
        cases.append(case)
    entries = [
        {"method": e.method, "layer": e.layer, "control": e.control, "label": e.label, "title": e.title}
        for e in group.entries
    ]
    heads = [{"name": " ".join(c.heading), "metric": c.metric, "better": c.better, "arrow": c.arrow} for c in columns]
    return {
        "entries": entries, "columns": heads, "layers": group.layers or [NO_LAYER], "layer": layer,
        "titles": [title_of(group, name) for name in group.layers or [NO_LAYER]],
        "cases": cases, "total": len(group.cases), "kept": shown.kept,
    }  # fmt: skip


def title_of(group: Group, layer: str) -> str:
    """Layer with its place along the depth, as in the table."""
    plain = plain_layer(layer)
    return f"no layer{layer.removeprefix(plain)}" if plain == NO_LAYER else f"depth {group.numbers[plain]}: {layer}"


def case_of(group: Group, shown: Shown, columns: list[Column], at: int, picture: np.ndarray) -> dict[str, Any] | None:
    """One case of the gallery, the one at place `at` of the group's; None where no entry has a row for it."""
    case_id = str(group.cases["case_id"].iloc[at])
    rows = [shown.rows[entry.label].get(case_id) for entry in group.entries]
    about = next((row for row in rows if row), None)
    if about is None:
        return None
    maps = [None if row is None or row["degenerate"] else native_map(row) for row in rows]
    size = input_size(group, picture)
    view = view_of(picture, about, size)
    tiles = [tile(entry, row, heat) for entry, row, heat in zip(group.entries, rows, maps, strict=True)]
    if len(size) > 2:
        tiles = [
            one if heat is None else one | sliced(view_of(picture, about, size, heat))
            for one, heat in zip(tiles, maps, strict=True)
        ]
    return {
        "id": case_id,
        "image": str(group.cases["image_id"].iloc[at]),
        "class": about["class_name"],
        "instances": int(group.cases["n_instances"].iloc[at]),
        "probability": rounded(about["probability"]),
        "follows": group.follows,
        "predicted": predicted(group, about["predicted"]),
        "predicted_probability": rounded(about["predicted_probability"]),
        "width": view.size[1],
        "height": view.size[0],
        "boxes": view.boxes.round(1).tolist(),
        "others": view.others.round(1).tolist(),
        "picture": jpeg(view.image),
        "maps": tiles,
        "values": [[rounded(group.values(entry, c.metric)[at]) for c in columns] for entry in group.entries],
        "disagreement": {layer: disagreement(group.entries, maps, layer) for layer in group.layers or [NO_LAYER]},
    }


def tile(entry: Entry, row: dict[str, Any] | None, heat: np.ndarray | None) -> dict[str, Any]:
    """One map as bytes between its own minimum and maximum, or why there is none."""
    if row is None:
        return {"reason": "not computed", "degenerate": False}
    if row["degenerate"]:
        reason = REASONS.get(row["degenerate"], str(row["degenerate"])).replace("\n", " ")
        text = f"no map: {reason}" + (", entropy of a flat gradient is 0" if entry.flat_gradient else "")
        return {"reason": text, "degenerate": True}
    if heat is None:
        return {"reason": "no map kept", "degenerate": False}
    return levels(heat)


def levels(heat: np.ndarray) -> dict[str, Any]:
    """Shape of a map, and its values as bytes between its own minimum and maximum."""
    span = float(heat.max() - heat.min()) or 1.0
    return {"shape": list(heat.shape), "data": encoded(((heat - heat.min()) / span * 255).round())}


def sliced(view: View) -> dict[str, Any]:
    """Slices of one map, with the picture and the boxes there."""
    assert view.heat is not None
    return {
        **levels(view.heat),
        "picture": jpeg(view.image),
        "boxes": view.boxes.round(1).tolist(),
        "others": view.others.round(1).tolist(),
    }


def disagreement(entries: list[Entry], maps: list[np.ndarray | None], layer: str) -> float | None:
    """Mean over pairs of methods at a layer of 1 - Pearson's r of their maps; None for fewer than two maps.

    Methods that look at no layer count at every layer; controls and degenerate maps do not.
    """
    sides = [
        upsample(heat, *[SIDES[heat.ndim]] * heat.ndim).ravel()
        for entry, heat in zip(entries, maps, strict=True)
        if heat is not None and entry.layer in (layer, NO_LAYER) and not entry.control
    ]
    if len(sides) < 2:
        return None
    r = np.corrcoef(np.stack(sides))
    return rounded(1 - float(np.nanmean(r[np.triu_indices(len(sides), 1)])))


def predicted(group: Group, index: int | None) -> str:
    """Name of the class that the network predicts; empty where a function is explained and no class."""
    return "" if index is None else class_names(group).get(index, f"output {index}")


def rounded(value: float | None) -> float | None:
    """Value with four significant digits; None, which JSON has, for NaN, which it has not, and for no value."""
    value = math.nan if value is None else float(value)
    return float(f"{value:.4g}") if math.isfinite(value) else None


def jpeg(picture: np.ndarray) -> str:
    """Picture (H, W, 3) in 0 to 1 as a data URI."""
    stream = io.BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(stream, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
