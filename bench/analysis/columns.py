"""Which outputs of the metrics the printed table shows, and under which heading."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bench.analysis.groups import Group
from bench.analysis.parts import metric_of

ARROWS = {True: "↑", False: "↓", None: ""}


@dataclass(frozen=True)
class Column:
    """One metric output: its name in the summary, its heading as lines, its direction."""

    metric: str
    heading: tuple[str, ...]
    better: bool | None

    @property
    def arrow(self) -> str:
        """Which way is better: up, down or nothing."""
        return ARROWS[self.better]


def shown_columns(group: Group, extra: Collection[str] = ()) -> list[Column]:
    """Columns of the printed table: what each metric's ``about.show`` names, then its data-set statistics in `extra`.

    Parameters
    ----------
    group : Group
    extra : collection of str
        Names of the summary that are no values of cases, e.g. a score at the best threshold of the whole data set.
    """
    columns: list[Column] = []
    known = {*group.outputs, *group.statistics}
    for metric in group.metrics:
        about = group.about(metric)
        outputs = [f"{metric}.{name}" for name in about.get("show") or about.get("higher_is_better") or []]
        own = [name for name in outputs if name.removesuffix("_class_mean") in known]
        statistics = [f"{metric}.{name}" for name in about.get("dataset_statistics") or {}]
        whole = [name for name in statistics if name in extra and name not in own]
        for output in [*own, *whole]:
            name = metric_of(output)[1]
            words = name.split("_") if len(own) + len(whole) > 1 else metric.split("_")
            if name == "auc":
                words = [*metric.split("_"), "AUC"]
            taken = {column.heading for column in columns}
            heading = tuple(words) if tuple(words) not in taken else (*metric.split("_"), *name.split("_"))
            columns.append(Column(output, heading, group.higher_is_better(output)))
    return columns
