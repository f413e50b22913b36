"""Means by number of instances, target probability and object size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.statistics import resampled_means
from bench.analysis.tables import all_values, describe, join

BREAKDOWN_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "by", "bin", "mean", "ci_low", "ci_high", "n", "protocol",
]  # fmt: skip
# Each bin as (name, lower bound, upper bound), lower <= value < upper.
BINS: dict[str, list[tuple[str, float, float]]] = {
    "n_instances": [("1", 1, 2), ("2", 2, 3), ("3-4", 3, 5), ("5+", 5, np.inf)],
    "probability": [("<.2", -np.inf, 0.2), (".2-.6", 0.2, np.nextafter(0.6, 1)), (">.6", np.nextafter(0.6, 1), np.inf)],
    "box_area": [("<10%", 0, 0.1), ("10-30%", 0.1, np.nextafter(0.3, 1)), (">30%", np.nextafter(0.3, 1), np.inf)],
}


def bin_masks(cases: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """Which cases lie in which bin: (by, bin, mask) for every bin; cases without boxes are in no bin of these."""
    masks = []
    for by, bins in BINS.items():
        values = cases[by].to_numpy(dtype=np.float64)
        if by == "box_area":
            values = np.where(cases["n_instances"].to_numpy() > 0, values, np.nan)
        masks += [(by, name, (values >= low) & (values < high)) for name, low, high in bins]
    return masks


def breakdown_group(group: Group, *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """Means with intervals for the cases of each bin of `BINS`.

    Parameters
    ----------
    group : Group
    resamples, seed : int
        Of the bootstrap over images; fewer resamples than the main table, as there are ten times the cells.

    Returns
    -------
    DataFrame
        Columns `BREAKDOWN_COLUMNS`; bins without a case are left out.
    """
    rows: list[dict[str, Any]] = []
    count, width, values = int(group.images.max()) + 1, len(group.outputs), all_values(group)
    for by, name, mask in bin_masks(group.cases):
        if not mask.any():
            continue
        part = values[mask]
        drawn = resampled_means(part, group.images[mask], count, None, resamples, seed)
        described, numbers = describe(part, drawn, None, part), np.isfinite(part).sum(axis=0)
        for column in np.flatnonzero(numbers):
            entry = group.entries[column // width]
            row: dict[str, Any] = {"layer": entry.layer, "method": entry.method}
            row["metric"] = group.outputs[column % width]
            row |= {"by": by, "bin": name, "n": int(numbers[column])}
            rows.append(row | dict(zip(("mean", "ci_low", "ci_high"), described[:, column], strict=True)))
    table = pd.DataFrame(rows, columns=BREAKDOWN_COLUMNS)
    table["dataset"], table["model"], table["protocol"] = group.dataset, group.model, group.protocol
    return join([table], BREAKDOWN_COLUMNS)
