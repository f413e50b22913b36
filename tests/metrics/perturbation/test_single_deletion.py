"""Single deletion against a loop over patches, and what follows from its definition."""

import math

import pytest
import scipy.stats
import torch

from metrics.perturbation.single_deletion import single_deletion


def patches(side, grid):
    """Start and end of each patch along a side; the last one takes what is left."""
    step = side // grid
    return [(i * step, (i + 1) * step if i < grid - 1 else side) for i in range(grid)]


@pytest.mark.parametrize(("size", "grid"), [((8, 12), 4), ((7, 10), 3), ((5, 6), 2)])
@pytest.mark.parametrize("baseline", ["zero", "minimum"])
def test_equals_a_loop_over_patches(scene, size, grid, baseline):
    s = scene(size)
    result = single_deletion(s.maps, s.batch, score=s.scorer(), grid=grid, baseline=baseline)["correlation"]
    for i, name in enumerate(s.names):
        image, target = s.batch.images[i], s.batch.targets[i][0]

        def logit(picture, target=target):
            with torch.no_grad():
                return s.network(picture[None])[0, target].item()

        sums, falls = [], []
        for top, bottom in patches(size[0], grid):
            for left, right in patches(size[1], grid):
                other = image.clone()
                other[:, top:bottom, left:right] = 0 if baseline == "zero" else image.min()
                falls.append(logit(image) - logit(other))
                sums.append(math.fsum(s.maps[i, top:bottom, left:right].double().flatten().tolist()))
        flat = s.maps[i].max() == s.maps[i].min()
        expected = 0.0 if flat or len(set(sums)) == 1 else scipy.stats.spearmanr(sums, falls).statistic
        assert result[i].item() == pytest.approx(expected, abs=1e-6), name


def test_a_map_of_the_falls_is_perfect_its_negative_the_opposite_and_no_factor_matters(scene):
    s = scene((8, 8), torch.ones(1, 8, 8))
    image, target = s.batch.images[0], s.batch.targets[0][0]
    truth = torch.zeros(8, 8)
    with torch.no_grad():
        clean = s.network(image[None])[0, target]
        for y in range(4):
            for x in range(4):
                other = image.clone()
                other[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = 0
                truth[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = clean - s.network(other[None])[0, target]
    for heatmap, expected in ((truth, 1), (-truth, -1), (1e6 * truth, 1), (1e-6 * truth, 1), (truth**3, 1)):
        value = single_deletion(heatmap[None], s.batch, score=s.scorer())["correlation"]
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_random_maps_have_a_mean_of_zero(scene):
    s = scene((8, 8), torch.ones(1, 8, 8))
    scorer = s.scorer()
    draws = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    values = torch.cat([single_deletion(draw, s.batch, score=scorer)["correlation"] for draw in draws])
    # The correlation of 16 random ranks has a standard deviation of 1 / sqrt(15), their mean one of .013.
    assert values.mean().abs() < 4 / math.sqrt(15 * 400) and 0.2 < values.std() < 0.32


def test_a_network_that_ignores_the_image_has_no_value_and_a_bad_grid_is_refused(scene):
    s = scene((8, 8), torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)))
    s.batch.images = torch.zeros_like(s.batch.images)  # nothing to take away
    assert single_deletion(s.maps, s.batch, score=s.scorer())["correlation"].isnan().all()
    with pytest.raises(ValueError, match="grid=1 must be at least 2"):
        single_deletion(s.maps, s.batch, score=s.scorer(), grid=1)


class Weighted:
    """Scores that are a weighted sum of the pixels."""

    batch_size = 8

    def __init__(self, weights):
        self.weights = weights

    def once(self, key, function):
        return function()

    def logit(self, images, cases):
        return (images * self.weights).sum((1, 2, 3))


def test_patches_of_equal_sums_tie_whatever_the_order_of_additions(make_batch):
    """A map that is symmetric to the bit ranks the left and the right of the picture alike."""
    away = (torch.arange(224.0) - 111.5).square()
    centre = (-(away[:, None] + away) / 5000).exp()[None]
    assert torch.equal(centre, centre.flip(-1))
    batch = make_batch((224, 224), n=1)
    batch.images = torch.ones(1, 3, 224, 224, dtype=torch.float64)
    rising = torch.arange(224, dtype=torch.float64)
    for weights in (rising, rising.flip(0)):  # falls that grow from left to right, and back
        value = single_deletion(centre, batch, score=Weighted(weights))["correlation"].item()
        assert value == pytest.approx(0, abs=1e-6)


def test_a_side_of_fewer_pixels_than_patches_has_one_patch_a_pixel(scene):
    s = scene((3, 8), torch.rand(1, 3, 8, generator=torch.Generator().manual_seed(0)))
    values = single_deletion(s.maps, s.batch, score=s.scorer(), grid=4)["correlation"]
    assert values.isfinite().all()
