"""Groups -> tables: means with intervals, paired differences to a reference, the same by kind of case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.curves import Statistic, each_entry, read_curves, statistic_curves, statistics_of
from bench.analysis.groups import NO_LAYER, Entry, Group
from bench.analysis.parts import metric_of
from bench.analysis.published import reported, split_of
from bench.analysis.significance import holm, wilcoxon
from bench.analysis.statistics import Array, cluster_means, means, percentile_interval, resampled_means
from bench.types import printable

SUMMARY_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "mean", "ci_low", "ci_high", "n", "n_images", "degenerate",
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
    groups: Iterable[Group | None], *, reference: str = "grad_cam", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`summarize_group` of all groups from `bench.analysis.loading.load_group`, whatever their order, as one table."""
    tables = [summarize_group(g, reference=reference, resamples=resamples, seed=seed) for g in groups if g]
    return join(tables, SUMMARY_COLUMNS)


def join(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Tables one below the other, in canonical order."""
    if not tables:
        return pd.DataFrame(columns=columns)
    keys = [key for key in ("dataset", "model", "protocol", "metric", "by", "layer", "method") if key in columns]
    return pd.concat(tables)[columns].sort_values(keys, kind="stable", ignore_index=True)


def table_of(group: Group, rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows of a group as a table that names data set, model and protocol."""
    about = {"dataset": group.dataset, "model": group.model, "protocol": group.protocol}
    return pd.DataFrame(rows, columns=columns).assign(**about)


def summarize_group(group: Group, *, reference: str = "grad_cam", resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Means, intervals and paired tests of one group, one row a method, layer and output of a metric.

    Cases whose value is not finite are left out, `n` counts the rest. Intervals are 95 % percentile
    bootstrap intervals over IMAGES: cases of one image stay together. Differences to the reference
    (method minus reference) are taken at the same layer on the cases that both have, with the same
    resamples; methods that look at no layer are compared with the reference at the group's LAST layer.
    Statistics of the whole data set (``dataset_statistics`` in a metric's config) have intervals and
    differences, the threshold chosen anew in each resample, but no p: they are no means.
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
        Columns `SUMMARY_COLUMNS`, sorted by metric, layer and method; `n` cases on `n_images` images have a value,
        `degenerate` is a share of the cases, `reported` what somebody published for this data set, model, layer and
        method in the metric's unit (`bench.analysis.published`); it enters no test.
    """
    rows = [*value_rows(group, reference, resamples, seed), *statistic_rows(group, reference, resamples // 4, seed)]
    table = table_of(group, rows, SUMMARY_COLUMNS)
    split = split_of(group.parameters)
    known = {(e.layer, e.method): reported(group.dataset, split, group.model, e.name, e.layer) for e in group.entries}
    beside = [known[row.layer, row.method].get(row.metric, (np.nan, "")) for row in table.itertuples()]
    table["reported"], table["reported_source"] = [value for value, _ in beside], [source for _, source in beside]
    for _, part in table.groupby("metric"):
        table.loc[part.index, "p"] = holm(part["p"].to_numpy(dtype=np.float64))
    return join([table], SUMMARY_COLUMNS)


def value_rows(group: Group, reference: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the values of cases and of the class means, p uncorrected."""
    width, metrics = len(group.outputs), list(map(metric_of, group.outputs))
    averaged = [i for i, (m, name) in enumerate(metrics) if name in (group.about(m).get("class_mean") or [])]
    values = all_values(group)
    by_class = [width * i + column for i in range(len(group.entries)) for column in averaged]
    # Drawn once for all entries, as one matrix product; the second one has the class means.
    plain = partial(resampled_means, clusters=group.images, count=group.image_count, resamples=resamples, seed=seed)
    classes = partial(plain, strata=group.classes)
    drawn = np.split(plain(values), len(group.entries), axis=1)
    class_drawn = np.split(classes(values[:, by_class]), len(group.entries), axis=1)
    place = {entry.label: i for i, entry in enumerate(group.entries)}
    rows: list[dict[str, Any]] = []
    for i, entry in enumerate(group.entries):
        other = reference_of(group, entry, reference)
        p = p_values(group, entry, other)
        for columns, strata, resampled, draw, suffix in (
            (list(range(width)), None, drawn, plain, ""),
            (averaged, group.classes, class_drawn, classes, "_class_mean"),
        ):
            own = entry.values[:, columns]
            described = describe(own, resampled[i], strata, own)
            gaps = np.full_like(described, np.nan)
            if other:
                theirs = other.values[:, columns]
                pairs = paired(own, theirs, resampled[i], resampled[place[other.label]], draw)
                gaps = describe(own - theirs, pairs, strata, np.concatenate([own, theirs]))
            for at in np.flatnonzero(np.isfinite(own).any(axis=0)):
                numbers = (*described[:, at], *gaps[:, at], p[at] if strata is None else np.nan)
                present = np.isfinite(own[:, at])
                rows.append(row_of(group, entry, group.outputs[columns[at]] + suffix, present, other, numbers))
    return rows


def row_of(
    group: Group, entry: Entry, metric: str, present: NDArray[np.bool_], other: Entry | None, numbers: Sequence[float]
) -> dict[str, Any]:
    """Row of the summary from its cases and `numbers`: mean, both ends, difference, both ends, p."""
    keys = ("mean", "ci_low", "ci_high", "difference", "difference_low", "difference_high", "p")
    row = {"layer": entry.layer, "method": entry.method, "metric": metric, "degenerate": entry.degenerate_share}
    row |= {"n": int(present.sum()), "n_images": int(np.count_nonzero(np.bincount(group.images[present])))}
    return row | {"reference": other.method if other else "", **dict(zip(keys, numbers, strict=True))}


def all_values(group: Group) -> Array:
    """Values of all entries side by side, shape (cases, entries * outputs)."""
    return np.concatenate([entry.values for entry in group.entries], axis=1)


def paired(values: Array, other: Array, drawn: Array, other_drawn: Array, draw: Callable[[Array], Array]) -> Array:
    """Mean difference in every resample (R, C) over the cases that both have: that of the means, if these are all."""
    difference = drawn - other_drawn
    apart = (np.isfinite(values) != np.isfinite(other)).any(axis=0)
    if apart.any():
        difference[:, apart] = draw((values - other)[:, apart])
    return difference


def statistic_rows(group: Group, reference: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Rows of the data set's statistics, a quarter of the resamples: each draws whole curves, for every entry."""
    names = sorted({name for columns in statistic_curves(group).values() for name in columns})
    if not names:
        return []
    known = {e.label: statistics_of(group, curves, resamples, seed) for e, curves in each_entry(group, names)}
    rows = []
    for entry in group.entries:
        other = reference_of(group, entry, reference)
        for name, own in known[entry.label].items():
            numbers = [own.value, *np.concatenate(percentile_interval(own.resampled[:, None]))]
            theirs = known[other.label].get(name) if other else None
            pair: tuple[Statistic | None, Statistic | None] = (own, theirs)
            if other and theirs and (own.present != theirs.present).any():
                both = own.present & theirs.present
                curves = read_curves(group, names, [entry, other])
                first, second = (statistics_of(group, curves[e.label], resamples, seed, both) for e in (entry, other))
                pair = (first.get(name), second.get(name))
            if pair[0] and pair[1]:
                gap = pair[0].resampled - pair[1].resampled
                numbers += [pair[0].value - pair[1].value, *np.concatenate(percentile_interval(gap[:, None]))]
            filled = np.array([*numbers, *[np.nan] * (6 - len(numbers))], dtype=np.float64)
            rows.append(row_of(group, entry, name, own.present, other, [*(np.round(filled, 12) + 0.0), np.nan]))
    return rows


def describe(values: Array, resampled: Array, strata: Any, scaled_by: Array) -> Array:
    """Mean and both ends of its interval of every column, shape (3, columns), steady to 12 digits of `scaled_by`."""
    low, high = percentile_interval(resampled)
    # Sums that cancel leave 1e-17 of one or the other sign, which would not be the same on every machine.
    scale = np.max(np.abs(scaled_by), axis=0, where=np.isfinite(scaled_by), initial=np.finfo(float).tiny)
    return np.round(np.stack([means(values, strata), low, high]) / scale, 12) * scale + 0.0


def reference_of(group: Group, entry: Entry, reference: str) -> Entry | None:
    """Choose the entry that another is compared with: the reference at its layer, or None."""
    layer = entry.layer if entry.layer != NO_LAYER else group.last_layer
    candidates = [e for e in group.entries if e.layer in (layer, NO_LAYER) and reference in (e.method, e.name)]
    # A reference in several variants (grad_cam(relu=True), ...) is the exact name, else the first.
    candidates.sort(key=lambda e: (e.layer == NO_LAYER, e.method != reference, e.method))
    return candidates[0] if candidates and entry.method != candidates[0].method else None


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


def breakdown_group(group: Group, *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """Means with intervals (columns `BREAKDOWN_COLUMNS`) for the cases of each bin of `BINS`, where it has any.

    Fewer resamples than in the summary, as there are ten times the cells. Cases without boxes are in no bin of areas.
    """
    rows: list[dict[str, Any]] = []
    width, values = len(group.outputs), all_values(group)
    for by, name, low, high in [(by, *bounds) for by, bins in BINS.items() for bounds in bins]:
        of_case = group.cases[by].to_numpy(dtype=np.float64)
        mask = (of_case >= low) & (of_case < high)
        if by == "box_area":
            mask &= group.cases["n_instances"].to_numpy() > 0
        if not mask.any():
            continue
        part = values[mask]
        drawn = resampled_means(part, group.images[mask], group.image_count, None, resamples, seed)
        described, numbers = describe(part, drawn, None, part), np.isfinite(part).sum(axis=0)
        for column in np.flatnonzero(numbers):
            entry, output = group.entries[column // width], group.outputs[column % width]
            row = {"layer": entry.layer, "method": entry.method, "metric": output, "by": by, "bin": name}
            mean, ci_low, ci_high = described[:, column]
            rows.append(row | {"n": int(numbers[column]), "mean": mean, "ci_low": ci_low, "ci_high": ci_high})
    return join([table_of(group, rows, BREAKDOWN_COLUMNS)], BREAKDOWN_COLUMNS)


def to_csv(table: pd.DataFrame) -> str:
    """Table as CSV text, six significant digits, the same bytes for the same numbers; no control characters."""
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return "\n".join(map(printable, text.split("\n")))
