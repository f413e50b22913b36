"""A whole run from Python, as ``python -m bench`` does it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.analysis.loading import load_group
from bench.analysis.tables import summarize_group
from bench.config import (
    GIVEN_TO_METHOD,
    bind_function,
    check_settings,
    compose_config,
    plain,
)
from bench.types import UserError


def run(*overrides: str, **settings: Any) -> pd.DataFrame:
    """Run a benchmark, or complete it, as ``python -m bench`` does; quietly, in this process.

    ``workers=N`` and ``estimate=true`` work on the command line only.

    Parameters
    ----------
    overrides : str
        As on the command line, e.g. ``"experiment=demo"``, ``"metric.deletion.steps=224"``.
    settings
        The same as keywords, e.g. ``method=["grad_cam", "layer_cam"]``, ``limit=10``, ``out="results"``. Beside names
        `method` takes functions as in ``methods/``; their results are kept under their name and a hash of their code.

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
    from bench.__main__ import compute, show

    listed = settings.get("method", ())
    listed = list(listed) if isinstance(listed, list | tuple) else [listed]
    functions = [method for method in listed if callable(method)]
    if functions:
        settings["method"] = [method for method in listed if not callable(method)]
    node = plain(compose_config(["quiet=true", *overrides], settings))
    check_settings(node)
    if node["workers"] > 1:
        raise UserError("bench.run is one process; for several use the command line: python -m bench … workers=N")
    if node["estimate"]:
        raise UserError(
            "bench.run gives results; for an estimate use the command line: python -m bench … estimate=true"
        )
    outcome = compute(node, [bind_function(function, GIVEN_TO_METHOD) for function in functions])
    show(node, outcome)
    assert outcome.folder is not None
    group = load_group(outcome.folder, cases=outcome.cases, entries=outcome.entries, metrics=outcome.metrics)
    if group is None:
        raise UserError(f"no readable cases under {node['out']}")
    return summarize_group(group, reference=node["reference"])[0]
