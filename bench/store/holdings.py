"""What a results folder holds and what it lacks, without reading rows."""

from __future__ import annotations

import logging

from bench.store.folders import Folder
from bench.store.parts import read_part
from bench.types import NO_LAYER, counted

log = logging.getLogger(__name__)


def held_results(folder: Folder) -> dict[tuple[str, str], set[str]]:
    """Ids of the cases that a folder holds, by method at layer and metric, and by method and "" for its rows."""
    held: dict[tuple[str, str], set[str]] = {}
    for path in folder.parts:
        try:
            _, note = read_part(path, [])
        except (OSError, ValueError) as error:
            log.warning("%s is left out: %s", path, error)
            continue
        for entry in note["entries"]:
            name = entry["method"] if entry["layer"] == NO_LAYER else f"{entry['method']} at {entry['layer']}"
            for metric in ("", *note["metrics"]):
                held.setdefault((name, metric), set()).update(note["cases"])
    return held


def missing_results(held: dict[tuple[str, str], set[str]], cases: int) -> list[str]:
    """Say which metric of which method lacks how many of the cases that the folder has."""
    methods, metrics = ({pair[place] for pair in held} for place in range(2))
    lines = []
    for metric in sorted(metrics):
        by_number: dict[int, list[str]] = {}
        for method in sorted(methods):
            by_number.setdefault(cases - len(held.get((method, metric), ())), []).append(method)
        for number, lacking in sorted(by_number.items()):
            if number:
                who = "all methods" if len(lacking) == len(methods) else ", ".join(lacking)
                lines.append(f"{metric or 'rows'}: {counted(number, 'case')} of {who}")
    return lines
