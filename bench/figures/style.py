"""What all figures share: colours, markers, legends, titles, and how a figure is saved.

One style for all, in plots.mplstyle. Colours are those of Okabe and Ito (2008), which colour-blind readers can
distinguish; markers and dashes repeat what colours say. Controls are always grey.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.groups import NO_LAYER, Column, Group
from bench.runs.store import write_atomically

# Any: matplotlib types the keys of its settings one by one.
STYLE: Any = rc_params_from_file(Path(__file__).with_name("plots.mplstyle"), use_default_template=False)
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CONTROL = "#8c8c8c"
GREYS = ("#6e6e6e", "#8c8c8c", "#a0a0a0", "#b4b4b4", "#7d7d7d")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (8, 2)))


def method_styles(group: Group) -> dict[str, dict[str, Any]]:
    """Colour, dashes and marker of each method, the same in all figures of the group."""
    styles = {}
    for control, colours in ((False, PALETTE), (True, GREYS)):
        names = dict.fromkeys(entry.method for entry in group.entries if entry.control == control)
        for i, name in enumerate(names):
            dashes = DASHES[(i + 1 if control else i // len(colours)) % len(DASHES)]
            marker = MARKERS[i % len(MARKERS)]
            styles[name] = {"color": colours[i % len(colours)], "linestyle": dashes, "marker": marker}
    return styles


def method_legend(figure: Figure, group: Group, more: Sequence[Line2D] = (), **style: Any) -> None:
    """Legend of the methods at the right of all panels, in `method_styles` changed by `style`."""
    handles = [Line2D([], [], label=name, **{**own, **style}) for name, own in method_styles(group).items()]
    figure.legend(handles=[*handles, *more], loc="outside right center", handlelength=2.6)


def layer_legend(figure: Figure, group: Group, place: Any) -> None:
    """Legend of `layer_styles` above or below all panels, on as many lines as it needs."""
    names = {(layer, False): layer for layer in group.layers}
    if any(entry.layer == NO_LAYER and not entry.control for entry in group.entries):
        names[NO_LAYER, False] = "no layer"
    if any(entry.control for entry in group.entries):
        names[NO_LAYER, True] = "control"
    styles = layer_styles(group)
    handles = [Line2D([], [], ms=4.2, lw=1.3, label=name, **styles[key]) for key, name in names.items()]
    figure.legend(handles=handles, loc=place, ncols=min(len(handles), max(1, int(figure.get_size_inches()[0] / 1.6))))


def layer_styles(group: Group) -> dict[tuple[str, bool], dict[str, Any]]:
    """Colour and marker by (layer, whether it is a control): few layers have distinct colours, many a sequence."""
    count = len(group.layers)
    deep = [PALETTE[i] if count <= 5 else colormaps["viridis"](0.9 * i / (count - 1)) for i in range(count)]
    styles: dict[tuple[str, bool], dict[str, Any]] = {}
    for control in (False, True):
        for i, layer in enumerate(group.layers):
            colour = CONTROL if control else deep[i]
            styles[layer, control] = {"color": colour, "marker": MARKERS[i % len(MARKERS)], "mew": 0}
        styles[NO_LAYER, control] = {"color": CONTROL if control else PALETTE[-1], "marker": "|", "mew": 1.5}
    return styles


def panels(
    columns: Sequence[Column], widest: int, size: tuple[float, float], margin: tuple[float, float], **share: Any
) -> tuple[Figure, list[Axes]]:
    """Figure with one titled panel of this size in inches a column, at most `widest` beside each other."""
    fitting = [n for n in (len(columns), 5, 4, 3) if n <= widest and len(columns) % n in (0, n - 1)]
    across = [*fitting, min(widest, 4)][0]
    down = -(-len(columns) // across)
    whole = (margin[0] + size[0] * across, margin[1] + size[1] * down)
    figure = Figure(figsize=whole, layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, **share).ravel())
    for i, ax in enumerate(axes):
        if i >= len(columns):
            ax.set_axis_off()
            continue
        ax.set_title(columns[i].title)
        if i + across >= len(columns):
            ax.tick_params(labelbottom=True)  # the panel below it is empty
    return figure, axes[: len(columns)]


def draw_points(ax: Axes, places: dict[Any, list[tuple[float, float]]], styles: dict[Any, dict[str, Any]]) -> None:
    """Markers at the places of each key, in the key's style; one line object a key, as drawing many takes long."""
    for key, points in places.items():
        ax.plot(*zip(*points, strict=True), ls="", **styles[key])


def save(figure: Figure | None, path: Path, formats: Collection[str], dpi: int) -> None:
    """Write a figure as `path` with each format's suffix, atomically; files of other formats are deleted."""
    for suffix in ("svg", "png", "pdf"):
        if figure is None or suffix not in formats:
            path.with_name(f"{path.name}.{suffix}").unlink(missing_ok=True)
    if figure is None:
        return
    with rc_context(STYLE):
        # Laid out once, for all formats: with a layout engine each of them draws everything twice.
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine(None)
        for suffix in formats:
            # Light compression is several times faster; without dates equal figures are equal bytes.
            options: dict[str, dict[str, Any]] = {
                "png": {"pil_kwargs": {"compress_level": 1}},
                "svg": {"metadata": {"Date": None}, "transparent": True},
                "pdf": {"metadata": {"CreationDate": None}},
            }
            target = path.with_name(f"{path.name}.{suffix}")
            write_atomically(target, partial(figure.savefig, format=suffix, dpi=dpi, **options[suffix]))


def wrapped(name: str, width: int = 17) -> str:
    """Name on as many lines as it needs, cut after underscores and commas and before brackets."""
    lines = [""]
    for part in name.replace("(", "\0(").replace("_", "_\0").replace(", ", ",\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def p_text(p: float) -> str:
    """Write p short: ``p < .001`` or ``p = .012``."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
