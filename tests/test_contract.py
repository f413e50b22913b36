"""The contract of every yaml in conf/: a new method or metric is tested by existing."""

from __future__ import annotations

import dataclasses
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml
from contract import METHODS, METRICS, explain_of, job_of, make_batch, make_network, measure, one, part
from torch import Tensor, nn

from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind, wanted_instead
from bench.maps.capture import capture
from bench.maps.heatmaps import upsample
from bench.maps.scorer import Scorer
from bench.options import CONF, conf_node, named_function
from bench.runs.cost import Cost, evaluate, metric_cost
from bench.runs.rows import metric_columns
from bench.types import Batch, UserError


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return make_network()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch()


@pytest.mark.parametrize("group", ["method", "metric"])
def test_key_equals_stem(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        assert list(yaml.safe_load(path.read_text())) == [path.stem]


@pytest.mark.parametrize("group", ["model", "dataset"])
def test_single_groups_name_themselves(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        assert node["name"] in (path.stem, "???")  # ???: any network of a library, named by the user
        assert node["_target_"].startswith("bench.")


@pytest.mark.parametrize("name", METRICS)
def test_metric_contract(name: str, network: nn.Module, batch: Batch) -> None:
    metric = part("metric", name)
    about = metric.about
    assert about["version"] >= 1
    assert about["unit"]
    assert set(about.get("needs", [])) <= {
        "boxes",
        "mosaic",
        "truth",
        "classes",
        "others",
        "pictures",
        "score",
        "explain",
    }
    for asked in ("score", "explain"):
        assert (asked in about.get("needs", [])) == (asked in metric.wants)
    assert named_function(metric.parameters["_target_"], name).__doc__, "a public function needs a docstring"
    heatmaps = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    rows = measure(metric, heatmaps, network, batch)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    scalars = {key.split(".", 1)[1] for key, value in rows[0].items() if isinstance(value, float)}
    assert set(about["higher_is_better"]) == scalars
    assert set(about["show"]) <= scalars
    assert set(about.get("class_mean", [])) <= scalars
    # Rounding that flips a bin of HOG or a tie of ranks moves a similarity of random networks' maps a little more.
    near = 1e-4 if "explain" in metric.wants else 1e-5
    for i in range(2):
        alone = measure(metric, heatmaps[i : i + 1], network, one(batch, i))
        for key, value in alone[0].items():
            torch.testing.assert_close(
                torch.tensor(value), torch.tensor(rows[i][key]), rtol=1e-4, atol=near, equal_nan=True
            )


class Counting(nn.Module):
    """Counts the images of its forward passes, its copies' too, and those of its backward passes twice."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.counts = network, Counts()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        self.counts.images += len(images) * (3 if logits.requires_grad else 1)
        return logits


class Counts:
    images = 0

    def __deepcopy__(self, memo: dict) -> Counts:
        return self


@pytest.mark.parametrize("name", METRICS)
def test_metric_costs_what_it_says(name: str, network: nn.Module, batch: Batch) -> None:
    """Passes of one and of two Grad-CAM maps of a batch: what is shared is paid once."""
    node = conf_node("metric", name)
    # This network has three layers with weights.
    metric = bind(name, node | {"stages": 3} if "stages" in node else node, GIVEN_TO_METRIC)
    counting, cost = Counting(network), metric_cost(metric)
    captured = capture(counting, batch.images, batch.targets, ["network.3"])
    jobs = [job_of(part("method", method), "network.3") for method in ("grad_cam", "hirescam")]
    score = Scorer(counting, batch.targets, 4)
    explain = explain_of(counting, batch, captured, score, jobs)
    heatmaps = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(2))
    for number, job in enumerate(jobs, 1):
        metric_columns(metric, name, heatmaps, batch, score, dataclasses.replace(explain, job=job))
        paid = counting.counts.images - 3 * 2  # without the shared pass
        assert paid == 2 * (cost.per_case + number * cost.per_map), number
    # That one asks for the network's features, not for a map.
    assert (cost.explanations > 0) == ("explain" in metric.wants and name != "baseline_distance")


def test_cost_expressions() -> None:
    values = {"steps": 7, "shares": [1, 2, 3]}
    right = {"3": 3, "steps - 1": 6, "2 * len(shares)": 6, "(steps + 1) // 3": 2}
    assert {text: evaluate("x", text, values) for text in right} == right
    for bad in ("stops", "steps.real", "steps(", "__import__('os')", "1.5", "len(steps)", "'a'", "steps // 0"):
        with pytest.raises(UserError, match="x: .*(cannot be counted|is not arithmetic)"):
            evaluate("x", bad, values)
    for steps in ("abc", None, 2.5, [3]):
        with pytest.raises(UserError, match=re.escape(f"'steps - 1', cannot be counted with steps={steps}: ")):
            evaluate("x", "steps - 1", {"kernel": 3, "steps": steps})
    for shares in (0.5, None, "abc"):
        with pytest.raises(UserError, match=f"with shares={shares}: "):
            evaluate("x", "2 * len(shares)", {"shares": shares})
    deletion = conf_node("metric", "deletion") | {"steps": 224}
    assert metric_cost(bind("deletion", deletion, GIVEN_TO_METRIC)) == Cost(223, 2, 0)


def metrics_page() -> str:
    """The metrics' own tables; behind them is one of their values, see tests/scripts/test_study.py."""
    return (Path(__file__).parents[1] / "docs" / "metrics.md").read_text().split("<!-- agreement -->")[0]


def metric_rows() -> dict[str, list[str]]:
    """Rows of docs/metrics.md by metric."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in metrics_page().splitlines()]
    return {row[0].strip("`"): row for row in rows if row[0].startswith("`")}


def test_every_metric_is_documented_once() -> None:
    page = metrics_page()
    assert sorted(line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")) == METRICS
    assert all(all(cell for cell in row) and len(row) == 8 for row in metric_rows().values())


@pytest.mark.parametrize("name", METRICS)
def test_documented_direction_and_cost(name: str) -> None:
    """What docs/metrics.md says of a metric is what its yaml says."""
    row, metric = metric_rows()[name], part("metric", name)
    arrows = {"↑": True, "↓": False, "–": None}
    said = {value.strip("` "): arrows[word[-1]] for word in row[4].split(", ") for value in [word[:-1]]}
    # Values that differ in nothing but a number stand together: instance_recall_*.
    for key, higher in metric.about["higher_is_better"].items():
        assert any(fnmatch(key, pattern) and arrow == higher for pattern, arrow in said.items()), key
    assert all(any(fnmatch(key, pattern) for key in metric.about["higher_is_better"]) for pattern in said)
    costs = [metric.about.get(key, 0) for key in ("passes", "passes_per_case", "explanations")]
    units = ("a map", "a case", "explanations")
    expected = [f"{str(cost).replace('*', 'x')} {unit}" for cost, unit in zip(costs, units, strict=True) if cost]
    assert row[5] == (", ".join(expected) or "none")


@pytest.mark.parametrize("name", METRICS)
def test_metric_on_maps_that_say_nothing(name: str, network: nn.Module, batch: Batch) -> None:
    metric = part("metric", name)
    for heatmaps in (torch.zeros(2, 32, 48), torch.ones(2, 32, 48)):
        assert measure(metric, heatmaps, network, batch)[0]
    # A map with a single NaN or infinity is judged as a zero one: no metric can be misled by what it does hold.
    zero, broken = torch.zeros(2, 4, 6), torch.rand(2, 4, 6)
    broken[0, 1, 2], broken[1, 3, 5] = torch.nan, torch.inf
    rows = [measure(metric, upsample(native, (32, 48)), network, batch) for native in (zero, broken)]
    for zeroed, found in zip(*rows, strict=True):
        for key, value in zeroed.items():
            torch.testing.assert_close(torch.tensor(found[key]), torch.tensor(value), equal_nan=True)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "os.system"}, "is refused"),
        ({"_target_": "benchmark.x"}, "is refused"),
        ({}, "is refused"),
        ({"_target_": "methods.gradient.nothing"}, "does not exist"),
        ({"_target_": "methods.nothing.grad_cam"}, "does not exist"),
        ({"_target_": "methods.gradient.grad_cam", "rleu": 1}, "has no parameter 'rleu'"),
        (3, "not a config node"),
    ],
)
def test_bind_refuses(node: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        bind("x", node, GIVEN_TO_METHOD)


def test_conf_is_where_the_code_says() -> None:
    assert Path(CONF).is_dir()
    assert {"grad_cam", "grad_entropy", "feature_entropy", "random"} <= set(METHODS)


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, "int", None), (2.5, "int", "a whole number"), (True, "int", "a whole number"),
        (3, "float", None), (0.5, "float", None), ("x", "float", "a number"), ([1], "float", "a number"),
        (None, "float", "a number"), (None, "float | None", None), ("x", "int | None", "a whole number or null"),
        (True, "bool", None), (1, "bool", "true or false"), ("zero", "str", None), ([], "str", "a word"),
        ([0.1, 1], "Sequence[float]", None), (["a"], "Sequence[float]", "a list of numbers"),
        (0.5, "Sequence[float]", "a list of numbers"), ([1], "dict[str, int]", None), ("${seed}", "int", None),
    ],
)  # fmt: skip
def test_values_are_of_the_kind_that_a_parameter_takes(value: object, annotation: str, wanted: str | None) -> None:
    assert wanted_instead(value, annotation) == wanted
