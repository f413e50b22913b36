"""The network set by hand: filters, thresholds, the blind half, and how glyphs combine."""

from __future__ import annotations

from itertools import combinations
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.config import build, compose_config
from bench.networks.mechanisms import Glyph, Mechanism
from bench.networks.planted import AMPLITUDE, GREY, SPREAD, THRESHOLD, Planted, tile_patterns
from bench.types import UserError
from methods.control import edges


@pytest.fixture(scope="module")
def network() -> Any:
    return build("model", compose_config(["model=planted"]).model)


def blank(module: Any) -> Tensor:
    return torch.zeros(1, 3, *[module.size] * module.rank)


def plant(module: Any, kind: tuple[str, str], corner: tuple[int, ...], contrast: float = 1.0) -> Tensor:
    """What a glyph adds to a normalized picture, its first tile at this place of the grid."""
    picture, pattern = blank(module), module.patterns[kind]
    at = [slice(module.tile * c, module.tile * c + side) for c, side in zip(corner, pattern.shape[1:], strict=True)]
    picture[(0, slice(None), *at)] = contrast * pattern / SPREAD
    return picture


def score(module: nn.Module, picture: Tensor, name: str) -> float:
    with torch.inference_mode():
        return module(picture)[0, list(module.mechanisms).index(name)].item()


@pytest.mark.parametrize(("side", "rank"), [(8, 2), (4, 3)])
def test_tiles_are_orthogonal_to_one_another_to_flat_colours_and_to_halves(side: int, rank: int) -> None:
    tiles = torch.stack(tile_patterns(side, rank))
    grey = tiles[:, 0] / tiles[:, 0].abs().amax(tuple(range(1, rank + 1)), keepdim=True)  # +-1
    assert set(grey.unique().tolist()) == {-1, 1}
    whole = grey.flatten(1)
    assert torch.equal(whole @ whole.T, side**rank * torch.eye(len(whole)))
    assert not whole.sum(1).any()
    assert (edges(tiles) > 0).flatten(1).float().mean(1).min() > 0.2  # a control that looks at edges sees them
    half = grey.clone()
    half[:, side // 2 :] = 0
    assert torch.equal(half.flatten(1) @ whole.T, side**rank / 2 * torch.eye(len(whole)))


def test_each_channel_fires_on_its_own_glyph_alone(network: Any) -> None:
    module = network.module
    kinds = [(name, kind) for name, one in module.mechanisms.items() for kind in one.glyphs]
    channels = [kind for kind in kinds for _ in module.mechanisms[kind[0]].glyphs[kind[1]].weights]
    for kind in kinds:
        for strength in (1.0, 0.3):
            acts = module.features(plant(module, kind, (5, 9), module.contrast(strength)))[0]
            lit = acts > 1e-6
            own = torch.tensor([channel == kind for channel in channels])
            assert not lit[~own].any() and lit[own][:, 5:8, 9:12].sum() == 9 * own.sum() * (
                kind[0] != "deep" or strength == 1
            )
            lit[:, 5:8, 9:12] = False
            assert not lit.any()
            if kind[0] != "deep":
                torch.testing.assert_close(acts[own, 5:8, 9:12], torch.full((int(own.sum()), 3, 3), strength))


def test_nothing_passes_below_the_threshold(network: Any) -> None:
    """By perturbation and by gradient, both exactly."""
    module = network.module
    weak = plant(module, ("additive", "own"), (5, 9), 0.99 * THRESHOLD)
    assert score(module, weak, "additive") == score(module, blank(module), "additive") == 0
    assert score(module, plant(module, ("additive", "own"), (5, 9), 1.2 * THRESHOLD), "additive") > 0
    for picture, moves in ((weak, False), (plant(module, ("additive", "own"), (5, 9)), True)):
        picture.requires_grad_()
        gradient = torch.autograd.grad(module(picture)[0, list(module.mechanisms).index("additive")], picture)[0]
        assert bool(gradient.any()) == moves


def test_the_blind_half_is_exactly_without_effect(network: Any) -> None:
    """By gradient and by perturbation; the row above it has an effect."""
    module, output = network.module, list(network.module.mechanisms).index("blind")
    row = module.blind_from + 1  # of tiles
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 224, 224, generator=generator)
    pictures = plant(module, ("blind", "own"), (3, 3)) + 0 * noise
    for place in ((row, 3), (row + 5, 20)):
        pictures = pictures + plant(module, ("blind", "own"), place)
    acts = module.features(pictures).detach().requires_grad_()
    behind = module.scale * module.head((module.read(acts) * module.seen).flatten(2).sum(2) / 9)
    assert behind[0, output].item() == pytest.approx(score(module, pictures, "blind"))
    gradient = torch.autograd.grad(behind[0, output], acts)[0]
    assert gradient[:, :, :row].any() and (gradient[:, :, row:] == 0.0).all()
    assert acts[:, :, row:].any()  # there is something that could have been seen
    clean = score(module, pictures, "blind")
    changed = pictures.clone()
    changed[:, :, module.tile * row :] = 3 * noise[:, :, module.tile * row :]
    assert score(module, changed, "blind") == clean
    nearer = plant(module, ("blind", "own"), (row - 1, 12))
    assert score(module, pictures + nearer, "blind") != clean


def test_or_saturates_and_and_needs_both(network: Any) -> None:
    module = network.module
    one, other = (plant(module, ("or", "own"), place) for place in ((3, 3), (15, 15)))
    assert score(module, one, "or") == pytest.approx(6, rel=0.05)
    assert score(module, one + other, "or") == 6
    both = (one + other).requires_grad_()
    assert not torch.autograd.grad(module(both)[0, list(module.mechanisms).index("or")], both)[0].any()
    left, right = plant(module, ("and", "left"), (3, 3)), plant(module, ("and", "right"), (15, 15))
    assert score(module, left, "and") == score(module, right, "and") == 0
    assert score(module, left + right, "and") == pytest.approx(6, rel=0.1)


def test_outputs_know_their_own_glyphs_only(network: Any) -> None:
    module = network.module
    empty = module(blank(module))[0]
    for a, b in combinations(module.mechanisms, 2):
        kind = next(iter(module.mechanisms[a].glyphs))
        assert score(module, plant(module, (a, kind), (5, 9)), b) == empty[list(module.mechanisms).index(b)]


def test_a_volume_works_the_same() -> None:
    module: Any = Planted(
        {"a": Mechanism({"own": Glyph([1.0])}), "deep": Mechanism({"own": Glyph([1.0])}, deep=True)}, 3
    )
    module.eval()
    acts = module.features(plant(module, ("a", "own"), (2, 3, 4)))
    assert acts.shape == (1, 2, 12, 12, 12) and (acts[0, 0, 2:5, 3:6, 4:7] > 0.99).all() and (acts > 1e-6).sum() == 27
    assert score(module, plant(module, ("a", "own"), (2, 3, 4)), "a") == pytest.approx(2, rel=0.1)
    assert (module.features(plant(module, ("deep", "own"), (2, 3, 4)))[0, 1] > 1e-6).sum() == 27
    assert AMPLITUDE < GREY  # full contrast stays within a picture's range


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"a": {"glyphs": {"own": {"strengths": [1]}}}}, "at least two"),
        ({"a": {"glyhps": {}}, "b": {}}, "mechanisms.a.glyhps is unknown; it is a mapping of glyphs, about"),
        ({"a": {"glyphs": {"own": {"strength": [1]}}}, "b": {}}, "glyphs.own.strength is unknown"),
        ({"a": {"glyphs": {"own": {"strengths": [2]}}}, "b": {}}, "above 0 and at most 1"),
        ({"a": {"glyphs": {"own": {"strengths": ["x"]}}}, "b": {}}, "lists of numbers"),
        ({"a": {"glyphs": {"own": {"strengths": [1], "blind": 2}}}, "b": {}}, "blind=2"),
        ({"a": {"glyphs": {"own": {"strengths": [1] * 9}}}, "b": {}}, "1 to 8 glyphs"),
        ({"a": {"glyphs": {"own": {"strengths": [1]}}, "combine": "xor"}, "b": {}}, "it takes sum, or, and"),
        ({"a": 3, "b": {}}, "it is a mapping of"),
        ({c: {"glyphs": {"own": {"strengths": [1]}}} for c in ascii_lowercase}, "24 patterns for 26 kinds"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(node: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("model", {"name": "x", "_target_": "bench.networks.planted.planted_model", "mechanisms": node})


def test_only_pictures_and_volumes() -> None:
    with pytest.raises(UserError, match="rank=4 must be 2"):
        build("model", compose_config(["model=planted", "model.rank=4"]).model)
