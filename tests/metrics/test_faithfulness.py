"""Deletion and insertion against a loop over images, steps and pixels."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from small_networks import Linear

from metrics import baselines, faithfulness, ranking


def loop(heatmap, case, image, blank, probability, steps, deleting):
    """RISE's definition, pixel by pixel: curve and its trapezoid area."""
    height, width = heatmap.shape
    values = heatmap.flatten().tolist()
    ties = ranking.order(torch.zeros(1, height, width), [case])[0].tolist()
    sequence = sorted(range(len(values)), key=lambda p: (-values[p], ties.index(p)))
    start, finish = (image, blank) if deleting else (blank, image)
    shares, curve = [], []
    for i in range(steps + 1):
        count = math.floor(i * height * width / steps)
        current = start.clone()
        for position in sequence[:count]:
            y, x = position // width, position % width
            current[:, y, x] = finish[:, y, x]
        shares.append(count / (height * width))
        curve.append(probability(current))
    area = sum((shares[i + 1] - shares[i]) * (curve[i + 1] + curve[i]) / 2 for i in range(steps))
    return curve, area


@pytest.mark.parametrize("steps", [1, 4, 7, 120])
@pytest.mark.parametrize("size", [(9, 13), (1, 1)])
def test_equals_a_loop_over_pixels(make_batch, make_scorer, network, maps, cams, size, steps):
    heatmaps = torch.cat([torch.stack(list(maps(*size).values())), cams(3, *size)])
    heatmaps = heatmaps[-3:] if steps == 120 else heatmaps
    batch = make_batch(size, n=len(heatmaps))
    for metric, deleting, baseline in [
        (faithfulness.deletion, True, "zero"),
        (faithfulness.insertion, False, "blur"),
        (faithfulness.deletion, True, "noise"),
        (faithfulness.insertion, False, "mean"),
    ]:
        score = make_scorer(network, batch.targets)
        result = metric(heatmaps, batch, score=score, steps=steps, baseline=baseline)
        assert result["curve"].shape == (len(heatmaps), steps + 1)
        blank = baselines.baseline_images(batch, baseline)
        for i in range(len(heatmaps)):
            curve, area = loop(
                heatmaps[i],
                batch.ids[i],
                batch.images[i],
                blank[i],
                lambda image, i=i: network(image[None]).softmax(1)[0, batch.targets[i][0]].item(),
                steps,
                deleting,
            )
            assert np.allclose(result["curve"][i], curve, atol=1e-5)
            assert float(result["auc"][i]) == pytest.approx(area, abs=1e-5)


def test_defaults_are_rise(make_batch, make_scorer, network, cams):
    batch, heatmaps = make_batch((12, 10), n=2), cams(2, 12, 10)

    def run(metric, **options):
        return metric(heatmaps, batch, score=make_scorer(network, batch.targets), **options)["curve"]

    assert torch.equal(run(faithfulness.deletion), run(faithfulness.deletion, baseline="zero", steps=28))
    expected = run(faithfulness.insertion, baseline="blur", kernel=11, sigma=5.0, steps=28)
    assert torch.equal(run(faithfulness.insertion), expected)


def test_adversarial_maps_and_pieces_do_not_change_numbers(make_batch, make_scorer, network, maps, monkeypatch):
    named = maps(8, 6)
    batch = make_batch((8, 6), n=len(named))
    together = torch.stack(list(named.values()))

    def run(heatmaps, part, metric):
        return metric(heatmaps, part, score=make_scorer(network, part.targets), steps=5)

    for metric in (faithfulness.deletion, faithfulness.insertion):
        whole = run(together, batch, metric)
        assert whole["auc"].isfinite().all() and (whole["auc"] >= 0).all() and (whole["auc"] <= 1).all()
        monkeypatch.setitem(faithfulness.PIECE, "cpu", 1)
        small = run(together, batch, metric)
        monkeypatch.undo()
        assert torch.allclose(whole["curve"], small["curve"], atol=1e-6)
        for i in range(len(named)):
            alone = make_batch((8, 6), n=1)
            alone.images, alone.targets, alone.ids = batch.images[i : i + 1], [batch.targets[i]], [batch.ids[i]]
            assert torch.allclose(run(together[i : i + 1], alone, metric)["curve"][0], whole["curve"][i], atol=1e-6)
    # All ties: the constant and the zero map of a case rank equally.
    names = list(named)
    batch.images[:] = batch.images[:1].clone()
    batch.targets, batch.ids = [(0,)] * len(names), ["a"] * len(names)
    curves = run(together, batch, faithfulness.deletion)["curve"]
    assert torch.allclose(curves[names.index("zero")], curves[names.index("constant")], atol=1e-6)
    assert not torch.allclose(curves[names.index("zero")], curves[names.index("cam")], atol=1e-4)


def test_end_points_are_paid_once(make_batch, make_scorer, network, cams):
    batch, steps = make_batch((8, 6), n=2), 5
    score = make_scorer(network, batch.targets)
    first = faithfulness.deletion(cams(2, 8, 6), batch, score=score, steps=steps, baseline="blur")
    assert score.images == 2 * (steps - 1) + 4
    other = faithfulness.insertion(cams(2, 8, 6, seed=1), batch, score=score, steps=steps)
    assert score.images == 4 * (steps - 1) + 4
    # Insertion starts where deletion ends and the other way round.
    assert torch.equal(first["curve"][:, 0], other["curve"][:, -1])
    assert torch.equal(first["curve"][:, -1], other["curve"][:, 0])
    # Another baseline has another end point.
    faithfulness.deletion(cams(2, 8, 6), batch, score=score, steps=steps, baseline="zero")
    assert score.images == 6 * (steps - 1) + 6


@pytest.mark.parametrize("size", [(6, 10), (16, 4)])
def test_linear_model_has_the_analytic_curve(make_batch, size):
    height, width = size
    positions = height * width
    batch = make_batch(size, n=2, channels=1)
    shuffled = torch.randperm(positions, generator=torch.Generator().manual_seed(0))
    contribution = torch.arange(1.0, positions + 1)[shuffled].view(1, height, width).expand(2, height, width)
    batch.images = torch.ones(2, 1, height, width)
    score = Linear(contribution[:, None] / contribution[0].sum())
    steps = positions
    # Left after the k largest of 1..P are gone: (P - k)(P - k + 1) / (P (P + 1)).
    left = (steps - np.arange(steps + 1)) * (steps - np.arange(steps + 1) + 1) / (steps * (steps + 1))
    best = faithfulness.deletion(contribution, batch, score=score, steps=steps)
    assert np.allclose(best["curve"][0], left, atol=1e-5)
    assert float(best["auc"][0]) == pytest.approx(np.trapezoid(left, dx=1 / steps), abs=1e-5)
    worst = faithfulness.deletion(-contribution, batch, score=score, steps=steps)
    assert np.allclose(worst["curve"][0], 1 - left[::-1], atol=1e-5)
    inserted = faithfulness.insertion(contribution, batch, score=score, steps=steps, baseline="zero")
    assert np.allclose(inserted["curve"][0], 1 - left, atol=1e-5)
    assert best["auc"][0] < worst["auc"][0] < inserted["auc"][0] + 1e-6


def test_transposed_map_is_another_map(make_batch, make_scorer, network):
    # A map that marks a row must not delete a column.
    batch = make_batch((6, 10), n=1)
    row = torch.zeros(1, 6, 10)
    row[0, 2] = 1
    score = make_scorer(network, batch.targets)
    curve = faithfulness.deletion(row, batch, score=score, steps=6)["curve"][0]
    gone = batch.images.clone()
    gone[:, :, 2] = 0
    assert float(curve[1]) == pytest.approx(float(score(gone, torch.tensor([0]))[0]), abs=1e-6)


def test_correlation_is_deletion_and_insertion_correlation(make_batch, make_scorer, network, maps):
    """Gomez et al.: Pearson of each step's change of the probability with the mean of the map it perturbs."""
    named = maps(9, 13)
    batch = make_batch((9, 13), n=len(named))
    heatmaps = torch.stack(list(named.values()))
    for metric, sign in ((faithfulness.deletion, -1), (faithfulness.insertion, 1)):
        result = metric(heatmaps, batch, score=make_scorer(network, batch.targets), steps=7)
        for i, name in enumerate(named):
            if name in ("zero", "constant"):
                assert result["correlation"][i] == 0
                continue
            values = np.sort(heatmaps[i].double().flatten().numpy())[::-1]
            counts = [k * 117 // 7 for k in range(8)]
            means = [values[a:b].mean() for a, b in zip(counts[:-1], counts[1:], strict=True)]
            change = sign * np.diff(result["curve"][i].double().numpy())
            expected = scipy.stats.pearsonr(means, change).statistic
            assert result["correlation"][i].item() == pytest.approx(expected, abs=1e-3), name
    # The true contributions of a linear model give 1, their negative -1.
    contribution = torch.rand(1, 6, 10, generator=torch.Generator().manual_seed(0))
    plain = make_batch((6, 10), n=1, channels=1)
    plain.images = torch.ones(1, 1, 6, 10)
    for factor in (1, -1):
        result = faithfulness.deletion(factor * contribution, plain, score=Linear(contribution[:, None]), steps=60)
        assert result["correlation"].item() == pytest.approx(factor, abs=1e-4)


def test_opened_curves_run_from_one_to_zero(make_batch, make_scorer, network, cams):
    batch, heatmaps = make_batch((9, 13), n=6), cams(6, 9, 13)
    for metric in (faithfulness.deletion, faithfulness.insertion):
        plain = metric(heatmaps, batch, score=make_scorer(network, batch.targets), steps=4, baseline="zero")
        opened = metric(heatmaps, batch, score=make_scorer(network, batch.targets), steps=4, baseline="zero", open=True)
        ends = plain["curve"][:, [0, -1]]
        clean, gone = ends.unbind(1) if metric is faithfulness.deletion else ends.flip(1).unbind(1)
        left_out = clean - gone < 0.05
        assert left_out.any() and not left_out.all()
        assert torch.equal(opened["auc"].isnan(), left_out)
        assert opened["curve"][left_out].isnan().all()
        expected = (plain["curve"] - gone[:, None]) / (clean - gone)[:, None]
        assert torch.allclose(opened["curve"][~left_out], expected[~left_out], atol=1e-5)
        assert torch.allclose(opened["auc"][~left_out], ((plain["auc"] - gone) / (clean - gone))[~left_out], atol=1e-5)
        assert torch.equal(opened["correlation"], plain["correlation"])


def test_unequal_steps_weigh_by_their_exact_share():
    assert faithfulness.step_counts(3, 10) == [0, 3, 6, 10]
    assert faithfulness.step_counts(28, 224 * 224) == [i * 1792 for i in range(29)]
    curve = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    assert float(faithfulness.area(curve, [0, 3, 6, 10])) == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)
    with pytest.raises(ValueError, match="steps"):
        faithfulness.step_counts(0, 10)


def test_blur_taps_are_rise_s():
    # RISE's gkern(11, 5) filters a delta with SciPy: 41 taps, of which those beyond the array are reflected into it.
    weights = np.exp(-(np.arange(-20, 21) ** 2) / 50)
    weights /= weights.sum()
    side = np.zeros(11)
    for target in range(11):
        for offset, weight in zip(range(-20, 21), weights, strict=True):
            place = (target + offset) % 22
            side[target] += weight * ((place if place < 11 else 21 - place) == 5)
    taps = baselines.gaussian_taps(11, 5.0).numpy()
    assert np.allclose(taps, np.outer(side, side), atol=1e-12)
    assert taps.sum() == pytest.approx(1, abs=1e-12)
    # Golden value: scipy 1.17.1, gaussian_filter of an 11x11 delta with sigma 5, middle, 2026.
    assert taps[5, 5] == pytest.approx(0.008832628216, abs=1e-11)


def test_blur_is_a_convolution_with_zero_padding(make_batch):
    images = make_batch((5, 7), n=2).images
    taps = baselines.gaussian_taps(3, 1.0).numpy()
    expected = np.zeros(images.shape)
    for n, c, y, x in np.ndindex(*images.shape):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if 0 <= y + dy < 5 and 0 <= x + dx < 7:
                    expected[n, c, y, x] += taps[dy + 1, dx + 1] * float(images[n, c, y + dy, x + dx])
    assert np.allclose(baselines.blur(images, 3, 1.0), expected, atol=1e-6)


def test_other_baselines(make_batch):
    batch = make_batch((5, 7), n=3)
    assert (baselines.baseline_images(batch, "zero") == 0).all()
    black = baselines.baseline_images(batch, "black")
    assert black.shape == batch.images.shape and torch.equal(black[1, :, 2, 3], batch.black)
    mean = baselines.baseline_images(batch, "mean")
    assert torch.allclose(mean[2, 1], batch.images[2, 1].mean().expand(5, 7))
    noise = baselines.baseline_images(batch, "noise")
    assert not torch.equal(noise[0], noise[1]) and abs(float(noise.mean())) < 0.3 and 0.7 < float(noise.std()) < 1.3
    assert not torch.equal(noise, baselines.baseline_images(batch, "noise", seed=1))
    # A case's noise does not depend on its neighbours.
    batch.ids, batch.images = batch.ids[::-1], batch.images.flip(0)
    assert torch.equal(baselines.baseline_images(batch, "noise"), noise.flip(0))
    with pytest.raises(ValueError, match="unknown baseline 'grey'"):
        baselines.baseline_images(batch, "grey")
    with pytest.raises(ValueError, match="odd kernel"):
        baselines.baseline_images(batch, "blur", kernel=10)
    with pytest.raises(ValueError, match="sigma"):
        baselines.baseline_images(batch, "blur", sigma=0)
