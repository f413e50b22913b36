"""ROAD: the imputation against a dense solve of its equations, the curves against a loop."""

import math

import numpy as np
import pytest
import torch

from metrics import baselines, ranking, road


def slow_impute(image, missing):
    """Solve the equations of Rong et al. as a dense system over all pixels, channel by channel."""
    channels, height, width = image.shape
    matrix, right = np.zeros((height * width,) * 2), np.zeros((height * width, channels))
    for y in range(height):
        for x in range(width):
            here = y * width + x
            if not missing[y, x]:
                matrix[here, here] = 1
                right[here] = image[:, y, x]
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width:
                        weight = 1 / 12 if dy and dx else 1 / 6
                        matrix[here, here] += weight
                        matrix[here, (y + dy) * width + x + dx] -= weight
    return np.linalg.solve(matrix, right).T.reshape(image.shape)


def holes(height, width):
    random = np.random.default_rng(0)
    yield np.zeros((height, width), bool)
    for share in (0.1, 0.5, 0.9):
        yield random.random((height, width)) < share
    block = np.zeros((height, width), bool)
    block[: height - 2, 2:] = True  # touches two borders
    yield block
    almost = np.ones((height, width), bool)
    almost[0, -1] = False
    yield almost


@pytest.mark.parametrize("size", [(8, 13), (4, 4)])
def test_imputation_solves_the_equations(make_batch, size):
    image = make_batch(size, n=1).images[0]
    masks = [torch.from_numpy(hole) for hole in holes(*size)]
    together = road.impute_iteratively(torch.stack([image] * len(masks)), torch.stack(masks))
    for missing, iterated in zip(masks, together, strict=True):
        expected = slow_impute(image.double().numpy(), missing.numpy())
        assert np.allclose(road.impute_directly(image[None], missing[None])[0], expected, atol=1e-5)
        assert np.allclose(iterated, expected, atol=1e-4)
        assert torch.equal(iterated[:, ~missing], image[:, ~missing])


def test_imputation_keeps_a_linear_ramp():
    # Away from the border a linear function is its own neighbours' mean.
    rows, columns = torch.arange(20.0)[:, None], torch.arange(30.0)[None]
    image = (0.3 * rows - 0.1 * columns).expand(2, 20, 30)
    missing = torch.zeros(20, 30, dtype=torch.bool)
    missing[5:12, 8:25] = True
    assert torch.allclose(road.impute_directly(image[None], missing[None])[0], image, atol=1e-5)
    assert torch.allclose(road.impute_iteratively(image[None], missing[None])[0], image, atol=1e-4)


def test_both_solvers_agree_on_a_real_size(cams):
    image = torch.rand(3, 96, 120, generator=torch.Generator().manual_seed(0))
    missing = cams(1, 96, 120)[0] < 0.8
    assert 0.5 < missing.float().mean() < 0.98
    direct = road.impute_directly(image[None], missing[None])[0]
    assert torch.allclose(road.impute_iteratively(image[None], missing[None])[0], direct, atol=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_curves_equal_a_loop(make_batch, make_scorer, network, maps, noise):
    named = maps(9, 6)
    batch = make_batch((9, 6), n=len(named))
    heatmaps = torch.stack(list(named.values()))
    grain = baselines.baseline_images(batch, "noise")
    shares = (0.0, 0.3, 0.75)
    score = make_scorer(network, batch.targets)
    result = road.road(heatmaps, batch, score=score, shares=shares, noise=noise)
    assert score.images == len(named) * 2 * len(shares)
    for i, name in enumerate(named):
        values = heatmaps[i].flatten().tolist()
        ties = ranking.order(torch.zeros(1, 9, 6), [batch.ids[i]])[0].tolist()
        ranked = sorted(range(54), key=lambda p, v=values, t=ties: (-v[p], t.index(p)))
        curves = {"morf": [], "lerf": []}
        for share in shares:
            count = math.floor(share * 54 + 1e-9)
            for key, gone in (("morf", ranked[:count]), ("lerf", ranked[54 - count :])):
                missing = np.zeros(54, bool)
                missing[gone] = True
                missing = missing.reshape(9, 6)
                image = torch.from_numpy(slow_impute(batch.images[i].double().numpy(), missing)).float()
                image = image + noise * grain[i] * torch.from_numpy(missing)
                with torch.no_grad():
                    curves[key].append(network(image[None]).softmax(1)[0, batch.targets[i][0]].item())
        for key, curve in curves.items():
            assert np.allclose(result[f"{key}_curve"][i], curve, atol=1e-4), name
            assert result[key][i].item() == pytest.approx(np.mean(curve), abs=1e-4)
        combined = (np.mean(curves["lerf"]) - np.mean(curves["morf"])) / 2
        assert result["combined"][i].item() == pytest.approx(combined, abs=1e-4)


def test_opposite_maps_swap_the_curves(make_batch, make_scorer, network):
    batch = make_batch((9, 6), n=2)
    heatmaps = torch.rand(2, 9, 6, generator=torch.Generator().manual_seed(1))  # no ties
    score = make_scorer(network, batch.targets)
    one, other = (road.road(h, batch, score=score, shares=(0.2, 0.6)) for h in (heatmaps, -heatmaps))
    assert torch.allclose(one["morf_curve"], other["lerf_curve"], atol=1e-5)
    assert torch.allclose(one["combined"], -other["combined"], atol=1e-5)
    assert not torch.allclose(one["morf"], one["lerf"], atol=1e-4)


def test_composition_and_pieces_do_not_matter(make_batch, make_scorer, network, cams, monkeypatch):
    batch, heatmaps = make_batch((9, 6), n=3), cams(3, 9, 6)
    whole = road.road(heatmaps, batch, score=make_scorer(network, batch.targets), shares=(0.4, 0.8))
    alone = make_batch((9, 6), n=3)
    alone.images, alone.ids, alone.targets = batch.images[1:2], batch.ids[1:2], batch.targets[1:2]
    monkeypatch.setattr(road, "pieces", lambda *_, times: 1)
    single = road.road(heatmaps[1:2], alone, score=make_scorer(network, alone.targets), shares=(0.4, 0.8))
    for key, values in whole.items():
        assert torch.allclose(values[1], single[key][0], atol=1e-5), key


@pytest.mark.parametrize("shares", [(), (0.5, 1.0), (-0.1,)])
def test_bad_shares(make_batch, make_scorer, network, cams, shares):
    batch = make_batch((4, 4), n=1)
    with pytest.raises(ValueError, match="shares"):
        road.road(cams(1, 4, 4), batch, score=make_scorer(network, batch.targets), shares=shares)
