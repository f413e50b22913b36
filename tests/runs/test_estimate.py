"""The estimate says what a run would cost and keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import compute
from bench.config import compose_config, plain
from bench.runs.estimate import duration


def test_passes_time_and_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=resnet18", "model.weights=random", "method=[grad_cam,random]", "metric=[deletion]"]
    words += ["metric.deletion.steps=3", "limit=20", "estimate=true", "batch=2", "score_batch=2"]
    outcome = compute(plain(compose_config([*words, f"out={tmp_path / 'r'}"])))
    printed = " ".join(capsys.readouterr().out.split())
    assert outcome.folder is None and not (tmp_path / "r").exists()
    assert "20 cases x 2 maps each (2 methods, 1 layer), 1 metric, in 2 result files" in printed
    scored = 2 * 2 + 2  # two steps of two maps, the clean and the empty picture
    assert f"scored passes {scored} {20 * scored}" in printed
    assert "equal maps are scored once" in printed and "no result was kept" in printed


def test_durations_read_well() -> None:
    assert [duration(s) for s in (3, 240, 7200, 400_000)] == ["3 s", "4.0 min", "2.0 h", "4.6 days"]
