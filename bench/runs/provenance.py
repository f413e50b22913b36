"""Where numbers come from: versions, commit, device, batch sizes, pictures and boxes left out."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.runs.execution import Speed
from bench.store.files import read_json, write_first, write_json
from bench.store.folders import PROVENANCE, Folder
from bench.types import counted

PACKAGES = (
    "cam-bench", "torch", "torchvision", "pillow", "timm", "numpy", "scipy", "scikit-image", "pandas", "pyarrow",
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    known = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "not installed"
    return known


@cache
def git_commit() -> str | None:
    """Commit of the checkout this program runs from, with ``+`` where files were changed; None outside one."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parents[2]), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def facts(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Command, versions, device and settings of this process, for every part that it writes."""
    return {
        "command": [str(word) for word in config.get("command") or sys.argv],
        "versions": versions(),
        "device": device_name(device),
        "precision": config["precision"],
        "threads": torch.get_num_threads(),
        "git_commit": git_commit(),
    }


def device_name(device: torch.device) -> str:
    """Name the device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def kept_or_chosen(folder: Folder, known: dict[str, Any], choose: Callable[[], Speed]) -> Speed:
    """Speed that the folder was begun with; a new folder keeps the one that ``choose()`` gives.

    Rounding depends on it, so a resumed run and processes that begin together take the same.
    """
    path = folder.path / PROVENANCE
    speed = speed_of(read_json(path))
    if speed is None:
        chosen = choose()
        written = write_first(path, {**vars(chosen), **known}, lambda content: speed_of(content) is not None)
        speed = speed_of(written) or chosen
    return speed


def speed_of(content: dict[str, Any]) -> Speed | None:
    """Speed that a provenance file names, or None where it names none that makes sense."""
    values: list[Any] = [content.get(field.name) for field in fields(Speed)]
    sizes = all(type(size) is int and size > 0 for size in values[:2])
    return Speed(*values) if sizes and all(type(flag) is bool for flag in values[2:]) else None


def finish_provenance(
    folder: Folder, known: dict[str, Any], notes: Iterable[dict[str, Any]], bad_records: Sequence[dict[str, str]]
) -> None:
    """Add what the parts' notes say was left out, and the data set's bad records."""
    path, before = folder.path / PROVENANCE, read_json(folder.path / PROVENANCE)
    skipped = {row["case_id"]: row for note in notes for row in note["skipped"]}
    dropped = {row["case_id"]: row for note in notes for row in note["dropped"]}
    content = {
        **known,
        **before,
        "skipped": list(skipped.values()),
        "dropped_boxes": list(dropped.values()),
        "bad_records": list(bad_records),
    }
    if content != before:
        write_json(path, content)


def left_out(notes: Iterable[dict[str, Any]]) -> list[str]:
    """Lines for the user: pictures that cannot be decoded, boxes that the transform cut away."""
    skipped: set[str] = set()
    boxes: dict[str, int] = {}
    for note in notes:
        skipped |= {row["case_id"] for row in note["skipped"]}
        boxes |= {row["case_id"]: row["boxes"] for row in note["dropped"]}
    lines = []
    if skipped:
        lines.append(f"left out, because the picture is bad: {counted(len(skipped), 'case')} (all in _provenance.json)")
    if boxes:
        lines.append(
            f"left out, because under 20 % of them is in the input: boxes of "
            f"{counted(len(boxes), 'case')}, {sum(boxes.values())} in all (all in _provenance.json)"
        )
    return lines
