"""Several networks or data sets beside each other: one matrix a question, methods by results."""

from __future__ import annotations

from typing import Any

from bench.report.grid import SIGNS, Cell, interval, number


def matrices_of(sections: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One matrix for each column that at least two groups have; empty for one group.

    A cell is a method's mean at the layer that its group opens with, which is the best for the group's first verdict.
    """
    if len(sections) < 2:
        return []
    titles = list(dict.fromkeys(title for section in sections for title in section["means"]))
    matrices = []
    for title in titles:
        own = [section["means"].get(title, {}) for section in sections]
        if sum(bool(means) for means in own) < 2:
            continue
        methods = list(dict.fromkeys(name for means in own for name in means))
        rows = []
        for method in methods:
            cells = [means.get(method) for means in own]
            rows.append({"method": method, "cells": [cell and texts_of(cell) for cell in cells]})
        matrices.append({"title": title, "rows": rows})
    return matrices


def texts_of(cell: Cell) -> dict[str, Any]:
    """Mean, interval and marks of a cell."""
    span = interval(cell.low, cell.high)
    return {"text": number(cell.mean, 2), "interval": span, "best": cell.best, "sign": SIGNS[cell.verdict]}
