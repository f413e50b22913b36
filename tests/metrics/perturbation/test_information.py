"""Performance information curves against a loop over shares, and against the authors' interpolation."""

import io
import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import interp1d

from metrics import ranking
from metrics.perturbation import information
from metrics.perturbation.information import performance_information_curve as measure

SHARES = (0.05, 0.2, 0.5, 0.8)


def size_of(picture, low, high):
    levels = np.clip(np.rint((picture - low) / (high - low) * 255), 0, 255).astype(np.uint8)
    return len(cv2.imencode(".webp", levels[::-1].transpose(1, 2, 0), [cv2.IMWRITE_WEBP_QUALITY, 101])[1])


def kept_pixels(size, known, case, seed=0):
    """Those that even the blurred picture has: random ones and the corners."""
    height, width = size
    drawn = torch.randperm(height * width, generator=ranking.generator(f"known:{seed}:{case}"))
    mask = np.zeros(size, dtype=bool)
    for position in drawn[: math.floor(known * height * width)].tolist():
        mask[divmod(position, width)] = True
    mask[0, 0] = mask[0, width - 1] = mask[height - 1, 0] = mask[height - 1, width - 1] = True
    return mask


def slow_points(s, i, places, solved, known):
    """Probability, whether the class is on top, and bytes: of the blurred picture, at each share, and of the clean."""
    image, size = s.batch.images[i].numpy(), s.maps[i].shape
    points = []
    for count in [0, *(math.floor(share * len(places)) for share in SHARES), len(places)]:
        shown = kept_pixels(size, known, s.batch.ids[i])
        for y, x in places[:count]:
            shown[y, x] = True
        picture = solved(image, ~shown)
        with torch.no_grad():
            logits = s.network(torch.from_numpy(picture)[None])[0]
        top = float(int(logits.argmax()) in s.batch.targets[i])
        points.append((s.probability(i, torch.from_numpy(picture)), top, size_of(picture, image.min(), image.max())))
    return points


def slow_curve(xs, ys, bins):
    best, rising = -math.inf, []
    for y in ys:
        best = max(best, y)
        rising.append(best)
    points = sorted(zip(xs, rising, strict=True))
    curve = []
    for place in np.arange(bins + 1) / bins:
        at = [y for x, y in points if x == place]
        if at:
            curve.append(max(at))
            continue
        (x0, y0), (x1, y1) = max(p for p in points if p[0] < place), min(p for p in points if p[0] > place)
        curve.append(y0 + (place - x0) / (x1 - x0) * (y1 - y0))
    return curve


@pytest.mark.parametrize(("size", "known", "bins"), [((9, 12), 0.05, 10), ((8, 7), 0, 7)])
def test_equals_a_loop_over_shares(scene, sequence, solved, size, known, bins):
    s = scene(size)
    result = measure(s.maps, s.batch, score=s.scorer(), shares=SHARES, known=known, bins=bins)
    defined = 0
    for i, name in enumerate(s.names):
        points = slow_points(s, i, sequence(s.maps[i], s.batch.ids[i]), solved, known)
        (p0, _, e0), (p1, _, e1) = points[0], points[-1]
        assert e1 > e0, name
        xs = [min(max((e - e0) / (e1 - e0), 0), 1) for _, _, e in points]
        accuracy = slow_curve(xs, [top for _, top, _ in points], bins)
        assert np.allclose(result["aic_curve"][i], accuracy, atol=1e-6), name
        assert result["aic"][i].item() == pytest.approx(np.trapezoid(accuracy, dx=1 / bins), abs=1e-6), name
        if p1 <= p0:
            assert result["sic"][i].isnan() and result["sic_curve"][i].isnan().all(), name
            continue
        defined += 1
        values = slow_curve(xs, [min(max((p - p0) / (p1 - p0), 0), 1) for p, _, _ in points], bins)
        assert np.allclose(result["sic_curve"][i], values, atol=1e-6), name
        assert result["sic"][i].item() == pytest.approx(np.trapezoid(values, dx=1 / bins), abs=1e-6), name
    assert defined > 4 and result["sic"].nan_to_num(0).std() > 1e-3


def test_curve_is_the_authors():
    """Their interpolation and area, on points without ties: github.com/PAIR-code/saliency, metrics/pic.py, 2022."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        x, y = generator.random(8), np.maximum.accumulate(generator.random(8))
        theirs = interp1d([*x, 0.0, 1.0], [*y, 0.0, 1.0])
        places = np.append(np.linspace(0, 1, 1000, endpoint=False), 1.0)
        curve = np.append([theirs(place) for place in places[:-1]], 1.0)
        points = [torch.tensor([[0.0, *values, 1.0]], dtype=torch.float64) for values in (x, y)]
        ours = information._curves(*points, 1000)[0].numpy()
        assert np.allclose(ours, curve, atol=1e-9)


def test_of_equal_information_the_best_counts():
    x, y = torch.tensor([[0.0, 0.0, 0.5, 0.5, 1.0, 1.0]]), torch.tensor([[0.0, 0.3, 0.4, 0.6, 0.8, 1.0]])
    assert information._curves(x, y, 4)[0].tolist() == pytest.approx([0.3, 0.35, 0.6, 0.7, 1.0])
    missing = torch.tensor([[0.0, torch.nan, 1.0]])
    assert information._curves(missing, torch.tensor([[0.0, 0.5, 1.0]]), 4).isnan().all()


def test_file_is_lossless_and_about_as_large_as_pillows():
    """The authors write WebP by Pillow, lossless at quality 100."""
    noise = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ramp = torch.arange(50, dtype=torch.uint8).expand(3, 40, 50).clone()
    for picture in (noise, ramp):
        buffer = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, format="webp", lossless=True, quality=100)
        assert abs(information.file_size(picture) - buffer.tell()) < 0.05 * buffer.tell() + 40
    bgr = noise.flip(0).permute(1, 2, 0).contiguous().numpy()
    coded = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, 101])[1]
    assert np.array_equal(cv2.imdecode(coded, cv2.IMREAD_COLOR), bgr)
    assert information.file_size(ramp) < information.file_size(noise) / 10
    assert information.file_size(noise[:1]) < information.file_size(noise)
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        information.file_size(torch.zeros(4, 5, 5, dtype=torch.uint8))


def test_only_the_order_of_positions_counts_and_equal_maps_are_scored_once(make_batch, make_scorer, network, cams):
    batch, heatmaps = make_batch((8, 9), n=2), cams(2, 8, 9)
    batch.targets = [(1,), (2,)]
    score = make_scorer(network, batch.targets)
    score.maps = ["a", "b"]
    first = measure(heatmaps, batch, score=score, shares=SHARES)
    assert score.images == 2 * 2 + 2 * len(SHARES)
    score.maps = ["a", "c"]
    second = measure(torch.stack([heatmaps[0], heatmaps[0]]), batch, score=score, shares=SHARES)
    assert score.images == 2 * 2 + 3 * len(SHARES)
    assert torch.equal(second["sic_curve"][0], first["sic_curve"][0]) and first["sic"].isfinite().any()
    for other in (heatmaps.exp(), 3 * heatmaps + 1):
        again = measure(other, batch, score=make_scorer(network, batch.targets), shares=SHARES)
        for key, values in again.items():
            torch.testing.assert_close(values, first[key], equal_nan=True)


def test_flat_maps_score_as_random_ones_on_average(make_batch, make_scorer, network):
    n = 200
    batch = make_batch((6, 8), n=n)
    batch.images, batch.targets = batch.images[:1].expand(n, -1, -1, -1), [(1,)] * n
    random = torch.rand(n, 6, 8, generator=torch.Generator().manual_seed(0))
    values = []
    for heatmaps in (random, torch.full((n, 6, 8), 0.3)):
        result = measure(heatmaps, batch, score=make_scorer(network, batch.targets), shares=(0.2, 0.6))["sic"]
        values.append(result[result.isfinite()].double())
    assert len(values[0]) == len(values[1]) > 100  # the blurred picture is the case's, not the map's
    error = math.sqrt(sum(value.var() / len(value) for value in values))
    assert abs(values[0].mean() - values[1].mean()) < 3.5 * error and values[1].std() > 1e-3


def test_a_picture_of_one_colour_has_no_information(make_batch, make_scorer, network):
    batch = make_batch((6, 8), n=1)
    batch.images = torch.full_like(batch.images, 0.4)
    result = measure(torch.rand(1, 6, 8), batch, score=make_scorer(network, batch.targets), shares=SHARES)
    assert all(values.isnan().all() for values in result.values())


def test_bad_parameters(scene):
    s = scene((3, 4))
    for bad in ({"shares": ()}, {"shares": (0.2, 0.1)}, {"shares": (0.5, 1.0)}, {"known": 1.0}, {"bins": 0}):
        with pytest.raises(ValueError, match="shares must rise"):
            measure(s.maps, s.batch, score=s.scorer(), **bad)
