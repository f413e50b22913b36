"""What all figures share: sizes, the methods' colours, and how a figure is saved.

Text has at least 7 points at the two widths of print, one and two columns. A method has one colour in every figure and
every run, which its yaml names or its own name decides; controls are grey. A layer is never a colour.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rc_params_from_file
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.analysis.groups import Entry, about_method
from bench.store.files import remove, write_atomically
from bench.types import NO_LAYER

# Any: matplotlib types the keys of its settings one by one.
STYLE: Any = rc_params_from_file(Path(__file__).with_name("plots.mplstyle"), use_default_template=False)
WIDE, NARROW = 5.5, 3.25  # inches: across a page's text, and one of two columns
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7B3294", "#A6761D", "#8C2D04", "#4D4D9F")
GREYS = ("#4f4f4f", "#6e6e6e", "#8c8c8c", "#a0a0a0")
FAINT = "#b5b5b5"
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (8, 2)))
LINES = 6  # methods in colour in one panel; more cannot be told apart


def style_of(entry: Entry) -> dict[str, Any]:
    """Colour, dashes and marker of a method, the same in every figure and run."""
    code = zlib.crc32(entry.method.encode())
    marker = MARKERS[code // 16 % len(MARKERS)]
    if entry.control:
        return {"color": GREYS[code % len(GREYS)], "linestyle": DASHES[code % len(DASHES)], "marker": marker}
    colour = about_method(entry.name).get("colour") if entry.method == entry.name else None
    return {"color": colour or PALETTE[code % len(PALETTE)], "linestyle": "-", "marker": marker}


def titles(entries: Sequence[Entry], limit: int = 3) -> str:
    """Names of equal entries: ``Grad-CAM = HiResCAM``."""
    names = [entry.title for entry in entries]
    more = f" = {len(names) - limit} more" if len(names) > limit else ""
    return " = ".join(names[:limit]) + more


def shown_lines(sets: Sequence[Sequence[Entry]], reference: str) -> list[Sequence[Entry]]:
    """Choose sets of equal methods that get a colour: the reference's, entropy methods, then the others in order.

    Controls get none, and neither do methods most of whose maps say nothing.
    """
    methods = drawn(sets)

    def place(members: Sequence[Entry]) -> int:
        names = {entry.name for entry in members}
        return 0 if reference in names else 1 if names & {"grad_entropy", "feature_entropy"} else 2

    return sorted(methods, key=place)[:LINES]


def legend(figure: Figure, sets: Sequence[Sequence[Entry]], columns: int, more: Sequence[Any] = ()) -> None:
    """Legend of sets of equal methods below all panels."""
    handles = [Line2D([], [], label=titles(members), **style_of(members[0])) for members in sets]
    if handles or more:
        figure.legend(handles=[*handles, *more], loc="outside lower center", ncols=columns, handlelength=2.2)


def drawn(sets: Sequence[Sequence[Entry]]) -> list[Sequence[Entry]]:
    """Keep the methods: no control, and no row whose maps mostly say nothing."""
    return [members for members in sets if not members[0].control and members[0].ranked]


def at_layer(sets: Sequence[Sequence[Entry]], layer: str) -> list[list[Entry]]:
    """Keep the sets of equal entries at a layer or at none."""
    kept = [[entry for entry in members if entry.layer in (layer, NO_LAYER)] for members in sets]
    return [members for members in kept if members]


def save(figure: Figure | None, path: Path, formats: Collection[str], dpi: int) -> None:
    """Write a figure as `path` with each format's suffix, atomically; files of other formats are deleted."""
    for suffix in ("svg", "png", "pdf"):
        if figure is None or suffix not in formats:
            remove(path.with_name(f"{path.name}.{suffix}"))
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
    """Name on as many lines as it needs, cut after underscores, hyphens, spaces and commas and before brackets."""
    lines = [""]
    marked = name.replace("(", "\0(").replace("_", "_\0").replace(", ", ", \0").replace("-", "-\0").replace(" ", " \0")
    for part in marked.split("\0"):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def p_text(p: float) -> str:
    """Write p short: ``p < .001`` or ``p = .012``."""
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)
