"""Curves over the share of perturbed positions."""

from __future__ import annotations

from made_results import group_of

from bench.analysis.verdicts import equal_entries
from bench.figures.curves import curves_figure


def test_curves_without_a_value_are_drawn_as_nothing(one_run) -> None:
    """All curves are NaN where ``open=true`` meets an unsure network: the figure ends, with an empty panel."""
    curves = {"grad_cam": [0.9, 0.5, 0.1], "hirescam": [float("nan")] * 3}
    for method, curve in curves.items():
        rows = [{"case_id": str(i), "image_id": str(i), "deletion.curve": curve} for i in range(4)]
        root = one_run(method, "bn2.act", rows)
    group = group_of(root)
    figure = curves_figure(group, equal_entries(group), "bn2.act", resamples=20)
    assert len(figure.axes) == 2
