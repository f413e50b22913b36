"""The gallery: images with their boxes, and every method's map laid over them, like the paper's Figure 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from bench.analysis.groups import Entry, Group
from bench.analysis.kept_maps import Shown, native_map, overlay, upsample
from bench.analysis.views import View, input_size, view_of
from bench.figures.style import STYLE, wrapped
from bench.types import NO_LAYER

TILE, GAP = 168, 6
INCH = 1.25 / TILE
WIDEST = 10  # methods beside each other
REASONS = {"zero": "zero map", "constant": "constant map", "nonfinite": "NaN or\ninfinite map"}


def gallery_figure(group: Group, shown: Shown, layer: str) -> Figure | None:
    """One row an image, one column a method at this layer.

    The first column shows the picture with the boxes of the class in question (solid) and of other objects (dashed).
    A degenerate map is a grey tile that says why; a number is the map's box coverage. None where no picture or no map
    was kept.
    """
    entries = [entry for entry in group.entries if entry.layer == layer]
    # Many methods are drawn in several blocks below each other, each with fewer images, so that tiles stay large.
    parts = -(-len(entries) // WIDEST)
    cases = [c for c in shown.images if any(c in shown.rows.get(entry.label, {}) for entry in entries)]
    return draw_blocks(group, shown, cases[: max(2, len(cases) // max(parts, 1))], blocks_of("image", entries))


def figure1(group: Group, shown: Shown) -> Figure | None:
    """All pictures of `shown` with every method at every layer, like the paper's Figure 1: one block a layer.

    Controls are left out, unless nothing else was run. Returns None where no picture or no map was kept.
    """
    blocks = []
    entries = [entry for entry in group.entries if not entry.control] or group.entries
    for layer in dict.fromkeys(entry.layer for entry in entries):
        own = [entry for entry in entries if entry.layer == layer]
        blocks += blocks_of(layer if layer != NO_LAYER else "no layer", own)
    cases = [case for case in shown.images if any(case in rows for rows in shown.rows.values())]
    return draw_blocks(group, shown, cases, blocks)


def blocks_of(title: str, entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Entries in as few blocks of about equal width as `WIDEST` allows, each with the title of its first column."""
    if not entries:
        return []
    across = -(-len(entries) // -(-len(entries) // WIDEST))
    return [(title, list(entries[start : start + across])) for start in range(0, len(entries), across)]


def draw_blocks(
    group: Group, shown: Shown, cases: Sequence[str], blocks: Sequence[tuple[str, list[Entry]]]
) -> Figure | None:
    """Blocks of tiles one below the other: a line a case, a column an entry; the first column is the picture."""
    if not cases or not blocks:
        return None
    high, wide = tile_sides(input_size(group, shown.images[cases[0]]))
    across = max(len(block) for _, block in blocks)
    heads = [12 + 15 * max(wrapped(n).count("\n") + 1 for n in (t, *(e.method for e in b))) for t, b in blocks]
    tops = np.cumsum([0, *(head + len(cases) * (high + GAP) for head in heads)])
    width = (across + 1) * (wide + GAP) - GAP
    canvas = np.ones((int(tops[-1]) - GAP, width, 3))
    with rc_context(STYLE):
        figure = Figure(figsize=(width * INCH, len(canvas) * INCH))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        lines: list[int] = []
        for (title, block), start, head in zip(blocks, tops, heads, strict=False):
            top = int(start) + head
            for column, name in enumerate([title, *(entry.method for entry in block)]):
                heading(ax, column * (wide + GAP) + wide / 2, top - 7, name)
            for line, case_id in enumerate(cases):
                lines.append(top + line * (high + GAP))
                draw_row(ax, canvas, lines[-1], group, shown, case_id, block)
        pixels = (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)
        # Row by row: at 300 dpi matplotlib's copies of the whole image take a gigabyte. The seams lie in white gaps.
        edges = [0, *(y + high for y in lines[:-1]), len(pixels)]
        for first, last in pairwise(edges):
            ax.imshow(pixels[first:last], extent=(0, width, last, first), interpolation="none", aspect="auto")
        ax.set(xlim=(0, width), ylim=(len(pixels), 0))
    return figure


def draw_row(
    ax: Axes, canvas: np.ndarray, y: int, group: Group, shown: Shown, case_id: str, entries: list[Entry]
) -> None:
    """One image with its boxes at the left edge, then one tile an entry; pixels go to `canvas`, text to `ax`."""
    about = next(rows[case_id] for rows in shown.rows.values() if case_id in rows)
    size = input_size(group, shown.images[case_id])
    high, wide = tile_sides(size)
    view = view_of(shown.images[case_id], about, size)
    paste(canvas, 0, y, view)
    draw_boxes(ax, view, 0, y)
    letter = "p" if group.follows == "probability" else "score"
    label(ax, 4, y + high - 5, f"{about['class_name']} {letter}={about['probability']:.2f}".strip())
    for column, entry in enumerate(entries, start=1):
        x = column * (wide + GAP)
        row = shown.rows.get(entry.label, {}).get(case_id)
        heat = native_map(row) if row else None
        if row is None or row["degenerate"] or heat is None:
            canvas[y : y + high, x : x + wide] = 0.87
            reason = REASONS.get(row["degenerate"], "no map kept") if row else "not computed"
            if row and row["degenerate"] and entry.flat_gradient:
                reason += ":\nentropy of a flat\ngradient is 0"
            ax.text(x + wide / 2, y + high / 2, reason, ha="center", va="center", fontsize=8, color="#444444")
        else:
            view = view_of(shown.images[case_id], about, size, heat)
            paste(canvas, x, y, view)
            if len(size) > 2:  # slices of its own
                draw_boxes(ax, view, x, y)
            label(ax, x + 4, y + high - 5, coverage_text(group, entry, case_id))


def tile_sides(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of the tiles for inputs of this size, the longer side `TILE`; a volume's has three slices."""
    height, width = size if len(size) == 2 else (size[1] + size[0], size[2] + size[0])
    return max(1, round(TILE * height / max(height, width))), max(1, round(TILE * width / max(height, width)))


def paste(canvas: np.ndarray, x: int, y: int, view: View) -> None:
    """Put a view's picture, under its map, into the tile at (x, y)."""
    high, wide = tile_sides(view.image.shape[:2])
    whole = Image.fromarray((view.image * 255).round().astype(np.uint8))
    image = np.asarray(whole.resize((wide, high), Image.Resampling.LANCZOS), dtype=np.float64) / 255
    if view.heat is not None:
        image = overlay(image, upsample(view.heat, high, wide))
    canvas[y : y + high, x : x + wide] = image


def heading(ax: Axes, x: float, y: float, name: str) -> None:
    """Name of a column, its last line at y; line by line, as matplotlib aligns text by its box, not its baseline."""
    for line, text in enumerate(reversed(wrapped(name).split("\n"))):
        ax.text(x, y - 15 * line, text, ha="center", va="baseline", fontsize=8)


def draw_boxes(ax: Axes, view: View, x: int, y: int) -> None:
    """Boxes of the class solid, of other objects dashed, on the tile that begins at (x, y)."""
    high, wide = tile_sides(view.image.shape[:2])
    scale = np.array([wide / view.size[1], high / view.size[0]] * 2)
    ends = np.array([wide, high] * 2) - 2
    for boxes, style, colour in ((view.others, (0, (3, 2)), "#ffffff"), (view.boxes, "-", "#ffd400")):
        for x0, y0, x1, y1 in np.clip(boxes * scale, 1, ends):
            for width, edge, dashes in ((2.6 if style == "-" else 1.3, "#000000", "-"), (1.3, colour, style)):
                box: dict[str, Any] = {"lw": width, "edgecolor": edge, "linestyle": dashes, "fill": False}
                ax.add_patch(Rectangle((x + x0, y + y0), x1 - x0, y1 - y0, **box))


def label(ax: Axes, x: float, y: float, text: str) -> None:
    """Small white text with a dark outline, readable on any picture."""
    outline = [effects.withStroke(linewidth=1.8, foreground="#000000")]
    if text:
        ax.text(x, y, text, fontsize=6.5, color="white", va="bottom", path_effects=outline)


def coverage_text(group: Group, entry: Entry, case_id: str) -> str:
    """Box coverage of one map as text, empty where it is not known."""
    if "box_coverage.coverage" not in group.outputs:
        return ""
    value = group.values(entry, "box_coverage.coverage")[group.places[case_id]]
    return f"coverage {value:.2f}" if np.isfinite(value) else ""
