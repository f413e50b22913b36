"""Groups -> tables: means with intervals, paired differences, means by kind of case; and which columns are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.comparisons import ALL, compare_group, describe, reference_of
from bench.analysis.groups import Group
from bench.analysis.parts import metric_of
from bench.analysis.published import reported, split_of
from bench.analysis.statistics import Array, resampled_means
from bench.types import printable

SUMMARY_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "mean", "ci_low", "ci_high", "n", "n_images", "degenerate",
    "reference", "difference", "difference_low", "difference_high", "p", "verdict", "no_better_than", "reported",
    "reported_source", "weights", "protocol",
]  # fmt: skip
COMPARISON_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "cases", "mean", "ci_low", "ci_high", "n", "n_images",
    "against", "against_layer", "difference", "difference_low", "difference_high", "p", "verdict", "weights",
    "protocol",
]  # fmt: skip
BREAKDOWN_COLUMNS = [
    "dataset", "model", "layer", "method", "metric", "by", "bin", "mean", "ci_low", "ci_high", "n", "protocol",
]  # fmt: skip
ARROWS = {True: "↑", False: "↓", None: ""}
DIFFERENCE = ("difference", "difference_low", "difference_high", "p")
# Each bin as (name, lower bound, upper bound), lower <= value < upper.
BINS: dict[str, list[tuple[str, float, float]]] = {
    "n_instances": [("1", 1, 2), ("2", 2, 3), ("3-4", 3, 5), ("5+", 5, np.inf)],
    "probability": [("<.2", -np.inf, 0.2), (".2-.6", 0.2, np.nextafter(0.6, 1)), (">.6", np.nextafter(0.6, 1), np.inf)],
    "box_area": [("<10%", 0, 0.1), ("10-30%", 0.1, np.nextafter(0.3, 1)), (">30%", np.nextafter(0.3, 1), np.inf)],
}


@dataclass(frozen=True)
class Column:
    """A column of the printed table: ``<metric>.<output>``, heading as lines, whether higher is better."""

    metric: str
    heading: tuple[str, ...]
    better: bool | None

    @property
    def arrow(self) -> str:
        """Which way is better: up, down or nothing."""
        return ARROWS[self.better]

    @property
    def title(self) -> str:
        """Heading on one line, with the arrow."""
        return f"{' '.join(self.heading)} {self.arrow}".strip()


def shown_columns(group: Group, extra: Collection[str] = ()) -> list[Column]:
    """Columns of the printed table: what each metric's ``about.show`` names, then its data-set statistics in `extra`.

    `extra` holds names of the summary that are no values of cases, e.g. a score at the best threshold of the data set.
    """
    known = {*group.outputs, *group.statistics}
    shown: dict[str, list[str]] = {}
    for metric in group.metrics:
        about = group.about(metric)
        named = about.get("show")  # an empty list shows none
        outputs = [f"{metric}.{name}" for name in (about.get("higher_is_better") or [] if named is None else named)]
        own = [name for name in outputs if name.removesuffix("_class_mean") in known]
        statistics = [f"{metric}.{name}" for name in about.get("dataset_statistics") or {}]
        shown[metric] = own + [name for name in statistics if name in extra and name not in own]
    of_several = Counter(metric_of(output)[1] for own in shown.values() if len(own) > 1 for output in own)
    columns: list[Column] = []
    for metric, own in shown.items():
        title = group.title(metric).split("_")
        for output in own:
            name = metric_of(output)[1]
            words = [*title, "AUC"] if name == "auc" else name.split("_") if len(own) > 1 else title
            if of_several[name] > 1 and name != "auc":  # two metrics have a value of this name
                words = [*title, *name.split("_")]
            columns.append(Column(output, tuple(words), group.higher_is_better(output)))
    return columns


def summarize(
    groups: Iterable[Group | None], *, reference: str = "grad_cam", resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`summarize_group` of all groups from `bench.analysis.loading.load_group`, whatever their order, as one table."""
    tables = [summarize_group(g, reference=reference, resamples=resamples, seed=seed)[0] for g in groups if g]
    return join(tables, SUMMARY_COLUMNS)


def join(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    """Tables one below the other, in canonical order."""
    if not tables:
        return pd.DataFrame(columns=columns)
    keys = ("dataset", "model", "protocol", "metric", "cases", "by", "layer", "method", "against", "against_layer")
    table = pd.concat(tables)[columns]
    return table.sort_values([key for key in keys if key in columns], kind="stable", ignore_index=True)


def table_of(group: Group, rows: list[dict[str, Any]] | pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows of a group as a table that names data set, model, weights and protocol."""
    about = {"dataset": group.dataset, "model": group.model, "weights": group.weights, "protocol": group.protocol}
    known = {name: value for name, value in about.items() if name in columns}
    return pd.DataFrame(rows).reindex(columns=columns).assign(**known)


def summarize_group(
    group: Group, *, reference: str = "grad_cam", resamples: int = 2000, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means, intervals and paired tests of one group, one row a method, layer and output of a metric.

    Cases whose value is not finite are left out, `n` counts the rest. Intervals are 95 % percentile
    bootstrap intervals over IMAGES: cases of one image stay together. Differences to the reference
    (method minus reference) are taken at the same layer on the cases that both have, with the same
    resamples; methods that look at no layer are compared with the reference at the group's LAST layer.
    Class means (``<output>_class_mean``) are means over the classes that occur of the class's mean;
    statistics of the whole data set (``dataset_statistics`` in a metric's config) choose their threshold
    anew in each resample. p and verdict are those of `bench.analysis.significance`, p corrected for all
    comparisons of the metric: with the reference and with every control.

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
    summary : DataFrame
        Columns `SUMMARY_COLUMNS`, sorted by metric (empty for a method without any), layer and method; `n` cases on
        `n_images` images have a value, `degenerate` is a share of the cases, `no_better_than` names the controls that
        a method does not beat, `reported` what somebody published for this data set, model, layer and method in the
        metric's unit (`bench.analysis.published`); it enters no test.
    comparisons : DataFrame
        Columns `COMPARISON_COLUMNS`: the same against every opponent, also for cases with one object alone.
    """
    comparisons = compare_group(group, reference, resamples, seed)
    summary = table_of(group, summary_rows(group, comparisons, reference), SUMMARY_COLUMNS)
    split = split_of(group.parameters)
    known = {(e.layer, e.method): reported(group.dataset, split, group.model, e.name, e.layer) for e in group.entries}
    beside = [known[row.layer, row.method].get(row.metric, (np.nan, "")) for row in summary.itertuples()]
    summary["reported"], summary["reported_source"] = [value for value, _ in beside], [source for _, source in beside]
    tables = (
        join([summary], SUMMARY_COLUMNS),
        join([table_of(group, comparisons, COMPARISON_COLUMNS)], COMPARISON_COLUMNS),
    )
    return tables


def summary_rows(group: Group, comparisons: pd.DataFrame, reference: str) -> list[dict[str, Any]]:
    """One row a method, layer and metric: the comparison with the reference, and the controls that it does not beat.

    A method that no metric was computed for has a row, too, whose `metric` is empty: its maps were made.
    """
    entries = {(entry.layer, entry.method): entry for entry in group.entries}
    controls = {(entry.layer, entry.method) for entry in group.entries if entry.control}
    rows = []
    everywhere = comparisons[comparisons["cases"] == ALL]
    for (layer, method, _), part in everywhere.groupby(["layer", "method", "metric"], sort=False):
        entry, lines = entries[layer, method], part.to_dict("records")
        other = reference_of(group, entry, reference)
        chosen = [
            line for line in lines if other and (line["against_layer"], line["against"]) == (other.layer, other.method)
        ]
        row = chosen[0] if chosen else lines[0] | dict.fromkeys(DIFFERENCE, np.nan) | {"verdict": ""}
        row |= {"reference": other.method if other else "", "degenerate": entry.degenerate_share}
        beaten = [line for line in lines if (line["against_layer"], line["against"]) in controls and not entry.control]
        judged = [line["against"] for line in beaten if line["verdict"] not in ("better", "", "few images")]
        rows.append(row | {"no_better_than": " ".join(dict.fromkeys(judged))})
    empty = dict.fromkeys(("metric", "reference", "verdict", "no_better_than"), "") | {"n": 0, "n_images": 0}
    for at in entries.keys() - {(row["layer"], row["method"]) for row in rows}:
        rows.append(empty | {"layer": at[0], "method": at[1], "degenerate": entries[at].degenerate_share})
    return rows


def all_values(group: Group) -> Array:
    """Values of all entries side by side, shape (cases, entries * outputs)."""
    return np.concatenate([entry.values for entry in group.entries], axis=1)


def breakdown_group(group: Group, *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """Means with intervals (columns `BREAKDOWN_COLUMNS`) for the cases of each bin of `BINS`, where it has any.

    Fewer resamples than in the summary, as there are ten times the cells. Cases without boxes are in no bin of areas.
    """
    rows: list[dict[str, Any]] = []
    width, values = len(group.outputs), all_values(group)
    for by, name, low, high in [(by, *bounds) for by, bins in BINS.items() for bounds in bins]:
        of_case = group.cases[by].to_numpy(dtype=np.float64)
        mask = (of_case >= low) & (of_case < high)
        if by == "probability":
            mask &= group.follows == by
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
