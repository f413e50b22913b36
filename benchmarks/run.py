"""What the program costs beside the network alone and beside its peers: `make benchmark` writes RESULTS.md.

Every row is measured side by side with its yardstick in one process: alternating repeats, medians. The
pictures are scikit-image's own photographs, 16 crops of 224x224, the network is efficientnet_lite0.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from bench.runs.execution import keep_freed_memory
from bench.runs.provenance import versions
from benchmarks import loading, passes, peers, reading, scaling, scoring
from benchmarks.common import DEVICE, HEAD

PARTS: dict[str, Callable[[int], list[str]]] = {
    part.__name__.split(".")[-1]: part.rows for part in (passes, peers, scoring, scaling, loading, reading)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all without")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "RESULTS.md")
    arguments = parser.parse_args()
    keep_freed_memory()
    rows = [row for name in arguments.parts or PARTS for row in PARTS[name](arguments.repeats)]
    card = f", {torch.cuda.get_device_name()}" if DEVICE.type == "cuda" else ""
    head = [
        "# Benchmarks",
        "",
        f"`make benchmark` on {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads{card}, medians of {arguments.repeats} alternating repeats, milliseconds. "
        + ", ".join(f"{name} {number}" for name, number in versions().items())
        + ".",
        "",
    ]
    arguments.out.write_text("\n".join([*head, *HEAD, *rows]) + "\n")


if __name__ == "__main__":
    main()
