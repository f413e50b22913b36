"""Numbers from papers and from their authors' code: shown beside measured ones, never mixed into them.

Each csv file holds one table. Its columns: ``dataset`` and ``split`` (VOC's with its year, ``2007 test``), ``model``,
``layer`` (several names of one tensor are parted by spaces), ``method``, ``metric`` as in summary.csv where the
protocol is ours, ``value`` in our unit (a share where the paper prints per cent), ``source`` and ``conditions``. An
empty ``model`` or ``layer`` stands for any. Only numbers that somebody looked up in the source named stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

COLUMNS = ["dataset", "split", "model", "layer", "method", "metric", "value", "source", "conditions"]


@cache
def published() -> pd.DataFrame:
    """All published numbers, `COLUMNS`, file by file in the order of their names."""
    tables = sorted((path for path in files(__name__).iterdir() if path.name.endswith(".csv")), key=lambda p: p.name)
    read = [pd.read_csv(path.open(encoding="utf-8"), dtype=str, keep_default_na=False) for path in tables]
    return pd.concat(read, ignore_index=True)[COLUMNS].astype({"value": float})


def split_of(config: Mapping[str, Any]) -> str:
    """Split of a run from its `_config.yaml`: ``2007 test`` for VOC, ``val2014``; empty where it names none."""
    dataset = config.get("protocol_parameters", {}).get("dataset", {})
    years = dataset.get("years") or []
    return " ".join(str(word) for word in [*years, dataset.get("split") or ""]).strip()


def reported(config: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    """Find the published numbers that stand beside those of one run.

    Parameters
    ----------
    config : mapping
        The run's `_config.yaml`: data set, split (where it names one), model, layer and method have to match.

    Returns
    -------
    dict
        From a metric of summary.csv to (value in its unit, source with conditions); of several, the first.
    """
    table, split = published(), split_of(config)
    mine = (table["dataset"] == str(config["dataset"])) & (table["method"] == str(config["method"]))
    mine &= table["model"].isin(["", str(config["model"])])
    if split:
        mine &= table["split"] == split
    found: dict[str, tuple[float, str]] = {}
    for row in table[mine].itertuples():
        if not row.layer or str(config["layer"]) in row.layer.split():
            words = f"{row.source}; {row.dataset} {row.split}; {row.conditions}"
            found.setdefault(row.metric, (row.value, words))
    return found
