"""The contract of every method's yaml: a new method is tested by existing."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from contract import ATTENTION, METHODS, make_batch, make_network, maps, one, part, run
from torch import Tensor, nn

from bench.binding import GIVEN_TO_METHOD
from bench.maps.capture import capture
from bench.maps.heatmaps import degenerate, upsample
from bench.options import conf_node, named_function, names
from bench.runs.cost import own_passes
from bench.runs.plan import looks_at_layer
from bench.types import Batch, Layer, UserError

BEFORE_POOLING = ("cam", "lift_cam")  # are defined at the layer in front of it only
CATEGORIES = {"gradient", "entropy", "activation", "attention", "perturbation", "attribution", "control", "other"}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return make_network()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_batch()


@pytest.mark.parametrize("name", METHODS)
def test_method_contract(name: str, network: nn.Module, batch: Batch) -> None:
    method = part("method", name)
    assert method.about["version"] >= 1
    assert method.about["category"] in CATEGORIES
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
    if name in BEFORE_POOLING:  # at another layer it has no meaning, and says so
        with pytest.raises(UserError, match=f"{name}: "):
            maps(method, network, batch, "1")
        return
    zeros = torch.zeros(2, 8, 8, 12)
    logits = network(batch.images).detach()
    assert degenerate(run(method, Layer(zeros, zeros), logits, network, batch))[0] in ("zero", "constant")
    broken = torch.full_like(zeros, torch.nan)
    reasons = degenerate(run(method, Layer(broken, broken), logits, network, batch))
    assert set(reasons) <= {"nonfinite", "zero", "constant"}


SHARED = [name for name in METHODS if conf_node("method", name)["about"]["passes"] == "shared"]


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
    layer = "3" if name in BEFORE_POOLING else "1"
    captured = capture(module, data.images, data.targets, [layer])
    whole = captured.layers[layer]
    native = run(method, whole, captured.logits, module, data, layer)
    assert native.shape == (2, *whole.acts.shape[2:]) and native.ndim == 4
    assert native.isfinite().all()
    if name in BEFORE_POOLING:
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
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    return {row[0].strip("`"): row for row in rows}


def test_every_method_is_documented_once() -> None:
    assert sorted(documented()) == names("method")


@pytest.mark.parametrize("name", [*METHODS, *ATTENTION])
def test_documented_row_is_whole_and_names_the_source_of_the_docstring(name: str) -> None:
    row = documented()[name]
    assert len(row) == 7 and all(row)
    described = named_function(conf_node("method", name)["_target_"], name, "method").__doc__
    for word in re.findall(r"[A-Z][\w-]+|\d{4}|eq\. \d+", row[2]):
        assert word.replace("eq. ", "") in described, f"{word} of docs/methods.md is not in the docstring"


@pytest.mark.parametrize("name", METHODS)
def test_documented_class_and_gradients(name: str, network: nn.Module, batch: Batch) -> None:
    """What docs/methods.md says of a method is what the method does, on a layer whose gradients vary."""
    row, method = documented()[name], dataclasses.replace(part("method", name), relu=False)
    asks = {"grads", "gradient", "logits", "module"} & set(method.wants)
    assert row[5] == ("yes" if method.about.get("needs_gradients", bool(asks)) else "no")
    layer = "3" if name in BEFORE_POOLING else "1"
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

    def forward(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        count["forward"] += len(inputs[0])

    def backward(_module: nn.Module, _gradients: object, gradients: tuple[Tensor, ...]) -> None:
        count["backward"] += len(gradients[0])

    handles = [network.register_forward_pre_hook(forward), network[-1].register_full_backward_hook(backward)]
    run(method, captured.layers[layer], captured.logits, network, batch)
    for handle in handles:
        handle.remove()
    said = method.about["passes"]
    own = dict(zip(count, own_passes(method, acts.shape[1:]), strict=True))
    assert count == {kind: number * len(batch.ids) for kind, number in own.items()}
    if isinstance(said, dict):
        text = ", ".join(f"{said[kind]} {kind}" for kind in count if said[kind] != 0)
        assert documented()[name][3] == text
        assert any(own.values())
        return
    assert documented()[name][3] == said
    asks = set(method.wants) - {"targets"}
    assert said == ("shared" if looks_at_layer(method) else "none")
    assert asks <= ({"acts", "grads", "head", "outputs", "once"} if said == "shared" else {"images", "shown", "ids"})


# The variants of an entropy method; the two that have the paper's name state every parameter, to show what there is.
VARIANTS = [name for name in METHODS if re.fullmatch("(grad|feature)_entropy_.+", name)]


@pytest.mark.parametrize("name", VARIANTS)
def test_entropy_variants_state_only_what_differs(name: str) -> None:
    base = conf_node("method", name.split("_entropy")[0] + "_entropy")
    variant = conf_node("method", name)
    assert len(variant) == 3 and variant["_target_"] == base["_target_"]
    shown = ("title", "colour")  # a variant has a name of its own
    first, second = ({k: v for k, v in node["about"].items() if k not in shown} for node in (variant, base))
    assert first == second
    assert all(base[key] != value for key, value in variant.items() if key not in ("_target_", "about"))


@pytest.mark.parametrize("name", ["grad_entropy", "feature_entropy"])
def test_entropy_yamls_state_the_functions_defaults(name: str) -> None:
    """So that the variants, which leave parameters to the functions, differ in what they state alone."""
    node = conf_node("method", name)
    defaults = named_function(node.pop("_target_"), name, "method").__kwdefaults__
    del node["about"]
    assert node == {key: value for key, value in defaults.items() if key not in GIVEN_TO_METHOD}
