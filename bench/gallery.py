"""The gallery: images with their boxes, and every method's map laid over them, like the paper's Figure 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from bench.grid import wrapped
from bench.groups import Entry, Group
from bench.plots import STYLE
from bench.store import image_name, read_rows

MAP_COLUMNS = [
    "case_id", "class_name", "boxes", "other_boxes", "height", "width", "probability", "degenerate",
    "map", "map_shape", "map_scale",
]  # fmt: skip
TILE, GAP = 168, 6
STEP, INCH = TILE + GAP, 1.25 / TILE
WIDEST = 10  # methods beside each other
REASONS = {"zero": "zero map", "constant": "constant map", "nonfinite": "NaN or\ninfinite map"}


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures of the gallery and each entry's rows for them, by case id."""

    images: dict[str, np.ndarray]
    rows: dict[str, dict[str, dict[str, Any]]]


def interpolation(size: int, target: int) -> np.ndarray:
    """Weights (target, size) of linear interpolation with align_corners=False, as in the benchmark."""
    place = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    low = np.minimum(place.astype(int), max(size - 2, 0))
    weights = np.zeros((target, size))
    weights[np.arange(target), low] = 1 - (place - low)
    weights[np.arange(target), np.minimum(low + 1, size - 1)] += place - low
    return weights


def upsample(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Map (h, w) at another size, bilinear, align_corners=False."""
    return interpolation(values.shape[0], height) @ values @ interpolation(values.shape[1], width).T


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Image (H, W, 3) in 0 to 1 under a map (H, W) scaled to its own minimum and maximum.

    What the map leaves cold stays visible as a dim grey picture, what it marks keeps its texture.
    """
    span = heat.max() - heat.min()
    heat = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    grey = np.repeat((image @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=2)
    colour = colormaps["inferno"](heat)[..., :3]
    alpha = 0.45 + 0.2 * heat[..., None]
    return (1 - alpha) * grey + alpha * colour


def read_shown(group: Group, limit: int) -> Shown:
    """Read pictures and maps of the cases that the gallery shows: those whose picture was kept."""
    folder = group.entries[0].run.path.parent / f"_images-{group.protocol}"
    names = {case_id: folder / f"{image_name(case_id)}.png" for case_id in group.cases["case_id"]}
    there = {path.name for path in folder.glob("*.png")} if folder.is_dir() else set()
    chosen = [case_id for case_id, path in names.items() if path.name in there]
    # Several instances are what the benchmark asks about: of too many pictures, these stay.
    several = set(group.cases.loc[group.cases["n_instances"] > 1, "case_id"])
    kept = set(sorted(chosen, key=lambda case_id: case_id not in several)[:limit])
    images = {}
    for case_id in chosen:
        picture = load(names[case_id]) if case_id in kept else None
        if picture is not None:
            images[case_id] = picture
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    chunks = set(group.cases.loc[group.cases["case_id"].isin(list(images)), "chunk"])
    for entry in group.entries if images else []:
        frame = read_rows(entry.run, MAP_COLUMNS, chunks)
        frame = frame[frame["case_id"].isin(list(images))]
        rows[entry.label] = {str(row["case_id"]): row for row in frame.to_dict("records")}
    return Shown(images, rows)


def load(path: Path) -> np.ndarray | None:
    """Picture (H, W, 3) in 0 to 1, or None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float64) / 255
    except (OSError, ValueError, SyntaxError):
        return None


def native_map(row: dict[str, Any]) -> np.ndarray | None:
    """Map of a row at native size, or None where it was not kept or is not two-dimensional."""
    shape = row["map_shape"]
    if row["map"] is None or shape is None or len(shape) != 2:
        return None
    return np.asarray(row["map"], dtype=np.float64).reshape(tuple(int(n) for n in shape)) * float(row["map_scale"])


def gallery_figure(group: Group, shown: Shown, layer: str) -> Figure | None:
    """One row an image, one column a method at this layer.

    The first column has the asked class's boxes solid and other objects' dashed. A degenerate map
    is a grey tile that says why; a number is the map's box coverage.

    Parameters
    ----------
    group : Group
    shown : Shown
        From `read_shown`.
    layer : str

    Returns
    -------
    Figure or None
        None where no picture or no map was kept.
    """
    entries = [entry for entry in group.entries if entry.layer == layer]
    cases = [c for c in shown.images if any(c in shown.rows.get(entry.label, {}) for entry in entries)]
    if not entries or not cases:
        return None
    # Many methods stand in several blocks one below the other, each with fewer images, so that tiles stay large.
    parts = -(-len(entries) // WIDEST)
    across = -(-len(entries) // parts)
    cases = cases[: max(2, len(cases) // parts)]
    blocks = [entries[start : start + across] for start in range(0, len(entries), across)]
    head = 12 + 15 * max(wrapped(entry.method).count("\n") + 1 for entry in entries)
    height, width = head + len(cases) * STEP, (across + 1) * STEP - GAP
    canvas = np.ones((len(blocks) * height - GAP, width, 3))
    with rc_context(STYLE):
        figure = Figure(figsize=(width * INCH, len(canvas) * INCH))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        for number, block in enumerate(blocks):
            top = number * height + head
            for column, name in enumerate(["image", *(entry.method for entry in block)]):
                heading(ax, column * STEP + TILE / 2, top - 7, name)
            for line, case_id in enumerate(cases):
                draw_row(ax, canvas, top + line * STEP, group, shown, case_id, block)
        ax.imshow(np.clip(canvas, 0, 1), interpolation="antialiased", aspect="auto")
    return figure


def draw_row(
    ax: Axes, canvas: np.ndarray, y: int, group: Group, shown: Shown, case_id: str, entries: list[Entry]
) -> None:
    """One image with its boxes at the left edge, then one tile an entry; pixels go to `canvas`, text to `ax`."""
    image = resized(shown.images[case_id])
    canvas[y : y + TILE, :TILE] = image
    about = next(rows[case_id] for rows in shown.rows.values() if case_id in rows)
    draw_boxes(ax, about, y)
    label(ax, 4, y + TILE - 5, f"{about['class_name']} p={about['probability']:.2f}".strip())
    for column, entry in enumerate(entries, start=1):
        x = column * STEP
        row = shown.rows.get(entry.label, {}).get(case_id)
        heat = native_map(row) if row else None
        if row is None or row["degenerate"] or heat is None:
            canvas[y : y + TILE, x : x + TILE] = 0.87
            reason = REASONS.get(row["degenerate"], "no map kept") if row else "not computed"
            if row and row["degenerate"] and entry.flat_gradient:
                reason += ":\nentropy of a flat\ngradient is 0"
            ax.text(x + TILE / 2, y + TILE / 2, reason, ha="center", va="center", fontsize=8, color="#444444")
        else:
            canvas[y : y + TILE, x : x + TILE] = overlay(image, upsample(heat, TILE, TILE))
            label(ax, x + 4, y + TILE - 5, coverage_text(group, entry, case_id))


def heading(ax: Axes, x: float, y: float, name: str) -> None:
    """Name of a column, its last line at y; line by line, as matplotlib aligns text by its box, not its baseline."""
    for line, text in enumerate(reversed(wrapped(name).split("\n"))):
        ax.text(x, y - 15 * line, text, ha="center", va="baseline", fontsize=8)


def resized(image: np.ndarray) -> np.ndarray:
    """Picture at the size of a tile."""
    whole = Image.fromarray((image * 255).round().astype(np.uint8))
    return np.asarray(whole.resize((TILE, TILE), Image.Resampling.LANCZOS), dtype=np.float64) / 255


def draw_boxes(ax: Axes, about: dict[str, Any], y: int) -> None:
    """Boxes of the class solid, of other objects dashed, on the tile that begins at (0, y)."""
    for key, style, colour in (("other_boxes", (0, (3, 2)), "#ffffff"), ("boxes", "-", "#ffd400")):
        given = about[key] if about[key] is not None else []
        boxes = np.asarray(given, dtype=np.float64).reshape(-1, 4)
        scale = TILE / np.array([about["width"], about["height"]] * 2, dtype=np.float64)
        for x0, y0, x1, y1 in np.clip(boxes * scale, 1, TILE - 2):
            for width, edge, dashes in ((2.6, "#000000", "-"), (1.3, colour, style)):
                if edge == "#000000" and style != "-":
                    width = 1.3
                ax.add_patch(
                    Rectangle((x0, y + y0), x1 - x0, y1 - y0, fill=False, lw=width, edgecolor=edge, linestyle=dashes)
                )


def label(ax: Axes, x: float, y: float, text: str) -> None:
    """Small white text with a dark outline, readable on any picture."""
    outline = [effects.withStroke(linewidth=1.8, foreground="#000000")]
    if text:
        ax.text(x, y, text, fontsize=6.5, color="white", va="bottom", path_effects=outline)


def coverage_text(group: Group, entry: Entry, case_id: str) -> str:
    """Box coverage of one map as text, empty where it is not known."""
    if "box_coverage.coverage" not in group.outputs:
        return ""
    at = int(pd.Index(group.cases["case_id"]).get_loc(case_id))
    value = group.values(entry, "box_coverage.coverage")[at]
    return f"coverage {value:.2f}" if np.isfinite(value) else ""
