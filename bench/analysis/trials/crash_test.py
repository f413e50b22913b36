"""Pass or fail: a method's values on the pictures of each mechanism against limits that the metric's yaml states."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import Entry, Group
from bench.analysis.parts import metric_of
from bench.analysis.statistics import means, percentile_interval, resampled_means
from bench.analysis.tables import table_of
from bench.options import CONF

CRASH_COLUMNS = [
    "dataset", "model", "layer", "method", "mechanism", "value", "mean", "ci_low", "ci_high", "n", "limit", "verdict",
    "overall", "reason", "protocol",
]  # fmt: skip
FEWEST = 20  # pictures of a mechanism under which nothing is said
RESAMPLES = 1000


def crash_table(group: Group) -> pd.DataFrame:
    """Judge every method on every mechanism (class) by the metrics that state what is right, ``about.right``.

    A value passes if the whole 95 % interval of its mean (bootstrap over pictures) is within its limit, fails if the
    whole interval is beyond it, and is undecided otherwise and with under 20 pictures. `overall` of a method and
    mechanism is ``fail`` if any of its values fails, ``pass`` if all pass.

    Returns
    -------
    DataFrame
        Columns `CRASH_COLUMNS`, one row a method, mechanism and value that the mechanism defines; `limit` as text,
        `reason` is why the method may fail, from its row in docs/methods.md, empty where it does not. Empty for groups
        without such a metric.
    """
    limits = limits_of(group)
    rows: list[dict[str, Any]] = []
    columns = [group.outputs.index(output) for output in limits]
    for mechanism in dict.fromkeys(group.cases["class_name"]) if limits else ():
        mask = (group.cases["class_name"] == mechanism).to_numpy()
        values = np.concatenate([entry.values[mask][:, columns] for entry in group.entries], axis=1)
        drawn = resampled_means(values, group.images[mask], group.image_count, None, RESAMPLES, 0)
        numbers = np.stack([means(values), *percentile_interval(drawn)]).round(9)
        counts = np.isfinite(values).sum(axis=0)
        for i, entry in enumerate(group.entries):
            own = slice(i * len(columns), (i + 1) * len(columns))
            rows += judged(entry, mechanism, limits, numbers[:, own], counts[own])
    return table_of(group, rows, CRASH_COLUMNS)


def judged(
    entry: Entry, mechanism: str, limits: dict[str, tuple[str, float]], numbers: np.ndarray, counts: np.ndarray
) -> list[dict[str, Any]]:
    """Rows of one method and mechanism; `numbers` are means and both ends of their intervals, (3, values)."""
    rows: list[dict[str, Any]] = []
    for (output, (side, limit)), (mean, low, high), n in zip(limits.items(), numbers.T, counts.tolist(), strict=True):
        if not n:
            continue
        bounds = [low, high] if math.isfinite(low) else [mean, mean]
        within = [bound >= limit if side == "least" else bound <= limit for bound in bounds]
        verdict = "undecided" if n < FEWEST or any(within) != all(within) else "pass" if all(within) else "fail"
        row = {"layer": entry.layer, "method": entry.method, "mechanism": mechanism, "value": metric_of(output)[1]}
        row |= {"mean": mean, "ci_low": low, "ci_high": high, "n": n, "verdict": verdict}
        rows.append(row | {"limit": f"{'>=' if side == 'least' else '<='} {limit:g}"})
    verdicts = {row["verdict"] for row in rows}
    overall = "fail" if "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"
    about_class = any(row["verdict"] == "fail" and row["value"] in ("leak", "against", "rank") for row in rows)
    reason = reason_of(entry.name, about_class) if overall == "fail" else ""
    return [{**row, "overall": overall, "reason": reason} for row in rows]


def limits_of(group: Group) -> dict[str, tuple[str, float]]:
    """Limit of each output that has one: ``("least", .75)`` or ``("most", .1)``."""
    limits = {}
    for metric in group.metrics:
        for name, limit in (group.about(metric).get("right") or {}).items():
            if f"{metric}.{name}" in group.outputs and isinstance(limit, dict) and len(limit) == 1:
                side, value = next(iter(limit.items()))
                limits[f"{metric}.{name}"] = (str(side), float(value))
    return limits


def reason_of(method: str, about_class: bool) -> str:
    """Why a method fails, from its row in docs/methods.md: that it never asks for the class, or where it says little.

    Empty for a method without a row, and where the docs are not installed.
    """
    row = method_rows().get(method)
    if row is None:
        return ""
    return "never asks for the class" if about_class and row[4] == "no" else row[6]


@cache
def method_rows() -> dict[str, list[str]]:
    """Cells of each method's row in docs/methods.md."""
    page = CONF.parent / "docs" / "methods.md"
    lines = page.read_text(encoding="utf-8").splitlines() if page.is_file() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row for row in rows if len(row) == 7}


def worst(rows: pd.DataFrame) -> pd.Series | None:
    """Of one method and mechanism, the row that is furthest beyond its limit, or None where all pass."""
    left = rows[rows["verdict"] != "pass"]
    if left.empty:
        return None
    limit = left["limit"].str.split().str[1].astype(float)
    return left.loc[(left["mean"] - limit).abs().idxmax()]
