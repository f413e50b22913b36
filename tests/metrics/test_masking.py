"""Average drop, increase, gain and drop in deletion against the papers' formulas, one image at a time."""

import pytest
import torch

from metrics import baselines, masking


def probability(network, image, target):
    with torch.no_grad():
        return network(image[None]).softmax(1)[0, target].item()


def slow_mask(heatmap):
    low, high = heatmap.min().item(), heatmap.max().item()
    return torch.zeros_like(heatmap) if low == high else (heatmap.double() - low).div(high - low).float()


@pytest.mark.parametrize("size", [(9, 13), (1, 1)])
@pytest.mark.parametrize("baseline", ["zero", "blur", "black"])
def test_equals_the_formulas(make_batch, make_scorer, network, maps, size, baseline):
    named = maps(*size)
    del named["tiny"], named["huge"]  # float64 reference above, scale is tested below
    batch = make_batch(size, n=len(named))
    heatmaps = torch.stack(list(named.values()))
    blank = baselines.baseline_images(batch, baseline)
    score = make_scorer(network, batch.targets)
    shown = masking.average_drop(heatmaps, batch, score=score, baseline=baseline)
    hidden = masking.average_drop_in_deletion(heatmaps, batch, score=score, baseline=baseline)
    # One pass a map for each of the two; the clean image once.
    assert score.images == 3 * len(named)
    seen = set()
    for i, name in enumerate(named):
        image, target, mask = batch.images[i], batch.targets[i][0], slow_mask(heatmaps[i])
        p = probability(network, image, target)
        kept = probability(network, image * mask + blank[i] * (1 - mask), target)
        gone = probability(network, image * (1 - mask) + blank[i] * mask, target)
        assert hidden["drop"][i].item() == pytest.approx((p - gone) / p, abs=1e-4), name
        if heatmaps[i].min() == heatmaps[i].max():  # shows nothing: the worst of each
            assert [shown[key][i].item() for key in ("drop", "increase", "gain")] == [1, 0, 0], name
            continue
        assert shown["drop"][i].item() == pytest.approx(max(0, p - kept) / p, abs=1e-4), name
        assert shown["gain"][i].item() == pytest.approx(max(0, kept - p) / (1 - p), abs=1e-4), name
        assert shown["increase"][i].item() == (kept > p), name
        seen.add(kept > p)
    if size != (1, 1):
        assert seen == {True, False}


def test_unit_range(cams):
    heatmap = cams(1, 12, 9)[0]
    expected = slow_mask(heatmap)
    for scale, shift in [(1, 0), (5, 0), (1e37, 0), (1e-37, 0), (1, -3), (2, 7)]:
        scaled = masking.unit_range((heatmap * scale + shift)[None])[0]
        assert torch.allclose(scaled, expected, atol=1e-5) and scaled.min() == 0 and scaled.max() == 1
    assert masking.unit_range(torch.full((1, 3, 4), 0.7)).sum() == 0
    negative = masking.unit_range(-heatmap[None])[0]
    assert torch.allclose(negative, 1 - expected, atol=1e-5)


class Fixed:
    """Scores that are given: clean image, then the others."""

    def __init__(self, clean, other):
        self.clean, self.other = torch.tensor(clean), torch.tensor(other)

    def __call__(self, images, cases):
        return self.other[cases]

    def once(self, key, function):
        return self.clean if key == "clean score" else function()


def test_extremes(make_batch, cams):
    batch, heatmaps = make_batch((6, 5), n=5), cams(5, 6, 5)
    score = Fixed([0.5, 0.5, 0.0, 1.0, 0.8], [0.0, 1.0, 0.3, 1.0, 0.2])
    shown = masking.average_drop(heatmaps, batch, score=score)
    assert shown["drop"].tolist() == pytest.approx([1, 0, 0, 0, 0.75])
    assert shown["gain"].tolist() == pytest.approx([0, 1, 0.3, 0, 0])
    assert shown["increase"].tolist() == [0, 1, 1, 0, 0]
    hidden = masking.average_drop_in_deletion(heatmaps, batch, score=score)["drop"]
    assert hidden.tolist() == pytest.approx([1, -1, 0, 0, 0.75])


def test_a_constant_map_shows_nothing(make_batch, make_scorer, network):
    batch = make_batch((8, 8), n=1)
    score = make_scorer(network, batch.targets)
    for value in (0.0, 0.4):
        heatmap = torch.full((1, 8, 8), value)
        shown = masking.average_drop(heatmap, batch, score=score)
        assert [shown[key].item() for key in ("drop", "increase", "gain")] == [1, 0, 0]
        assert masking.average_drop_in_deletion(heatmap, batch, score=score)["drop"].item() == pytest.approx(
            0, abs=1e-6
        )


def test_a_score_below_zero_has_no_share_to_lose_and_one_above_one_none_to_gain(make_batch, cams):
    """Explained scores, which are no probabilities: a drop of -3 to -5 is no drop of 0."""
    batch = make_batch((8, 8), n=3)
    heatmaps, score = cams(3, 8, 8), Fixed([-3.0, 0.0, 2.0], [-5.0, -1.0, 1.0])
    shown = masking.average_drop(heatmaps, batch, score=score)
    hidden = masking.average_drop_in_deletion(heatmaps, batch, score=score)
    assert shown["drop"][0].isnan() and hidden["drop"][0].isnan()
    assert shown["drop"][1:].tolist() == [0, 0.5] and hidden["drop"][1:].tolist() == [0, 0.5]
    assert shown["gain"][:2].tolist() == [0, 0] and shown["gain"][2].isnan()
