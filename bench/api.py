"""Runs from Python: what the command line does, and its results as tables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.groups import group_runs, method_labels
from bench.analysis.merged import MAP_COLUMNS
from bench.analysis.reading import first_measured, read_rows
from bench.analysis.tables import summarize
from bench.config import compose_config
from bench.runs.memory import keep_freed_memory
from bench.runs.rows import META
from bench.runs.store import find_runs
from bench.types import UserError


def run(*overrides: str, **settings: Any) -> pd.DataFrame:
    """Run a benchmark, or complete it, as ``python -m bench`` does; quietly, in this process.

    What the command line does besides, ``workers=N`` and ``estimate=true``, it does not.

    Parameters
    ----------
    overrides : str
        As on the command line, e.g. ``"experiment=demo"``, ``"metric.deletion.steps=224"``.
    settings
        The same as keywords, e.g. ``method=["grad_cam", "layer_cam"]``, ``limit=10``, ``out="results"``.

    Returns
    -------
    DataFrame
        Means, intervals and paired tests of what was asked for, one row per method, layer and metric value;
        columns as in summary.csv. Files are written as by the command line.

    Raises
    ------
    bench.types.UserError
        A name or setting that does not exist or makes no sense, several workers, or an estimate.
    """
    from bench.__main__ import benchmark

    keep_freed_memory()
    node = compose_config(["quiet=true", *overrides], settings)
    if type(node.workers) is int and node.workers > 1:
        raise UserError("bench.run is one process; for several use the command line: python -m bench … workers=N")
    if node.estimate is True:
        raise UserError(
            "bench.run gives results; for an estimate use the command line: python -m bench … estimate=true"
        )
    wanted = {folder.resolve() for folder in benchmark(node).folders}
    found = [one for one in find_runs(Path(node.out)) if one.path.resolve() in wanted]
    return summarize(found, reference=node.reference)


def load_results(root: str | os.PathLike[str]) -> pd.DataFrame:
    """Read all cases of all runs below a results folder.

    Parameters
    ----------
    root : path
        As given to ``out=``.

    Returns
    -------
    DataFrame
        One row per case, method and layer: dataset, model, protocol (equal where values may be compared),
        method, layer, what is known of the case, and a column per metric value; curves are arrays.
        ``method`` has the parameters with it where one name stands for several.

    Raises
    ------
    bench.types.UserError
        There are no results.
    """
    frames = []
    for members in group_runs(find_runs(Path(root))).values():
        for label, one in zip(method_labels(members), members, strict=True):
            measured = [field.name for field in first_measured(one)[1]]
            rows = read_rows(one, [*(name for name in META.names if name not in MAP_COLUMNS), *measured])
            if rows.empty:
                continue
            names = ("dataset", "model", "protocol")
            about = {name: str(one.config[name]) for name in names} | {"method": label, "layer": one.config["layer"]}
            for place, (name, value) in enumerate(about.items()):
                rows.insert(place, name, value)
            frames.append(rows)
    if not frames:
        raise UserError(f"no results under {root}; run python -m bench out={root} first")
    return pd.concat(frames, ignore_index=True)
