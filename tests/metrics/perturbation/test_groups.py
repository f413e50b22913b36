"""SaCo against the authors' pairs in plain loops."""

import math

import numpy as np
import pytest
import torch
from small_networks import Linear

from bench.maps.heatmaps import named_errors
from bench.types import UserError
from metrics import baselines
from metrics.perturbation.groups import saco


def slow_coefficient(heatmap, drops, groups):
    """Authors' double loop over groups (lists of values), but for pairs of equal drops."""
    salience = [sum(group) / len(group) for group in groups]
    coefficient = total = 0.0
    for i in range(len(groups) - 1):
        for j in range(i + 1, len(groups)):
            weight = salience[i] - salience[j]
            if drops[i] > drops[j]:
                coefficient += weight
            elif drops[i] < drops[j]:
                coefficient -= weight
            total += abs(weight)
    return coefficient / total if total else 0.0


def slow(s, i, places, groups, blank):
    heatmap, image = s.maps[i].double(), s.batch.images[i]
    clean, total = s.probability(i, image), len(places)
    drops, values = [], []
    for g in range(groups):
        members = places[math.floor(g * total / groups) : math.floor((g + 1) * total / groups)]
        if members:
            current = image.clone()
            for y, x in members:
                current[:, y, x] = blank[:, y, x]
            drops.append(clean - s.probability(i, current))
            values.append([heatmap[y, x].item() for y, x in members])
    return drops, values


@pytest.mark.parametrize(("size", "groups"), [((9, 13), 10), ((8, 7), 4), ((2, 3), 10), ((1, 1), 2)])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_equals_a_loop_over_pairs(scene, sequence, size, groups, baseline):
    s = scene(size)
    result = saco(s.maps, s.batch, score=s.scorer(), groups=groups, baseline=baseline)["coefficient"]
    blank = baselines.baseline_images(s.batch, baseline)
    for i, name in enumerate(s.names):
        drops, values = slow(s, i, sequence(s.maps[i], s.batch.ids[i]), groups, blank[i])
        largest = s.maps[i].abs().max().item()
        values = [[value / largest if largest else 0.0 for value in group] for group in values]
        expected = slow_coefficient(s.maps[i], drops, values) if s.maps[i].max() > s.maps[i].min() else 0
        assert result[i].item() == pytest.approx(expected, abs=1e-6), name
    assert size == (1, 1) or result.std() > 0


def authors(salience, drops):
    """Algorithm of Wu et al. as published: sums over groups, and equal drops are right."""
    coefficient = total = 0.0
    for i in range(len(drops) - 1):
        for j in range(i + 1, len(drops)):
            right = drops[i] >= drops[j]
            coefficient += (salience[i] - salience[j]) * (1 if right else -1)
            total += abs(salience[i] - salience[j])
    return coefficient / total


def test_equals_the_published_algorithm_where_groups_are_of_one_size(scene, sequence, cams):
    s = scene((10, 9), only=cams(4, 10, 9))
    result = saco(s.maps, s.batch, score=s.scorer(), groups=10)["coefficient"]
    blank = s.batch.images.mean((2, 3), keepdim=True).expand_as(s.batch.images)
    for i in range(4):
        drops, values = slow(s, i, sequence(s.maps[i], s.batch.ids[i]), 10, blank[i])
        assert result[i].item() == pytest.approx(authors([sum(group) for group in values], drops), abs=1e-6)


def test_a_network_that_ignores_the_image_agrees_with_no_map(make_batch, make_scorer, cams):
    """The published algorithm calls every map perfect here: equal drops count as right."""

    class Deaf(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[1.0, 2, 3]]).expand(len(images), 3)

    batch, heatmaps = make_batch((8, 6), n=2), cams(2, 8, 6)
    result = saco(heatmaps, batch, score=make_scorer(Deaf(), batch.targets), groups=4)["coefficient"]
    assert result.tolist() == [0, 0]
    assert authors([4.0, 3, 2, 1], [0.0, 0, 0, 0]) == 1


def test_true_map_of_a_linear_model_is_perfect(make_batch):
    batch = make_batch((6, 8), n=1, channels=1)
    batch.images = torch.ones(1, 1, 6, 8)
    worth = torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    for heatmap, expected in ((worth[0], 1), (-worth[0], -1), (2 * worth[0] + 7, 1)):
        result = saco(heatmap, batch, score=Linear(worth), groups=6, baseline="zero")["coefficient"]
        assert result.item() == pytest.approx(expected)
    # By hand: groups worth 3, 1 and 2 where the map says 5, 3, 1. Pairs: 5 - 3 and 5 - 1 are right, 3 - 1 is wrong.
    batch.images = torch.ones(1, 1, 1, 3)
    score = Linear(torch.tensor([[[[3.0, 1, 2]]]]))
    result = saco(torch.tensor([[[5.0, 3, 1]]]), batch, score=score, groups=3, baseline="zero")["coefficient"]
    assert result.item() == pytest.approx((2 + 4 - 2) / (2 + 4 + 2))


def test_unit_and_level_of_the_map_do_not_count(scene, cams):
    s = scene((8, 6), only=cams(3, 8, 6))
    plain = saco(s.maps, s.batch, score=s.scorer())["coefficient"]
    for other in (4 * s.maps, s.maps + 1, s.maps * 1e-20, s.maps * 1e30):
        assert torch.allclose(saco(other, s.batch, score=s.scorer())["coefficient"], plain, atol=1e-6)
    # The values do, beyond their order.
    assert not torch.allclose(saco(s.maps**4, s.batch, score=s.scorer())["coefficient"], plain, atol=1e-3)


def test_random_maps_score_0_on_average(make_batch, make_scorer, network):
    n = 400
    batch = make_batch((8, 6), n=n)
    batch.images, batch.targets = batch.images[:1].expand(n, -1, -1, -1), [(0,)] * n
    random = torch.rand(n, 8, 6, generator=torch.Generator().manual_seed(0))
    result = saco(random, batch, score=make_scorer(network, batch.targets), groups=4)["coefficient"]
    assert abs(result.mean()) < 3.5 * result.std() / math.sqrt(n) and result.std() > 0.1
    flat = saco(torch.ones(n, 8, 6), batch, score=make_scorer(network, batch.targets), groups=4)["coefficient"]
    assert (flat == 0).all()


def test_equal_maps_are_scored_once_and_pieces_change_nothing(make_batch, make_scorer, network, cams, monkeypatch):
    from metrics import faithfulness

    batch, heatmaps = make_batch((8, 6), n=2), cams(2, 8, 6)
    score = make_scorer(network, batch.targets)
    score.maps = ["a", "b"]
    first = saco(heatmaps, batch, score=score, groups=5)["coefficient"]
    assert score.images == 2 + 2 * 5
    score.maps = ["a", "c"]
    other = torch.stack([3 * heatmaps[0], heatmaps[0]])
    second = saco(other, batch, score=score, groups=5)["coefficient"]
    assert score.images == 2 + 3 * 5 and second[0] == first[0]
    monkeypatch.setitem(faithfulness.PIECE, "cpu", 1)
    small = saco(heatmaps, batch, score=make_scorer(network, batch.targets), groups=5)["coefficient"]
    assert np.allclose(small, first, atol=1e-6)


def test_bad_parameters(scene):
    s = scene((3, 4))
    with pytest.raises(ValueError, match="saco: groups=1 must be at least 2"):
        saco(s.maps, s.batch, score=s.scorer(), groups=1)


def test_a_bad_parameter_is_one_line_for_the_user():
    """Also from a folder within metrics/."""
    with pytest.raises(UserError, match="saco: groups=1 must be at least 2"), named_errors("saco"):
        saco(torch.rand(1, 3, 4), None, score=None, groups=1)
