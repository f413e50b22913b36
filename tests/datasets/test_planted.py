"""Planted glyphs: where they are, and what each is worth to the network."""

from __future__ import annotations

from itertools import permutations
from math import factorial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.config import build, compose_config, plain
from bench.datasets.planted import planted, shapley, subset_scores
from bench.datasets.transforms import collate, prepare
from bench.types import Case, UserError


@pytest.fixture(scope="module")
def network() -> Any:
    return build("model", compose_config(["model=planted"]).model)


@pytest.fixture(scope="module")
def cases(network: Any) -> list[Case]:
    return planted(network=network, pictures=2).cases


def of(cases: list[Case], name: str) -> list[Case]:
    return [case for case in cases if case.class_name == name]


def scene_of(case: Case) -> Any:
    """The scene whose method loads the case's picture."""
    load: Any = case.load
    return load.__self__


def without_parts(case: Case) -> Tensor:
    """Background of a case's picture: uint8 (3, *shape)."""
    return scene_of(case).draw()[0]


def by_permutations(scores: Tensor) -> Tensor:
    """Shapley's other definition: a part's mean gain when parts arrive in every order."""
    count = len(scores).bit_length() - 1
    values = torch.zeros(count, dtype=torch.float64)
    for order in permutations(range(count)):
        present = 0
        for i in order:
            values[i] += scores[present | 1 << i] - scores[present]
            present |= 1 << i
    return values / factorial(count)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_two_definitions_of_the_shapley_value_agree(count: int) -> None:
    scores = torch.randn(2**count, dtype=torch.float64, generator=torch.Generator().manual_seed(count))
    torch.testing.assert_close(shapley(scores), by_permutations(scores), rtol=0, atol=1e-12)
    assert shapley(scores).sum().item() == pytest.approx((scores[-1] - scores[0]).item(), abs=1e-12)


def test_shapley_values_of_a_known_game() -> None:
    """A glove game: one left glove (part 0), two right ones; a pair is worth 1."""
    scores = torch.tensor([float(s & 1 and s & 6 > 0) for s in range(8)], dtype=torch.float64)
    torch.testing.assert_close(shapley(scores), torch.tensor([4, 1, 1], dtype=torch.float64) / 6)


def test_values_are_the_networks_own(network: Any, cases: list[Case]) -> None:
    """They sum to score(all) - score(none) of the pictures as a run gives them to the network, to 1e-5."""
    for case in cases:
        batch = collate([prepare(case, network.spec, "stretch")], network.spec, torch.device("cpu"))
        empty = (without_parts(case) / 255 - network.spec.mean[0]) / network.spec.std[0]
        with torch.inference_mode():
            whole, none = (network.module(x)[0, case.target[0]].item() for x in (batch.images, empty[None]))
        assert case.values.sum().item() == pytest.approx(whole - none, abs=1e-5)
        scores = subset_scores(network, scene_of(case), case.target[0])
        torch.testing.assert_close(case.values.double(), by_permutations(scores), rtol=0, atol=1e-6)


def test_values_are_what_the_mechanism_says(cases: list[Case]) -> None:
    for name, expected in {
        "additive": [1, 1, 1, 1],
        "against": [1, 1, 1, -0.5, -0.5],
        "and": [1, 1],
        "bias": [1, 1, 1],
        "blind": [1, 1, 0, 0],
        "deep": [1, 1, 1, 1],
        "distractor": [1, 1, 1, 0, 0],
        "or": [1, 1, 1],
        "shortcut": [0, 0, 1, 1],
        "uneven": [1, 1, 0.28, 0.28],
    }.items():
        for case in of(cases, name):
            torch.testing.assert_close(
                case.values / case.values.max(), torch.tensor(expected).float(), rtol=0, atol=0.01
            )


def test_what_the_network_does_not_read_is_worth_exactly_nothing(cases: list[Case]) -> None:
    for case in of(cases, "blind"):
        assert case.values[2:].tolist() == [0.0, 0.0] and (case.parts[2:, 1] > case.parts[:2, 3].max()).all()
    for case in of(cases, "distractor"):
        assert case.values[3].item() == 0.0 and abs(case.values[4].item()) < 1e-6
    for case in of(cases, "shortcut"):
        assert case.values[:2].tolist() == [0.0, 0.0]


def test_parts_boxes_and_masks_are_where_the_picture_changes(cases: list[Case]) -> None:
    for case in cases:
        image, masks = case.load()
        assert image.shape == (3, 224, 224) and image.dtype == torch.uint8 and masks is not None
        changed = (image != without_parts(case)).any(0)
        planted_there = torch.zeros(224, 224, dtype=torch.bool)
        for x0, y0, x1, y1 in case.parts.int().tolist():
            assert not planted_there[y0 - 16 : y1 + 16, x0 - 16 : x1 + 16].any()  # two tiles between any two
            planted_there[y0:y1, x0:x1] = True
            assert changed[y0:y1, x0:x1].float().mean() > 0.95
        assert not changed[~planted_there].any()
        assert len(case.boxes) == len(masks) == len(case.difficult) > 0
        for mask, (x0, y0, x1, y1) in zip(masks, case.boxes.int().tolist(), strict=True):
            assert mask.sum() == 24 * 24 and mask[y0:y1, x0:x1].all()
        both = torch.cat([case.boxes, case.other_boxes])
        assert sorted(both.tolist()) == sorted(case.parts.tolist())
    assert all(len(case.other_boxes) == 2 for case in of(cases, "shortcut"))


def test_noise_alone_fires_nothing(network: Any, cases: list[Case]) -> None:
    for case in cases:
        empty = (without_parts(case) / 255 - network.spec.mean[0]) / network.spec.std[0]
        assert not network.module.features(empty[None]).any()


def test_pictures_of_some_mechanisms_are_those_of_all(network: Any, cases: list[Case]) -> None:
    some = planted(network=network, mechanisms=["or", "and"], pictures=2).cases
    assert [case.id for case in some] == [case.id for case in cases if case.class_name in ("or", "and")]
    assert torch.equal(some[0].load()[0], of(cases, "and")[0].load()[0])


def test_pictures_follow_from_number_and_seed(network: Any, cases: list[Case]) -> None:
    first = planted(network=network, pictures=1).cases
    assert [case.id for case in first] == [case.id for case in cases[: len(first)]]
    assert all(torch.equal(a.load()[0], b.load()[0]) for a, b in zip(first, cases, strict=False))
    other = planted(network=network, pictures=1, seed=1).cases
    assert not torch.equal(other[0].load()[0], first[0].load()[0])
    assert len({case.id for case in cases}) == len(cases) == 2 * len(first)


def test_volumes(network: Any) -> None:
    words = ["model=planted", "model.rank=3", "model/mechanism@model.mechanisms=[additive,blind,distractor]"]
    small = build("model", compose_config(words).model)
    cases = planted(network=small, pictures=1).cases
    for case, expected in zip(cases, ([1] * 4, [1, 1, 0, 0], [1, 1, 1, 0, 0]), strict=True):
        image, masks = case.load()
        assert image.shape == (3, 48, 48, 48) and masks is not None and len(masks) == len(case.boxes) > 0
        for mask, (x0, y0, z0, x1, y1, z1) in zip(masks, case.boxes.int().tolist(), strict=True):
            assert mask.sum() == 12**3 and mask[z0:z1, y0:y1, x0:x1].all()
        torch.testing.assert_close(case.values / case.values.max(), torch.tensor(expected).float(), rtol=0, atol=0.02)
        changed = (image != without_parts(case)).any(0)
        for x0, y0, z0, x1, y1, z1 in case.parts.int().tolist():
            assert changed[z0:z1, y0:y1, x0:x1].float().mean() > 0.95
            changed[z0:z1, y0:y1, x0:x1] = False
        assert not changed.any()


def test_refuses_other_networks_and_numbers(network: Any) -> None:
    other = build("model", {**plain(compose_config(["model=resnet18"]).model), "weights": "random"})
    with pytest.raises(UserError, match="made for model=planted.*not for resnet18"):
        planted(network=other)
    with pytest.raises(UserError, match="mechanisms: there is no 'additiv'; there are additive"):
        planted(network=network, mechanisms=["additiv"])
    with pytest.raises(UserError, match="pictures=0 must be"):
        planted(network=network, pictures=0)
