"""Metrics on volumes: against slow definitions, and against the same picture as a volume of one slice's thickness."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from metrics.baselines import baseline_images
from metrics.coverage import box_coverage, mask_iou, relevance
from metrics.faithfulness import deletion, insertion
from metrics.geometry import box_masks, instance_masks, to_original, union_area
from metrics.instances import instance_boxes
from metrics.localization import pxap
from metrics.perturbation.groups import saco
from metrics.perturbation.single_deletion import single_deletion
from metrics.perturbation.superpixels import irof
from metrics.pointing import energy_pointing_game, pointing_game, top_k_pointing
from metrics.sensitivity import sensitivity_n
from metrics.similarity import compare, describe

SIZE = (8, 10, 12)
BOXES = torch.tensor([[1.0, 2, 3, 5, 6, 6], [6, 0, 1, 11.4, 4, 5]])


class Sums:
    """Score = a constant plus a weighted mean of the image: what a perturbation does is known."""

    batch_size = 5

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, images: Tensor, cases: Tensor) -> Tensor:
        return 0.5 + (images * self.weights[cases]).flatten(1).sum(1)

    logit = __call__

    def once(self, key: Any, function: Any) -> Any:
        return function()

    def per_map(self, key: Any, function: Any) -> Any:
        return function(torch.arange(len(self.weights)))


def batch_of(images: Tensor, boxes: Tensor, masks: Tensor | None = None, **more: Any) -> Any:
    n, size = len(images), tuple(images.shape[2:])
    rank = len(size)
    masks = box_masks(boxes, size) if masks is None else masks
    known = {
        "images": images, "ids": [f"c{i}" for i in range(n)], "targets": [(0,)] * n, "boxes": [boxes] * n,
        "original_boxes": [boxes] * n, "masks": [masks] * n, "original_masks": [masks] * n, "sizes": [size] * n,
        "difficult": [torch.zeros(len(boxes), dtype=torch.bool)] * n, "distractors": [True] * n, "ignore": [],
        "to_input": [(1.0,) * rank + (0.0,) * rank] * n, "black": torch.arange(images.shape[1]) - 2.0, "predicted": [],
    }  # fmt: skip
    return SimpleNamespace(**known | more)


@pytest.fixture
def volume() -> Any:
    generator = torch.Generator().manual_seed(0)
    images, maps = torch.randn(3, 2, *SIZE, generator=generator), torch.randn(3, *SIZE, generator=generator)
    batch = batch_of(images, BOXES)
    return SimpleNamespace(maps=maps, batch=batch, score=Sums(torch.randn(3, 2, *SIZE, generator=generator) / 500))


@pytest.fixture
def thick() -> Any:
    """A picture, and the volume of two equal slices of it."""
    generator = torch.Generator().manual_seed(1)
    images, maps = torch.randn(2, 1, 10, 12, generator=generator), torch.randn(2, 10, 12, generator=generator)
    flat = torch.tensor([[1.0, 2, 5, 6], [6, 0, 11, 4]])
    solid = torch.cat([flat[:, :2], torch.zeros(2, 1), flat[:, 2:], torch.full((2, 1), 2.0)], 1)
    twice = images[:, :, None].repeat(1, 1, 2, 1, 1)
    both = batch_of(images, flat), batch_of(twice, solid)
    weights = torch.randn(2, 1, 10, 12, generator=generator) / 100
    scores = Sums(weights), Sums(weights[:, :, None].repeat(1, 1, 2, 1, 1) / 2)
    return SimpleNamespace(maps=(maps, maps[:, None].repeat(1, 2, 1, 1)), batches=both, scores=scores)


@pytest.mark.parametrize(
    "metric", [box_coverage, relevance, mask_iou, pointing_game, energy_pointing_game, pxap, top_k_pointing]
)
def test_two_equal_slices_score_as_the_picture(metric: Any, thick: Any) -> None:
    flat, solid = (metric(maps, batch) for maps, batch in zip(thick.maps, thick.batches, strict=True))
    for name, values in flat.items():
        if name in ("min_coverage", "positives", "negatives", "top_k"):  # own orders of ties, counts
            continue
        torch.testing.assert_close(solid[name], values, rtol=0, atol=0.02, equal_nan=True, msg=name)


def test_masks_of_boxes_equal_the_definition() -> None:
    masks = box_masks(BOXES, SIZE)
    for mask, (x0, y0, z0, x1, y1, z1) in zip(masks, BOXES.tolist(), strict=True):
        for z, y, x in np.ndindex(SIZE):
            inside = x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 and z0 <= z + 0.5 < z1
            assert bool(mask[z, y, x]) == inside, (z, y, x)


def test_volume_of_a_union_of_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 6, (4, 3), generator=generator)
    boxes = torch.cat([low, low + torch.randint(1, 5, (4, 3), generator=generator)], 1).float()
    assert union_area(boxes) == box_masks(boxes, (12, 12, 12)).any(0).sum()
    assert union_area(boxes[:0]) == 0


def test_a_point_of_the_input_goes_back_to_its_voxel() -> None:
    """x_input = s * x_original + t along each axis, between centres."""
    to_input = (2.0, 0.5, 4.0, -3.0, -1.0, 8.0)
    x, y, z = to_original((9, 4, 6), to_input)
    assert [s * (v + 0.5) + t - 0.5 for v, s, t in zip((x, y, z), to_input[:3], to_input[3:], strict=True)] == [6, 4, 9]


@pytest.mark.parametrize("tolerance", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("with_masks", [False, True])
def test_pointing_equals_the_distance_to_every_voxel(volume: Any, tolerance: float, with_masks: bool) -> None:
    masks = box_masks(BOXES, SIZE)
    if not with_masks:
        volume.batch.original_masks = [None] * 3
    inside = masks.any(0).nonzero().double()
    for place in np.ndindex(SIZE):
        if sum(place) % 3:
            continue
        maps = torch.zeros(1, *SIZE)
        maps[0][place] = 1
        distance = (inside - torch.tensor(place).double()).norm(dim=1).min()
        hit = pointing_game(maps, volume.batch, tolerance=tolerance)["hit"][0]
        assert hit == float(distance < tolerance), place


def test_a_constant_volume_points_at_every_voxel(volume: Any) -> None:
    away = ndimage.distance_transform_edt(~box_masks(BOXES, SIZE).any(0).numpy())
    hit = pointing_game(torch.ones(3, *SIZE), volume.batch, tolerance=2)["hit"]
    assert hit[0] == pytest.approx((away < 2).mean())


@pytest.mark.parametrize("baseline", ["zero", "mean", "black", "minimum", "noise", "blur"])
def test_deletion_and_insertion_equal_a_loop(volume: Any, baseline: str) -> None:
    steps, images = 7, volume.batch.images
    blank = baseline_images(volume.batch, baseline, 3, 1.0)
    for metric, deleting in ((deletion, True), (insertion, False)):
        curve = metric(
            volume.maps, volume.batch, score=volume.score, steps=steps, baseline=baseline, kernel=3, sigma=1.0
        )
        for i in range(3):
            ranked = volume.maps[i].flatten().argsort(descending=True)
            for step in range(steps + 1):
                before, after = (images[i], blank[i]) if deleting else (blank[i], images[i])
                changed = before.clone().flatten(1)
                chosen = ranked[: step * ranked.numel() // steps]
                changed[:, chosen] = after.flatten(1)[:, chosen]
                expected = volume.score(changed.view_as(images[i])[None], torch.tensor([i]))[0]
                assert curve["curve"][i, step] == pytest.approx(float(expected), abs=1e-5)


def test_baselines(volume: Any) -> None:
    images = volume.batch.images
    expected = np.stack(
        [[ndimage.gaussian_filter(one, 1.5, mode="constant", truncate=2.67) for one in image] for image in images]
    )
    np.testing.assert_allclose(baseline_images(volume.batch, "blur", 9, 1.5), expected, atol=0.01)
    torch.testing.assert_close(baseline_images(volume.batch, "mean")[1, 1], images[1, 1].mean().expand(SIZE))
    assert (baseline_images(volume.batch, "black")[:, 1] == -1).all()
    assert (baseline_images(volume.batch, "minimum")[2] == images[2].min()).all()
    one = torch.zeros(1, 1, 9, 11, 13)
    one[0, 0, 4, 5, 6] = 1
    spread = baseline_images(SimpleNamespace(images=one), "blur", 5, 2.0)[0, 0]
    assert spread.sum() == pytest.approx(1) and (spread > 0).sum() == 5**3 and spread[4, 5, 6] == spread.max()


def test_the_energy_inside_and_the_boxes_of_parts(volume: Any) -> None:
    maps = volume.maps.clamp(min=0)
    inside = box_masks(BOXES, SIZE).any(0)
    share = maps[:, inside].sum(1) / maps.flatten(1).sum(1)
    torch.testing.assert_close(energy_pointing_game(maps, volume.batch)["energy"], share)
    perfect = instance_masks(BOXES.round(), maps[0]).any(0).float()[None]
    found = instance_boxes(perfect, batch_of(volume.batch.images[:1], BOXES.round()), iou=0.99)
    assert found["recall"] == 1 and found["precision"] == 1 and found["average_precision"] == 1
    assert top_k_pointing(perfect, volume.batch, radius=2, tolerance=1)["precision"][0] == 1


def test_sums_over_cells_equal_a_loop(volume: Any) -> None:
    """A score that is linear in the image, and a map of its own drops: the correlation is 1; of the opposite map -1."""
    drops = (volume.score.weights * volume.batch.images).sum(1)
    for cell in (1, 3, 4):
        for sign in (1, -1):
            values = sensitivity_n(sign * drops, volume.batch, score=volume.score, cell=cell, subsets=40)["correlation"]
            torch.testing.assert_close(values, torch.full((3,), float(sign)), rtol=0, atol=1e-4)
    values = single_deletion(drops, volume.batch, score=volume.score, grid=2)["correlation"]
    torch.testing.assert_close(values, torch.ones(3), rtol=0, atol=1e-5)
    assert (saco(drops, volume.batch, score=volume.score, baseline="zero")["coefficient"] > 0.95).all()


def test_superpixels_and_similarity_of_volumes(volume: Any) -> None:
    drops = (volume.score.weights * (volume.batch.images - baseline_images(volume.batch, "mean"))).sum(1)
    best, worst = (irof(maps, volume.batch, score=volume.score, segments=20)["aoc"] for maps in (drops, -drops))
    assert (best > worst).all()
    one, other = describe(volume.maps[0].numpy()), describe(volume.maps[1].numpy())
    same, apart = compare(one, one), compare(one, other)
    assert same["spearman"] == 1 and abs(apart["spearman"]) < 0.2 and np.isnan(apart["hog"]) and np.isnan(same["hog"])
