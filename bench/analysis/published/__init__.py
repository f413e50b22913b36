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
from io import StringIO
from typing import Any

import pandas as pd

COLUMNS = ["dataset", "split", "model", "layer", "method", "metric", "value", "source", "conditions"]


@cache
def published() -> pd.DataFrame:
    """All published numbers, `COLUMNS`, file by file in the order of their names."""
    tables = sorted((path for path in files(__name__).iterdir() if path.name.endswith(".csv")), key=lambda p: p.name)
    texts = [StringIO(path.read_text(encoding="utf-8")) for path in tables]
    read = [pd.read_csv(text, dtype=str, keep_default_na=False) for text in texts]
    return pd.concat(read, ignore_index=True)[COLUMNS].astype({"value": float})


def split_of(parameters: Mapping[str, Any]) -> str:
    """Split that a protocol's parameters name: ``2007 test`` for VOC, ``val2014``; empty where they name none."""
    dataset = parameters.get("dataset")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    years = dataset.get("years") or []
    listed = years if isinstance(years, list) else [years]  # one may be given as a number
    return " ".join(str(word) for word in [*listed, dataset.get("split") or ""]).strip()


def reported(dataset: str, split: str, model: str, method: str, layer: str) -> dict[str, tuple[float, str]]:
    """Find the published numbers that stand beside those of one row of the table, `method` being its name in conf/.

    All have to match, but `split`, from `split_of`, only where it is not empty. From a metric of summary.csv to (value
    in its unit, source with conditions); of several, the first.
    """
    table = published()
    rows = (table["dataset"] == dataset) & (table["method"] == method) & table["model"].isin(["", model])
    if split:
        rows &= table["split"] == split
    result: dict[str, tuple[float, str]] = {}
    for row in table[rows].itertuples():
        if not row.layer or layer in row.layer.split():
            words = f"{row.source}; {row.dataset} {row.split}; {row.conditions}"
            result.setdefault(row.metric, (row.value, words))
    return result
