"""A whole run from Python, as ``python -m bench`` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bench.analysis.loading import load_group
from bench.analysis.tables import summarize_group
from bench.config import (
    GIVEN_TO_METHOD,
    bind_function,
    check_settings,
    compose_config,
    plain,
)
from bench.datasets.images import array_of, shorten
from bench.types import UserError, printable


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
        Means, intervals and paired tests of what was asked for, and with ``against=`` of the results there, one row
        per method, layer and metric value; columns as in summary.csv. Files are written as by the command line.

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
    # Some experiments ask for two workers.
    node = plain(compose_config(["quiet=true", "workers=1", *overrides], settings))
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
    entries = None if outcome.beside else outcome.entries
    folders = [outcome.folder, *outcome.beside]
    group = load_group(*folders, cases=outcome.cases, entries=entries, metrics=outcome.metrics, wanted=outcome.entries)
    if group is None:
        raise UserError(f"no readable cases under {node['out']}")
    return summarize_group(group, reference=node["reference"])[0]


def score_maps(
    maps: str | Path | Sequence[str | Path] | Mapping[str, ArrayLike],
    *overrides: str,
    frame: str = "original",
    **settings: Any,
) -> pd.DataFrame:
    """Score maps of another program for the cases of a data set, as ``python -m bench method=external`` does.

    Parameters
    ----------
    maps : path, sequence of paths or mapping
        A folder, or several, with one file a case or image (see `docs/external.md`), or arrays (h, w) by the ids of
        cases or images.
    overrides, settings
        As in `run`; other methods, e.g. ``method=["random"]``, stand in the same table.
    frame : {"original", "input"}
        Whether maps cover the whole picture or the network's input.

    Returns
    -------
    DataFrame
        As `run`.

    Raises
    ------
    bench.types.UserError
        As `run`; a folder without maps of over 5 % of the cases; an array that is no map.
    """
    own = ("method=", "method.external.root", "method.external.frame")
    for word in (*overrides, *(key for key in settings if key != "method")):
        if word.lstrip("+~").startswith(own):
            key = word.partition("=")[0]
            raise UserError(f"score_maps sets {key} itself; use its arguments maps, frame and method")
    listed = settings.pop("method", ())
    methods = ["external", *(listed if isinstance(listed, list | tuple) else [listed])]
    with TemporaryDirectory() as temporary:
        if isinstance(maps, Mapping):
            maps = save_maps(maps, Path(temporary) / "maps")
        elif not isinstance(maps, str | Path | Sequence) or not maps:
            raise UserError(f"maps={shorten(maps)} is no folder, no list of folders and no mapping of ids to arrays")
        root: Any = str(maps) if isinstance(maps, str | Path) else list(map(str, maps))
        given = {"method.external.root": root, "method.external.frame": frame}
        return run(*overrides, method=methods, **settings, **given)


def save_maps(maps: Mapping[str, ArrayLike], folder: Path) -> Path:
    """Write arrays as the files that ``method=external`` reads."""
    if not maps:
        raise UserError("there are no maps: the mapping is empty")
    for name, values in maps.items():
        path = folder / f"{name}.npy"
        try:
            inside = path.resolve().is_relative_to(folder.resolve())
            path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError):  # too long for a file, or with a zero byte
            inside = False
        if not inside:
            raise UserError(f"{shorten(name)} is no id of a case or an image")
        try:
            np.save(path, array_of(values), allow_pickle=False)
        except OSError as error:
            raise UserError(f"{shorten(name)} is no id of a case or an image: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"the map of {printable(name)} is no array of numbers: {error}") from error
    return folder
