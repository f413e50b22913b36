"""Curves over the share of perturbed positions."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from bench.figures.curves import note_equal


def test_curves_without_a_value_are_equal_to_none() -> None:
    """All curves are NaN where ``open=true`` meets an unsure network; one of them equals not even itself."""
    nothing, line = [np.full(5, np.nan)] * 3, [np.linspace(0.9, 0.1, 5)] * 3
    axes = Figure().subplots()
    note_equal(axes, {"a": nothing, "b": nothing, "c": line, "d": None, "e": line})
    assert [text.get_text() for text in axes.texts] == ["c =\ne"]
    note_equal(bare := Figure().subplots(), {"a": nothing, "b": nothing})
    assert not bare.texts
