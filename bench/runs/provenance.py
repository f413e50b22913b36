"""Where numbers come from: versions, commit, device, batch sizes, seconds, pictures and boxes left out."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.runs.execution import Speed
from bench.runs.plan import Job
from bench.runs.store import PROVENANCE, read_chunk, read_provenance, write_first, write_json

PACKAGES = (
    "cam-bench", "torch", "torchvision", "pillow", "timm", "numpy", "scipy", "scikit-image", "pandas", "pyarrow",
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def git_commit() -> str | None:
    """Commit of the checkout this program runs from, with ``+`` where files were changed; None outside one."""
    folder = Path(__file__).parent
    try:
        asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        asked = ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def start_provenance(
    jobs: Sequence[Job], config: dict[str, Any], device: torch.device, choose: Callable[[], Speed]
) -> dict[Path, Speed]:
    """Speed for each job's folder; ``choose()`` gives it to the new ones.

    A folder that was begun earlier keeps its own: rounding depends on it, and a resumed run must give the same
    bytes as an undisturbed one.
    """
    speeds: dict[Path, Speed] = {}
    for job in jobs:
        known = kept_speed(read_provenance(job.folder))
        if known is None:
            facts = {
                **vars(choose()),
                "device": device_name(device),
                "precision": config["precision"],
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "git_commit": git_commit(),
                "command": sys.argv,
            }
            # Of processes that begin together the first one's word counts, and the others take it over.
            facts = write_first(job.folder / PROVENANCE, facts, lambda kept: kept_speed(kept) is not None)
            known = kept_speed(facts)
        speeds[job.folder] = known or choose()
    return speeds


def kept_speed(facts: dict[str, Any]) -> Speed | None:
    """Speed that a provenance file names, or None where it names none that makes sense."""
    values: list[Any] = [facts.get(field.name) for field in fields(Speed)]
    sizes = all(type(size) is int and size > 0 for size in values[:2])
    return Speed(*values) if sizes and all(type(flag) is bool for flag in values[2:]) else None


def device_name(device: torch.device) -> str:
    """Name the device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def finish_provenance(jobs: Sequence[Job], bad_records: Sequence[dict[str, str]] = ()) -> None:
    """Add what the chunks say of themselves (how many, seconds, what was left out) and the data set's bad records."""
    for job in jobs:
        skipped: list[dict[str, str]] = []
        dropped: list[dict[str, Any]] = []
        seconds: dict[str, float] = {}
        smallest: dict[str, int] = {}
        chunks = 0
        for path in sorted(job.folder.glob("chunk-*.parquet")):
            try:
                _, note = read_chunk(path, [])
            except (ValueError, OSError):
                continue
            chunks += 1
            skipped += note["skipped"]
            dropped += note.get("dropped", [])  # chunks of earlier versions do not say
            smallest = {key: min(note[key], smallest.get(key, note[key])) for key in ("batch", "score_batch")}
            for name, value in note["seconds"].items():
                seconds[name] = round(seconds.get(name, 0.0) + value, 3)
        facts = {**read_provenance(job.folder), "chunks": chunks, "seconds": seconds, "skipped": skipped}
        facts["smallest"] = smallest  # smaller than asked for where memory ran out
        facts["dropped_boxes"] = dropped
        facts["bad_records"] = list(bad_records)
        if facts != read_provenance(job.folder):
            write_json(job.folder / PROVENANCE, facts)


def bad_pictures(jobs: Sequence[Job]) -> set[str]:
    """Ids of the images that finished chunks left out."""
    return {row.get("image_id", "") for job in jobs for row in read_provenance(job.folder).get("skipped", [])} - {""}


def left_out(job: Job) -> list[str]:
    """Lines for the user: pictures that cannot be decoded, boxes that the transform cut away."""
    facts, notes = read_provenance(job.folder), []
    if facts["skipped"]:
        notes.append(f"left out, because the picture is bad: {len(facts['skipped'])} cases (all in _provenance.json)")
    if facts["dropped_boxes"]:
        boxes = sum(row["boxes"] for row in facts["dropped_boxes"])
        notes.append(
            f"left out, because under 20 % of them is in the input: {boxes} boxes of {len(facts['dropped_boxes'])} "
            "cases (all in _provenance.json)"
        )
    return notes
