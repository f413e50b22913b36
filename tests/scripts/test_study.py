"""The study's page says what the published results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("study", ROOT / "scripts" / "study.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_page_is_made_again_from_the_published_results(study: Any) -> None:
    page = study.PAGE.read_text(encoding="utf-8")
    assert study.written(page) == page, "run python scripts/study.py"


def test_a_changed_number_is_noticed(study: Any) -> None:
    page = study.PAGE.read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `grad_cam` |"))
    assert study.written(page.replace(row, row.replace(".", "1.", 1))) == page


def test_a_number_is_short_and_keeps_its_sign(study: Any) -> None:
    assert [study.number(value) for value in (0.254, -0.031, 1.0, float("nan"))] == [".25", "-.03", "1.00", "–"]
