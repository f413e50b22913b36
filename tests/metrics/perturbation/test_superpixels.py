"""IROF against a loop over superpixels."""

import math

import numpy as np
import pytest
import skimage.segmentation
import torch

from metrics import baselines, ranking
from metrics.perturbation.superpixels import irof, superpixels


def pictures(n, height, width):
    """Smooth pictures, as photographs are: on noise SLIC joins nearly everything."""
    low = torch.randn(n, 3, 4, 5, generator=torch.Generator().manual_seed(5))
    return torch.nn.functional.interpolate(low, (height, width), mode="bicubic").double()


def slow_curve(s, i, labels, blank, steps):
    """Shares and probabilities from clean to baseline, superpixel by superpixel."""
    heatmap, image = s.maps[i].double(), s.batch.images[i]
    names = sorted(set(labels.flatten().tolist()))
    flat = heatmap.max() == heatmap.min()
    members = {name: [tuple(p) for p in np.argwhere(labels == name).tolist()] for name in names}
    means = {
        name: 0.0 if flat else float(np.float32(sum(heatmap[y, x].item() for y, x in places) / len(places)))
        for name, places in members.items()
    }
    ties = ranking.order(torch.zeros(1, len(names)), [s.batch.ids[i]])[0].tolist()
    queue = sorted(names, key=lambda name: (-means[name], ties.index(names.index(name))))
    shares, values = [], []
    for step in range(steps + 1):
        count = math.floor(step * len(names) / steps)
        current = image.clone()
        for name in queue[:count]:
            for y, x in members[name]:
                current[:, y, x] = blank[:, y, x]
        shares.append(count / len(names))
        values.append(s.probability(i, current))
    return shares, values


@pytest.mark.parametrize(("size", "segments", "steps"), [((24, 30), 12, 5), ((16, 13), 6, 40), ((9, 7), 100, 4)])
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_equals_a_loop_over_superpixels(scene, size, segments, steps, baseline):
    s = scene(size)
    s.batch.images = pictures(len(s.maps), *size)
    s.batch.images[:, :, : size[0] // 2] += 1.5  # an edge
    result = irof(s.maps, s.batch, score=s.scorer(), segments=segments, steps=steps, baseline=baseline)
    blank = baselines.baseline_images(s.batch, baseline)
    for i, name in enumerate(s.names):
        picture = s.batch.images[i].permute(1, 2, 0).numpy()
        labels = skimage.segmentation.slic(picture, n_segments=segments, compactness=10, start_label=0)
        assert len(np.unique(labels)) >= 3
        shares, values = slow_curve(s, i, labels, blank[i], steps)
        assert np.allclose(result["curve"][i], values, atol=1e-6, rtol=0), name
        lost = [1 - value / values[0] for value in values]
        area = sum((shares[j + 1] - shares[j]) * (lost[j + 1] + lost[j]) / 2 for j in range(steps))
        assert result["aoc"][i].item() == pytest.approx(area, abs=1e-6), name
    assert result["aoc"].std() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (30, 40)])
def test_superpixels_are_numbered_without_gaps(make_batch, size):
    for channels in (1, 3, 4):
        for image in (make_batch(size, n=1, channels=channels).images[0], torch.ones(channels, *size)):
            labels = superpixels(image, 20)
            assert labels.shape == size and labels.unique().tolist() == list(range(int(labels.max()) + 1))


class Left:
    """Probability 1 while the left half of the picture is as it was, else 0."""

    batch_size = 4
    maps = None

    def __init__(self, images):
        self.images = images

    def __call__(self, images, cases):
        half = self.images.shape[-1] // 2
        same = (images == self.images[cases])[..., :half].flatten(1).all(1)
        return same.to(images.dtype)

    def once(self, key, function):
        return function()

    def per_map(self, key, function):
        return function(torch.arange(len(self.images)))


def test_known_values(make_batch):
    """Two colours are two superpixels' worth of edges: what matters is replaced first, or last, or never."""
    batch = make_batch((20, 40), n=1)
    batch.images = torch.zeros(1, 3, 20, 40)
    batch.images[..., :20] = 1
    left = torch.zeros(1, 20, 40)
    left[..., :20] = 1
    labels = superpixels(batch.images[0], 8)
    count = int(labels.max()) + 1
    inside = len(labels[:, :20].unique())
    assert inside + len(labels[:, 20:].unique()) == count  # none lies on both sides
    first = irof(left, batch, score=Left(batch.images), segments=8, steps=count)["aoc"]
    last = irof(-left, batch, score=Left(batch.images), segments=8, steps=count)["aoc"]
    assert first.item() == pytest.approx(1 - 0.5 / count)
    assert last.item() == pytest.approx((inside - 0.5) / count)


def test_a_network_that_ignores_the_image_loses_nothing(make_batch, make_scorer, cams):
    class Deaf(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[1.0, 2, 3]]).expand(len(images), 3)

    batch, heatmaps = make_batch((24, 30), n=2), cams(2, 24, 30)
    result = irof(heatmaps, batch, score=make_scorer(Deaf(), batch.targets), segments=9, steps=4)["aoc"]
    assert result.abs().max() < 1e-6


def test_unit_and_level_of_the_map_do_not_count(scene, cams):
    s = scene((24, 30), only=cams(3, 24, 30) + 0.01 * torch.rand(3, 24, 30))
    s.batch.images = pictures(3, 24, 30)
    plain = irof(s.maps, s.batch, score=s.scorer(), segments=12, steps=5)["aoc"]
    for other in (4 * s.maps, s.maps + 1, s.maps * 1e-20, s.maps * 1e30):
        assert torch.allclose(irof(other, s.batch, score=s.scorer(), segments=12, steps=5)["aoc"], plain, atol=1e-9)
    assert not torch.allclose(irof(-s.maps, s.batch, score=s.scorer(), segments=12, steps=5)["aoc"], plain, atol=1e-3)


def test_flat_maps_score_as_random_ones_on_average(make_batch, make_scorer, network):
    n = 300
    batch = make_batch((16, 15), n=n)
    batch.images, batch.targets = pictures(1, 16, 15).float().expand(n, -1, -1, -1), [(0,)] * n
    random = torch.rand(n, 16, 15, generator=torch.Generator().manual_seed(0))
    values = []
    for heatmaps in (random, torch.full((n, 16, 15), 0.3)):
        score = make_scorer(network, batch.targets)
        values.append(irof(heatmaps, batch, score=score, segments=9, steps=4)["aoc"].double())
    error = math.sqrt(sum(value.var() for value in values) / n)
    assert abs(values[0].mean() - values[1].mean()) < 3.5 * error and values[1].std() > 1e-3


def test_passes_and_equal_maps(make_batch, make_scorer, network, cams):
    batch, heatmaps = make_batch((24, 30), n=2), cams(2, 24, 30)
    batch.images = pictures(2, 24, 30).float()
    score = make_scorer(network, batch.targets)
    score.maps = ["a", "b"]
    first = irof(heatmaps, batch, score=score, segments=9, steps=5)["aoc"]
    assert score.images == 2 * 2 + 2 * 4
    score.maps = ["a", "c"]
    second = irof(torch.stack([3 * heatmaps[0], heatmaps[0]]), batch, score=score, segments=9, steps=5)["aoc"]
    assert score.images == 2 * 2 + 3 * 4 and second[0] == first[0]


def test_bad_parameters(scene):
    s = scene((3, 4))
    for bad in ({"segments": 1}, {"steps": 0}):
        with pytest.raises(ValueError, match="irof: segments="):
            irof(s.maps, s.batch, score=s.scorer(), **bad)


def test_an_impossible_class_has_no_quotient(scene, cams):
    s = scene((8, 6), only=cams(2, 8, 6))

    class Never(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, -1e9, -1e9]]).double().expand(len(images), 3)

    score = s.scorer()
    score.network = Never()
    s.batch.targets[:] = score.targets[:] = [(1,), (0,)]
    result = irof(s.maps, s.batch, score=score, steps=4)["aoc"]
    assert result[0].isnan() and abs(result[1].item()) < 1e-12
