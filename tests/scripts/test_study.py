"""The study's page says what the published results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from bench.analysis.rankings import agreement_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    spec = importlib.util.spec_from_file_location("study", ROOT / "scripts" / "study.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["study.md", "metrics.md"])
def test_every_table_of_the_page_is_made_again_from_the_published_results(study: Any, name: str) -> None:
    page = (study.DOCS / name).read_text(encoding="utf-8")
    assert study.written(name, page) == page, "run python scripts/study.py"


@pytest.mark.parametrize(
    ("name", "start"), [("study.md", "| `grad_cam` |"), ("metrics.md", "| `box_coverage.coverage` |")]
)
def test_a_changed_number_is_noticed(study: Any, name: str, start: str) -> None:
    page = (study.DOCS / name).read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(start))
    assert study.written(name, page.replace(row, row.replace(".", "1.", 2))) == page


def test_agreement_is_kendalls_tau_of_the_methods_means(study: Any) -> None:
    """One pair of the scenes by SciPy, from the values of the cases; directions turned the same way."""
    (group,) = (group for group, _, _ in study.groups() if group.dataset == "collage")
    first, second = "pointing_game.hit", "sparseness.gini"
    entries = [entry for entry in group.entries if entry.ranked]
    values = np.array([[group.values(entry, name) for name in (first, second)] for entry in entries])
    values = values[np.isfinite(values).any(axis=2).all(axis=1)]  # measured methods
    kept = np.isfinite(values).all(axis=(0, 1))
    expected = kendalltau(*values[:, :, kept].mean(axis=2).round(6).T).statistic
    table = agreement_table(group).set_index(["metric", "other_metric"])["tau"]
    found = [tau for pair, tau in table.items() if {first, second} == {*pair}]
    assert found == pytest.approx([expected], abs=0.01)


def test_what_the_trial_says_is_read_from_its_table(study: Any) -> None:
    said = study.trusted()
    assert said["insertion.auc"] == "blur, shift, missing, noise" and said["pointing_game.hit"] == "nothing"


def test_a_number_is_short_and_keeps_its_sign(study: Any) -> None:
    values = [study.number(value) for value in (0.254, -0.031, -0.001, 1.0, float("nan"))]
    assert values == [".25", "-.03", ".00", "1.00", "–"]
