"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from made_results import finished, one_run, reads, results

__all__ = ["finished", "one_run", "reads", "results"]

# Two xdist workers with one thread each use two cores better than two threads each.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images and annotations, beside the checkout or named by BENCH_DATA."""
    root = Path(os.environ.get("BENCH_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set BENCH_DATA")
    return root
