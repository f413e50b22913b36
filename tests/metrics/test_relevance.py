"""Relevance mass, rank and top-k against loops over pixels."""

import math

import pytest
import torch

from metrics import coverage


def brute(heatmap, truth, k):
    height, width = heatmap.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    energy = {p: max(float(heatmap[p]), 0) for p in places}
    if not any(energy.values()):
        energy = dict.fromkeys(places, 1.0)
    inside = {p for p in places if bool(truth[p])}

    def share(count):
        """Expected share of the class among the `count` highest positions over random orders of the tied ones."""
        sure, hits = 0, 0.0
        for level in sorted({float(heatmap[p]) for p in places}, reverse=True):
            group = {p for p in places if float(heatmap[p]) == level}
            drawn = min(len(group), count - sure)
            hits += drawn * len(group & inside) / len(group)
            sure += drawn
        return hits / count

    return sum(energy[p] for p in inside) / sum(energy.values()), share(len(inside)), share(min(k, len(places)))


@pytest.mark.parametrize("size", [(9, 14), (1, 1)])
@pytest.mark.parametrize("k", [1, 20, 10000])
def test_equals_brute_force(make_batch, maps, size, k):
    named = maps(*size)
    heatmaps = torch.stack(list(named.values()))
    masks = torch.rand(len(named), 2, *size, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[:, 0, 0, 0] = True
    for given in (list(masks), None):
        batch = make_batch(size, [[[0, 0, 5, 4], [3, 2, 8, 6]]] * len(named), masks=given)
        result = coverage.relevance(heatmaps, batch, k=k)
        for i, name in enumerate(named):
            truth = masks[i].any(0)
            if given is None:
                truth = torch.zeros(size, dtype=torch.bool)
                truth[:4, :5] = truth[2:6, 3:8] = True
            expected = brute(heatmaps[i], truth, k)
            assert [result[key][i].item() for key in ("mass", "rank", "top_k")] == pytest.approx(expected, abs=1e-5), (
                name
            )


def test_extremes_and_chance(make_batch):
    size = (20, 30)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, 4:9, 3:20] = True
    empty = torch.zeros(1, *size, dtype=torch.bool)
    batch = make_batch(size, [[[3, 4, 20, 9]]] * 3, masks=[mask, mask, empty])
    result = coverage.relevance(torch.stack([mask[0], ~mask[0], mask[0]]).float(), batch, k=85)
    for key in ("mass", "rank", "top_k"):
        assert result[key][:2].tolist() == [1, 0] and math.isnan(result[key][2]), key
    n = 400
    maps = torch.rand(n, *size, generator=torch.Generator().manual_seed(0))
    result = coverage.relevance(maps, make_batch(size, [[[3, 4, 20, 9]]] * n, masks=[mask] * n), k=50)
    for key, values in result.items():
        assert abs(values.mean().item() - 85 / 600) < 3 * values.std().item() / math.sqrt(n), key
    with pytest.raises(ValueError, match="k must"):
        coverage.relevance(maps[:1], make_batch(size, [[]]), k=0)
