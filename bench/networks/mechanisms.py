"""What a mechanism of the planted network is, as its yaml says: glyphs, and how the score follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bench.types import UserError

READING = 0.01  # threshold behind the layer that is looked at
COMBINE = ("sum", "or", "and")


@dataclass(frozen=True)
class Glyph:
    """A kind of glyph in a mechanism's pictures.

    Attributes
    ----------
    strengths : sequence of float
        One for each instance in a picture: the activation that it causes, 0 to 1.
    weights : sequence of float
        One for each channel of `features` that fires on it: what the class's score makes of the channel.
    object : bool
        Whether it is what an annotator would put a box around.
    blind : int
        So many of the instances, the last ones, lie where all weights behind `features` are 0.
    threshold : float
        Below it a position adds nothing to the score; a negative one is a bias that every position adds.
    """

    strengths: Sequence[float]
    weights: Sequence[float] = (1.0,)
    object: bool = True
    blind: int = 0
    threshold: float = READING


@dataclass(frozen=True)
class Mechanism:
    """How a class's score follows from the glyphs in its pictures.

    Attributes
    ----------
    glyphs : dict of Glyph
        By name.
    about, expects : str
        What the score is, and what a right map does.
    combine : {"sum", "or", "and"}
        Of z, the weighted sum of the glyphs: z itself, min(z, 1), max(z - 1, 0).
    scale : float
        The score is the combined sum times this.
    deep : bool
        Whether the three convolutions mix channels and positions; else the last two hand the first one's answers on.
    """

    glyphs: dict[str, Glyph] = field(default_factory=dict)
    about: str = ""
    expects: str = ""
    combine: str = "sum"
    scale: float = 2.0
    deep: bool = False


def read_mechanism(name: str, node: Any) -> Mechanism:
    """Check what a yaml says of a mechanism."""
    values = read_fields(Mechanism, f"model.mechanisms.{name}", node)
    glyphs = {}
    for kind, glyph in dict(values.get("glyphs") or {}).items():
        entry = f"model.mechanisms.{name}.glyphs.{kind}"
        glyphs[str(kind)] = one = Glyph(**{"strengths": (), **read_fields(Glyph, entry, glyph)})
        numbers = [*one.strengths, *one.weights, one.threshold]
        if not one.strengths or not one.weights or not all(isinstance(x, int | float) for x in numbers):
            raise UserError(f"{entry} needs lists of numbers, strengths and weights, and a number as threshold")
        if not all(0 < strength <= 1 for strength in one.strengths):
            raise UserError(f"{entry}.strengths={list(one.strengths)} must be above 0 and at most 1")
        if one.blind not in range(len(one.strengths) + 1):
            raise UserError(f"{entry}.blind={one.blind} must be a number of instances, 0 to {len(one.strengths)}")
    mechanism = Mechanism(**{**values, "glyphs": glyphs})
    if mechanism.combine not in COMBINE:
        raise UserError(
            f"model.mechanisms.{name}.combine={mechanism.combine} is unknown; it takes {', '.join(COMBINE)}"
        )
    if not 1 <= sum(len(glyph.strengths) for glyph in glyphs.values()) <= 8:
        raise UserError(f"model.mechanisms.{name} must plant 1 to 8 glyphs: its truth takes a pass for every subset")
    return mechanism


def read_fields(record: type, entry: str, node: Any) -> dict[str, Any]:
    """Return a yaml's mapping if it names fields of the record only."""
    known = [one.name for one in fields(record)]
    unknown = [key for key in node if key not in known] if isinstance(node, Mapping) else ["…"]
    if unknown:
        raise UserError(f"{entry}.{unknown[0]} is unknown; it is a mapping of {', '.join(known)}")
    return dict(node)
