"""The contract of every yaml in conf/: a new method or metric is tested by existing."""

from __future__ import annotations

import dataclasses
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml
from contract import METHODS, METRICS, load, make_batch, make_network, maps, measure, one, part, run
from torch import Tensor, nn

from bench.binding import wanted_instead
from bench.config import CONF, GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind
from bench.maps.capture import capture
from bench.maps.explain import Explain, Maps
from bench.maps.heatmaps import degenerate, upsample
from bench.maps.scorer import Scorer
from bench.options import named_function
from bench.runs.cost import Cost, evaluate, metric_cost, own_passes
from bench.runs.plan import Job, looks_at_layer
from bench.runs.rows import metric_columns
from bench.types import Batch, Layer, UserError


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


@pytest.mark.parametrize("name", METHODS)
def test_method_contract(name: str, network: nn.Module, batch: Batch) -> None:
    method = part("method", name)
    assert method.about["version"] >= 1
    assert named_function(method.parameters["_target_"], name, "method").__doc__, "a public function needs a docstring"
    native = maps(method, network, batch)
    assert native.isfinite().all()
    assert not native.requires_grad
    assert upsample(native, (32, 48)).shape == (2, 32, 48)
    for i in range(2):  # nothing depends on what else is in the batch
        torch.testing.assert_close(maps(method, network, one(batch, i)), native[i : i + 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_method_survives_dead_and_nonfinite_layers(name: str, network: nn.Module, batch: Batch) -> None:
    method = part("method", name)
    if not looks_at_layer(method):
        return
    if name == "cam":  # at another layer than the one before the pooling it has no meaning, and says so
        with pytest.raises(UserError, match="cam: "):
            maps(method, network, batch, "1")
        return
    zeros = torch.zeros(2, 8, 8, 12)
    logits = network(batch.images).detach()
    assert degenerate(run(method, Layer(zeros, zeros), logits, network, batch))[0] in ("zero", "constant")
    broken = torch.full_like(zeros, torch.nan)
    reasons = degenerate(run(method, Layer(broken, broken), logits, network, batch))
    assert set(reasons) <= {"nonfinite", "zero", "constant"}


SHARED = [name for name in METHODS if load("method", name)[name]["about"]["passes"] == "shared"]


@pytest.fixture(scope="module")
def volumes() -> tuple[nn.Module, Batch]:
    """Small 3-D CNN on two images of two channels, (2, 2, 12, 16, 20)."""
    torch.manual_seed(2)
    body = [nn.Conv3d(2, 6, 3, 2, 1), nn.ReLU(), nn.Conv3d(6, 8, 3, 2, 1), nn.ReLU()]
    module = nn.Sequential(*body, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5)).double().eval()
    nothing = [torch.zeros(0, 4)] * 2
    images = torch.randn(2, 2, 12, 16, 20, dtype=torch.float64)
    return module, Batch(
        images, ["a", "b"], ["a", "b"], ["x", "x"], [(1,), (2, 3)], nothing, nothing, [None] * 2, nothing, [None] * 2,
        [torch.zeros(0, dtype=torch.bool)] * 2, [(16, 20)] * 2, [(1.0, 1.0, 0.0, 0.0)] * 2, torch.zeros(2),
    )  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_shared_methods_on_volumes(name: str, volumes: tuple[nn.Module, Batch]) -> None:
    """A volume's map is that of its positions in a row: where a position lies matters to `local` entropy only."""
    module, data = volumes
    method = part("method", name)
    layer = "3" if name == "cam" else "1"
    captured = capture(module, data.images, data.targets, [layer])
    whole = captured.layers[layer]
    native = run(method, whole, captured.logits, module, data, layer)
    assert native.shape == (2, *whole.acts.shape[2:]) and native.ndim == 4
    assert native.isfinite().all()
    if name == "cam":
        return
    line = Layer(whole.acts.flatten(2), whole.grads.flatten(2))
    flat = run(method, line, captured.logits, module, data, layer)
    if name.endswith("local"):
        assert not torch.allclose(flat, native.flatten(1), rtol=0.1)
    else:
        torch.testing.assert_close(flat, native.flatten(1), rtol=1e-5, atol=1e-6 * float(flat.abs().max()))
    assert upsample(native, (12, 16, 20)).shape == (2, 12, 16, 20)


def documented() -> dict[str, list[str]]:
    """Rows of docs/methods.md by method."""
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    return {row[0].strip("`"): row for row in rows}


def test_every_method_is_documented_once() -> None:
    assert sorted(documented()) == METHODS


@pytest.mark.parametrize("name", METHODS)
def test_documented_row_is_whole_and_names_the_source_of_the_docstring(name: str) -> None:
    row = documented()[name]
    assert len(row) == 7 and all(row)
    described = named_function(load("method", name)[name]["_target_"], name, "method").__doc__
    for word in re.findall(r"[A-Z][\w-]+|\d{4}|eq\. \d+", row[2]):
        assert word.replace("eq. ", "") in described, f"{word} of docs/methods.md is not in the docstring"


@pytest.mark.parametrize("name", METHODS)
def test_documented_class_and_gradients(name: str, network: nn.Module, batch: Batch) -> None:
    """What docs/methods.md says of a method is what the method does, on a layer whose gradients vary."""
    row, method = documented()[name], dataclasses.replace(part("method", name), relu=False)
    asks = {"grads", "gradient", "logits", "module"} & set(method.wants)
    assert row[5] == ("yes" if method.about.get("needs_gradients", bool(asks)) else "no")
    layer = "3" if name == "cam" else "1"
    first = maps(method, network, batch, layer)
    second = maps(method, network, dataclasses.replace(batch, targets=[(0,), (4,)]), layer)
    # all gradients differ there, so the entropy of exact values is log2(Z) whatever the class
    depends = name == "grad_entropy_value" or not torch.equal(first, second)
    assert row[4] == ("yes" if depends else "no")
    assert row[4] == ("yes" if method.about.get("class_discriminative", depends) else "no")


@pytest.mark.parametrize("name", METHODS)
def test_documented_passes_are_those_it_takes(name: str, network: nn.Module, batch: Batch) -> None:
    """docs/methods.md and `about.passes` say the same, and a count of the network's runs agrees."""
    method, layer = part("method", name), "3"
    captured = capture(network, batch.images, batch.targets, [layer])
    acts = captured.layers[layer].acts
    assert (acts.flatten(2).amax(2) > acts.flatten(2).amin(2)).all()  # a constant channel would be skipped
    count = {"forward": 0, "backward": 0}

    def forward(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        count["forward"] += len(given[0])

    def backward(_module: nn.Module, _gradients: object, given: tuple[Tensor, ...]) -> None:
        count["backward"] += len(given[0])

    handles = [network.register_forward_pre_hook(forward), network[-1].register_full_backward_hook(backward)]
    run(method, captured.layers[layer], captured.logits, network, batch)
    for handle in handles:
        handle.remove()
    said = method.about["passes"]
    found = dict(zip(count, own_passes(method, acts.shape[1]), strict=True))
    assert count == {kind: number * len(batch.ids) for kind, number in found.items()}
    if isinstance(said, dict):
        text = ", ".join(f"{said[kind]} {kind}" for kind in count if said[kind] != 0)
        assert documented()[name][3] == text
        assert any(found.values())
        return
    assert documented()[name][3] == said
    asks = set(method.wants) - {"targets"}
    assert said == ("shared" if looks_at_layer(method) else "none")
    assert asks <= ({"acts", "grads", "head", "once"} if said == "shared" else {"images", "ids"})


@pytest.mark.parametrize("name", METRICS)
def test_metric_contract(name: str, network: nn.Module, batch: Batch) -> None:
    metric = part("metric", name)
    about = metric.about
    assert about["version"] >= 1
    assert about["unit"]
    assert set(about.get("needs", [])) <= {"boxes", "score", "explain"}
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
    node = load("metric", name)[name]
    # This network has three layers with weights.
    metric = bind(name, node | {"stages": 3} if "stages" in node else node, GIVEN_TO_METRIC)
    counting, cost = Counting(network), metric_cost(metric)
    captured = capture(counting, batch.images, batch.targets, ["network.3"])
    jobs = [Job(part("method", method), "network.3", Path(), method, {}) for method in ("grad_cam", "hirescam")]
    score, kept = Scorer(counting, batch.targets, 4), {}
    heatmaps = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(2))
    for number, job in enumerate(jobs, 1):
        explain = Explain(Maps(counting, batch, captured, score), jobs, job, _kept=kept)
        metric_columns([metric], heatmaps, batch, score, explain)
        paid = counting.counts.images - 3 * 2  # without the shared pass
        assert paid == 2 * (cost.per_case + number * cost.per_map), number
    assert (cost.explanations > 0) == ("explain" in metric.wants)


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
    deletion = load("metric", "deletion")["deletion"] | {"steps": 224}
    assert metric_cost(bind("deletion", deletion, GIVEN_TO_METRIC)) == Cost(223, 2, 0)


def metric_rows() -> dict[str, list[str]]:
    """Rows of docs/metrics.md by metric."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    return {row[0].strip("`"): row for row in rows if row[0].startswith("`")}


def test_every_metric_is_documented_once() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert sorted(line.split("|")[1].strip(" `") for line in page.splitlines() if line.startswith("| `")) == METRICS
    assert all(all(cell for cell in row) and len(row) == 8 for row in metric_rows().values())


@pytest.mark.parametrize("name", METRICS)
def test_documented_direction_and_cost(name: str) -> None:
    """What docs/metrics.md says of a metric is what its yaml says."""
    row, metric = metric_rows()[name], part("metric", name)
    arrows = {"↑": True, "↓": False}
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


def test_degenerate_reasons() -> None:
    native = torch.stack([torch.zeros(2, 2), torch.ones(2, 2), torch.eye(2), torch.full((2, 2), torch.nan)])
    assert degenerate(native) == ["zero", "constant", "", "nonfinite"]
    assert torch.equal(upsample(native, (4, 4))[3], torch.zeros(4, 4))


def test_upsampling_is_bilinear_and_not_corner_aligned() -> None:
    row = upsample(torch.tensor([[[0.0, 4.0]]]), (1, 4))[0, 0]
    torch.testing.assert_close(row, torch.tensor([0.0, 1.0, 3.0, 4.0]))


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
        (None, "float", "a number"), (None, "float | None", None), ("x", "int | None", "a whole number"),
        (True, "bool", None), (1, "bool", "true or false"), ("zero", "str", None), ([], "str", "a word"),
        ([0.1, 1], "Sequence[float]", None), (["a"], "Sequence[float]", "a list of numbers"),
        (0.5, "Sequence[float]", "a list of numbers"), ([1], "dict[str, int]", None), ("${seed}", "int", None),
    ],
)  # fmt: skip
def test_values_are_of_the_kind_that_a_parameter_takes(value: object, annotation: str, wanted: str | None) -> None:
    assert wanted_instead(value, annotation) == wanted
