"""Rows on disk -> tables: means with intervals, paired differences to a reference, breakdowns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from bench.groups import NO_LAYER, Entry, Group, group_runs, load_group
from bench.published import reported
from bench.statistics import Array, bootstrap_interval, cluster_means, holm, means, wilcoxon
from bench.store import Run

SUMMARY_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "mean", "ci_low", "ci_high", "n", "degenerate",
    "reference", "difference", "difference_low", "difference_high", "p", "reported", "reported_source", "protocol",
]  # fmt: skip
BREAKDOWN_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "by", "bin", "mean", "ci_low", "ci_high", "n", "protocol",
]  # fmt: skip
# Each bin as (name, lower bound, upper bound), lower <= value < upper.
BINS: dict[str, list[tuple[str, float, float]]] = {
    "n_instances": [("1", 1, 2), ("2", 2, 3), ("3-4", 3, 5), ("5+", 5, np.inf)],
    "probability": [("<.2", -np.inf, 0.2), (".2-.6", 0.2, np.nextafter(0.6, 1)), (">.6", np.nextafter(0.6, 1), np.inf)],
    "box_area": [("<10%", 0, 0.1), ("10-30%", 0.1, np.nextafter(0.3, 1)), (">30%", np.nextafter(0.3, 1), np.inf)],
}


def summarize(
    runs: Iterable[Run], *, reference: str = "grad_cam", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Tidy table of all runs, one row per method, layer and scalar metric output.

    Parameters
    ----------
    runs : iterable of Run
        From `bench.store.find_runs`, in any order: the table does not depend on it.
    reference, resamples, seed
        As in `summarize_group`.

    Returns
    -------
    DataFrame
        Columns `SUMMARY_COLUMNS`, sorted by data set, model, protocol, metric, layer and method.
    """
    groups = (load_group(members) for members in group_runs(runs).values())
    return join(
        [summarize_group(g, reference=reference, resamples=resamples, seed=seed) for g in groups if g], SUMMARY_COLUMNS
    )


def join(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Tables one below the other, in canonical order."""
    if not tables:
        return pd.DataFrame(columns=columns)
    keys = [key for key in ("dataset", "model", "protocol", "metric", "by", "layer", "method") if key in columns]
    return pd.concat(tables)[columns].sort_values(keys, kind="stable", ignore_index=True)


def summarize_group(group: Group, *, reference: str = "grad_cam", resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Means, intervals and paired tests of one group.

    Cases whose value is not finite are left out, `n` counts the rest. Intervals are 95 % percentile
    bootstrap intervals over IMAGES: cases of one image stay together. Differences to the reference
    (method minus reference) are taken at the same layer on the cases that both have, with the same
    resamples; methods that look at no layer are compared with the reference at the group's LAST layer.
    `p` is a two-sided Wilcoxon signed-rank test on one value per image, the mean difference of its
    cases (cases of one image are no independent evidence), Holm-corrected over all methods and
    layers of the metric. Class means (``<output>_class_mean``, the mean over the classes that occur
    of the class's mean) have intervals but no p.

    Parameters
    ----------
    group : Group
    reference : str
        Method that the others are compared with; its own differences are empty, and all are
        where it was not run at the layer.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    DataFrame
        Columns `SUMMARY_COLUMNS`; `degenerate` is a share of the cases, `reported` what somebody published for
        this data set, model, layer and method in the metric's unit (`bench.published`), no part of any mean or test.
    """
    rows: list[dict[str, Any]] = []
    chosen = {"count": int(group.images.max()) + 1, "resamples": resamples, "seed": seed}
    averaged = class_mean_columns(group)
    names = [*group.outputs, *(f"{group.outputs[column]}_class_mean" for column in averaged)]
    for entry in group.entries:
        other = reference_of(group, entry, reference)
        difference = entry.values - other.values if other else np.full_like(entry.values, np.nan)
        both = np.concatenate([entry.values, difference], axis=1) if other else entry.values
        plain = describe(both, group, None, chosen)
        width = len(group.outputs)
        columns = [*averaged, *(width + column for column in averaged)] if other else averaged
        by_class = describe(both[:, columns], group, group.classes, chosen)
        p = p_values(group, entry, other)
        elsewhere = reported(entry.run.config)
        for i, name in enumerate(names):
            source, at, step = (plain, i, width) if i < width else (by_class, i - width, len(averaged))
            column = i if i < width else averaged[i - width]
            number = int(np.isfinite(entry.values[:, column]).sum())
            if not number:
                continue
            row = {"layer": entry.layer, "method": entry.method, "metric": name, "n": number}
            row |= dict(zip(("mean", "ci_low", "ci_high"), source[:, at], strict=True))
            row |= {"degenerate": entry.degenerate_share, "reference": other.method if other else ""}
            keys = ("difference", "difference_low", "difference_high")
            row |= dict(zip(keys, source[:, at + step] if other else [np.nan] * 3, strict=True))
            row |= dict(zip(("reported", "reported_source"), elsewhere.get(name, (np.nan, "")), strict=True))
            rows.append(row | {"p": p[i] if i < width else np.nan})
    table = pd.DataFrame(rows, columns=SUMMARY_COLUMNS)
    table["dataset"], table["model"], table["protocol"] = group.dataset, group.model, group.protocol
    for _, part in table.groupby("metric"):
        table.loc[part.index, "p"] = holm(part["p"].to_numpy(dtype=np.float64))
    return join([table], SUMMARY_COLUMNS)


def class_mean_columns(group: Group) -> list[int]:
    """Columns of the outputs for which the metric asks for a mean over classes."""
    return [
        i
        for i, (metric, _, name) in enumerate(output.partition(".") for output in group.outputs)
        if name in (group.metrics[metric].get("about", {}).get("class_mean") or [])
    ]


def describe(values: Array, group: Group, strata: Any, chosen: dict[str, int]) -> Array:
    """Mean and both ends of its interval of every column, shape (3, columns)."""
    low, high = bootstrap_interval(values, group.images, strata=strata, **chosen)
    # Sums that cancel leave 1e-17 of one or the other sign, which would not be the same on every machine.
    scale = np.max(np.abs(values), axis=0, where=np.isfinite(values), initial=np.finfo(float).tiny)
    return np.round(np.stack([means(values, strata), low, high]) / scale, 12) * scale + 0.0


def reference_of(group: Group, entry: Entry, reference: str) -> Entry | None:
    """Choose the entry that another is compared with: the reference at its layer, or None."""
    layer = entry.layer if entry.layer != NO_LAYER else group.last_layer
    candidates = [e for e in group.entries if e.layer in (layer, NO_LAYER) and reference in (e.method, e.name)]
    # A reference in several variants (grad_cam(relu=True), ...) is the exact name, else the first.
    candidates.sort(key=lambda e: (e.layer == NO_LAYER, e.method != reference, e.method))
    if not candidates or candidates[0] is entry or entry.method == candidates[0].method:
        return None
    return candidates[0]


def p_values(group: Group, entry: Entry, other: Entry | None) -> Array:
    """Uncorrected p of every output's paired difference, one value per image; NaN without a reference."""
    result = np.full(len(group.outputs), np.nan)
    if other is None:
        return result
    differences = cluster_means(entry.values - other.values, group.images)
    for column in range(len(result)):
        pair = np.abs(np.concatenate([entry.values[:, column], other.values[:, column]]))
        scale = float(np.max(pair, where=np.isfinite(pair), initial=0.0))
        result[column] = wilcoxon(differences[:, column], scale)
    return result


def bin_masks(cases: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """Which cases lie in which bin: (by, bin, mask) for every bin; cases without boxes are in no bin of these."""
    masks = []
    for by, bins in BINS.items():
        values = cases[by].to_numpy(dtype=np.float64)
        if by == "box_area":
            values = np.where(cases["n_instances"].to_numpy() > 0, values, np.nan)
        masks += [(by, name, (values >= low) & (values < high)) for name, low, high in bins]
    return masks


def breakdown(runs: Iterable[Run], *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """Means by number of instances, target probability and object size, for all runs; see `breakdown_group`."""
    groups = (load_group(members) for members in group_runs(runs).values())
    return join([breakdown_group(g, resamples=resamples, seed=seed) for g in groups if g], BREAKDOWN_COLUMNS)


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
    masks = [(by, name, mask) for by, name, mask in bin_masks(group.cases) if mask.any()]
    chosen = {"count": int(group.images.max()) + 1, "resamples": resamples, "seed": seed}
    width = len(group.outputs)
    for entry in group.entries:
        spread = [np.where(mask[:, None], entry.values, np.nan) for _, _, mask in masks]
        values = np.concatenate([*spread, np.empty((len(group.cases), 0))], axis=1)
        found = describe(values, group, None, chosen)
        numbers = np.isfinite(values).sum(axis=0)
        for column in np.flatnonzero(numbers):
            by, name, _ = masks[column // width]
            row: dict[str, Any] = {
                "layer": entry.layer,
                "method": entry.method,
                "metric": group.outputs[column % width],
            }
            row |= {"by": by, "bin": name, "n": int(numbers[column])}
            rows.append(row | dict(zip(("mean", "ci_low", "ci_high"), found[:, column], strict=True)))
    table = pd.DataFrame(rows, columns=BREAKDOWN_COLUMNS)
    table["dataset"], table["model"], table["protocol"] = group.dataset, group.model, group.protocol
    return join([table], BREAKDOWN_COLUMNS)


def to_csv(table: pd.DataFrame) -> str:
    """Table as CSV text, six significant digits, the same bytes for the same numbers."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
