"""Symmetric relevance gain, combined score, pixel flipping and monotonicity against loops over steps and pixels."""

import math

import numpy as np
import pytest
import torch
from small_networks import Linear

from metrics import baselines, faithfulness
from metrics.perturbation import curves


def replaced(image, blank, places):
    """The image with some places (y, x) from `blank`, pixel by pixel."""
    current = image.clone()
    for y, x in places:
        current[:, y, x] = blank[:, y, x]
    return current


def area(shares, values):
    return sum((shares[i + 1] - shares[i]) * (values[i + 1] + values[i]) / 2 for i in range(len(values) - 1))


def slow_curves(scene, i, places, blank, steps):
    """Shares and probabilities while the highest, and while the lowest places are replaced, from clean to baseline."""
    image, total = scene.batch.images[i], len(places)
    most, least, most_shares, least_shares = [], [], [], []
    for step in range(steps + 1):
        gone = math.floor(step * total / steps)
        most.append(scene.probability(i, replaced(image, blank[i], places[:gone])))
        most_shares.append(gone / total)
        left = math.floor((steps - step) * total / steps)
        least.append(scene.probability(i, replaced(image, blank[i], places[left:])))
        least_shares.append(1 - left / total)
    return (most_shares, most), (least_shares, least)


SIZES = [((9, 13), 4), ((8, 7), 7), ((3, 4), 20), ((1, 1), 3)]


@pytest.mark.parametrize(("size", "steps"), SIZES)
@pytest.mark.parametrize("baseline", ["zero", "minimum", "noise"])
def test_gain_equals_a_loop_over_pixels(scene, sequence, size, steps, baseline):
    s = scene(size)
    result = curves.symmetric_relevance_gain(s.maps, s.batch, score=s.scorer(), steps=steps, baseline=baseline)
    blank = baselines.baseline_images(s.batch, baseline)
    for i, name in enumerate(s.names):
        most, least = slow_curves(s, i, sequence(s.maps[i], s.batch.ids[i]), blank, steps)
        assert np.allclose(result["most_curve"][i], most[1], atol=1e-6, rtol=0), name
        assert np.allclose(result["least_curve"][i], least[1], atol=1e-6, rtol=0), name
        assert result["most"][i].item() == pytest.approx(area(*most), abs=1e-6), name
        assert result["least"][i].item() == pytest.approx(area(*least), abs=1e-6), name
        assert result["gain"][i].item() == pytest.approx(area(*least) - area(*most), abs=1e-6), name


@pytest.mark.parametrize(("size", "steps"), SIZES)
def test_combined_equals_a_loop_over_pixels(scene, sequence, size, steps):
    s = scene(size)
    result = curves.deletion_insertion_combined(s.maps, s.batch, score=s.scorer(), steps=steps)["difference"]
    zero, blurred = (baselines.baseline_images(s.batch, name) for name in ("zero", "blur"))
    for i, name in enumerate(s.names):
        places = sequence(s.maps[i], s.batch.ids[i])
        (deleted, _), (_, inserted) = (slow_curves(s, i, places, blank, steps) for blank in (zero, blurred))
        assert result[i].item() == pytest.approx(area(*inserted) - area(*deleted), abs=1e-6), name


@pytest.mark.parametrize(("size", "steps"), SIZES)
def test_pixel_flipping_equals_a_loop_over_pixels(scene, sequence, size, steps):
    s = scene(size)
    result = curves.pixel_flipping(s.maps, s.batch, score=s.scorer(), steps=steps)
    for i, name in enumerate(s.names):
        darkest = min(s.batch.images[i].flatten().tolist())
        blank = torch.full_like(s.batch.images, darkest)
        (_, curve), _ = slow_curves(s, i, sequence(s.maps[i], s.batch.ids[i]), blank, steps)
        assert np.allclose(result["curve"][i], curve[1:], atol=1e-6, rtol=0), name
        assert result["auc"][i].item() == pytest.approx(area(range(steps), curve[1:]) / (steps - 1), abs=1e-6), name


@pytest.mark.parametrize(("size", "steps"), SIZES)
def test_monotonicity_equals_a_loop_over_pixels(scene, sequence, size, steps):
    s = scene(size)
    result = curves.monotonicity(s.maps, s.batch, score=s.scorer(), steps=steps)
    seen = set()
    for i, name in enumerate(s.names):
        image, places = s.batch.images[i], sequence(s.maps[i], s.batch.ids[i])[::-1]  # the lowest come first
        current, added, values = torch.zeros_like(image), 0, []
        for step in range(1, steps + 1):
            until = len(places) - math.floor((steps - step) * len(places) / steps)
            if until == added:
                continue
            for y, x in places[added:until]:
                current[:, y, x] = image[:, y, x]
            added = until
            values.append(s.probability(i, current))
        kept = [later >= earlier for earlier, later in zip(values[:-1], values[1:], strict=True)]
        if not kept:
            assert result["share"][i].isnan() and result["monotone"][i].isnan(), name
            continue
        assert result["share"][i].item() == pytest.approx(np.mean(kept), abs=1e-6), name
        assert result["monotone"][i] == all(kept), name
        seen.add(bool(all(kept)))
    assert size == (1, 1) or steps > 7 or False in seen


METRICS = [
    (curves.symmetric_relevance_gain, {}),
    (curves.deletion_insertion_combined, {}),
    (curves.pixel_flipping, {}),
    (curves.monotonicity, {}),
]


@pytest.mark.parametrize(("metric", "options"), METRICS)
def test_only_the_order_of_positions_counts(scene, cams, metric, options):
    s = scene((8, 6), only=cams(3, 8, 6) - 0.2)
    plain = metric(s.maps, s.batch, score=s.scorer(), steps=6, **options)
    for other in (3 * s.maps, s.maps + 5, s.maps.exp(), s.maps**3):
        for key, values in metric(other, s.batch, score=s.scorer(), steps=6, **options).items():
            assert torch.equal(values, plain[key]), key
    reversed_maps = metric(-s.maps, s.batch, score=s.scorer(), steps=6, **options)
    assert all(not torch.equal(values, plain[key]) for key, values in reversed_maps.items() if key != "monotone")


def test_gain_of_a_map_turned_upside_down_is_the_opposite(scene):
    ramps = torch.rand(4, 8, 6, generator=torch.Generator().manual_seed(3))
    s = scene((8, 6), only=ramps)
    up, down = (curves.symmetric_relevance_gain(m, s.batch, score=s.scorer(), steps=6) for m in (ramps, -ramps))
    assert torch.allclose(up["gain"], -down["gain"], atol=1e-12) and up["gain"].abs().min() > 1e-4
    assert torch.allclose(up["most"], down["least"], atol=1e-12)


def test_linear_model_has_the_analytic_values(make_batch):
    """Of P pixels worth 1 to P the sum left after the k largest is (P - k)(P - k + 1) / 2."""
    height, width = 6, 10
    positions = height * width
    batch = make_batch((height, width), n=1, channels=1)
    batch.images = torch.ones(1, 1, height, width, dtype=torch.float64)
    shuffled = torch.randperm(positions, generator=torch.Generator().manual_seed(0))
    worth = torch.arange(1.0, positions + 1, dtype=torch.float64)[shuffled].view(1, 1, height, width)
    score = Linear(worth / worth.sum())
    k = np.arange(positions + 1)
    most = (positions - k) * (positions - k + 1) / (positions * (positions + 1))
    gain = np.trapezoid(1 - most[::-1], dx=1 / positions) - np.trapezoid(most, dx=1 / positions)
    right = curves.symmetric_relevance_gain(worth[0], batch, score=score, steps=positions)
    assert right["gain"].item() == pytest.approx(gain, abs=1e-9) and gain > 0.3
    wrong = curves.symmetric_relevance_gain(-worth[0], batch, score=score, steps=positions)
    assert wrong["gain"].item() == pytest.approx(-gain, abs=1e-9)
    # Every added pixel is worth something.
    rising = curves.monotonicity(worth[0], batch, score=score, steps=positions)
    assert rising["monotone"] == 1 and rising["share"] == 1
    falling = curves.monotonicity(worth[0], batch, score=Linear(-worth), steps=positions)
    assert falling["monotone"] == 0 and falling["share"] == 0
    one_falls = worth.clone()
    one_falls.view(-1)[worth.argmax()] *= -1  # the last pixel to be added
    result = curves.monotonicity(worth[0], batch, score=Linear(one_falls), steps=positions)
    assert result["monotone"] == 0 and result["share"].item() == pytest.approx(1 - 1 / (positions - 1))


def test_random_maps_gain_nothing_and_maps_without_information_as_little(make_batch, make_scorer, network):
    """In any order the areas of both curves are equally distributed; a flat map has a random order of its ties."""
    n = 400
    batch = make_batch((8, 6), n=n)
    batch.images, batch.targets = batch.images[:1].expand(n, -1, -1, -1), [(0,)] * n
    random = torch.rand(n, 8, 6, generator=torch.Generator().manual_seed(0))
    for heatmaps in (random, torch.zeros(n, 8, 6), torch.full((n, 8, 6), 0.3)):
        score = make_scorer(network, batch.targets)
        gain = curves.symmetric_relevance_gain(heatmaps, batch, score=score, steps=4)["gain"].double()
        assert abs(gain.mean()) < 3.5 * gain.std() / math.sqrt(n) and gain.std() > 1e-4


def test_passes_are_those_of_deletion_and_insertion(make_batch, make_scorer, network, cams):
    batch, heatmaps, steps = make_batch((8, 6), n=2), cams(2, 8, 6), 5
    score = make_scorer(network, batch.targets)
    score.maps = ["a", "b"]
    deleted = faithfulness.deletion(heatmaps, batch, score=score, steps=steps)
    inserted = faithfulness.insertion(heatmaps, batch, score=score, steps=steps)
    paid = score.images
    combined = curves.deletion_insertion_combined(heatmaps, batch, score=score, steps=steps)
    curves.monotonicity(heatmaps, batch, score=score, steps=steps)
    assert score.images == paid
    assert torch.equal(combined["difference"], inserted["auc"] - deleted["auc"])
    # The gain needs the insertion from deletion's baseline, too, whose end points are known.
    gain = curves.symmetric_relevance_gain(heatmaps, batch, score=score, steps=steps)
    assert score.images == paid + 2 * (steps - 1)
    assert torch.equal(gain["most"], deleted["auc"])
    curves.pixel_flipping(heatmaps, batch, score=score, steps=steps)
    paid = score.images
    faithfulness.deletion(3 * heatmaps, batch, score=score, steps=steps, baseline="minimum")
    assert score.images == paid


def test_bad_parameters(scene):
    s = scene((3, 4))
    for metric in (curves.pixel_flipping, curves.monotonicity):
        with pytest.raises(ValueError, match="steps must be at least 2, not 1"):
            metric(s.maps, s.batch, score=s.scorer(), steps=1)
    for metric in (curves.symmetric_relevance_gain, curves.deletion_insertion_combined):
        with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
            metric(s.maps, s.batch, score=s.scorer(), steps=0)
    with pytest.raises(ValueError, match="unknown baseline 'grey'"):
        curves.symmetric_relevance_gain(s.maps, s.batch, score=s.scorer(), baseline="grey")
