"""Maps that say nothing: every metric gives what it gives for no information, whatever the constant is."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from metrics import coverage, faithfulness, pointing, road

YAMLS = sorted((Path(faithfulness.__file__).parents[1] / "conf" / "metric").glob("*.yaml"))
SIZE = (48, 54)
BOXES = [[4, 6, 20, 21], [30, 24, 50, 44]]
FAST = {"steps": 5, "subsets": 12, "stages": 2, "samples": 2}


class Explain:
    """A method that may be asked again: its maps do not depend on what is asked."""

    layers: tuple[str, ...] = ("layers.1",)

    def __init__(self, module, batch, heatmaps):
        self.module, self.batch, self.heatmaps = module, batch, heatmaps
        self.running = [name for name, _ in module.named_modules()]
        self.logits = module(batch.images)

    def __call__(self, images=None, change=None, targets=None, perturb=None):
        return self.heatmaps

    def features(self, images=None):
        pictures = self.batch.images if images is None else images
        return {name: self.module(pictures).detach().double() for name in self.layers}

    def effect(self, perturb):
        images = perturb(self.batch.images, self.batch.image_ids)
        shift = (images - self.batch.images).flatten(1).double().norm(dim=1)
        return shift, self.module(images), shift / 10


def measure(path, heatmaps, batch, score, network):
    node = yaml.safe_load(path.read_text())[path.stem]
    module, name = node.pop("_target_").rsplit(".", 1)
    about = node.pop("about")
    values = {key: FAST.get(key, value) for key, value in node.items()}
    if "score" in about["needs"]:
        values["score"] = score
    if "explain" in about["needs"]:
        values["explain"] = Explain(network, batch, heatmaps)
    return getattr(importlib.import_module(module), name)(heatmaps, batch, **values)


@pytest.fixture
def batch(make_batch):
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES, strict=True):
        mask[y0:y1, x0:x1] = True
    made = make_batch(SIZE, [BOXES] * 3, masks=[masks] * 3)
    # One picture three times, so that only the maps differ.
    made.images, made.ids, made.targets = made.images[:1].repeat(3, 1, 1, 1), ["a"] * 3, [(1,)] * 3
    made.image_ids = ["a"] * 3
    return made


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_zero_and_constants_are_equal_and_defined(path, batch, make_scorer, network):
    heatmaps = torch.tensor([0.0, 1.0, -3.0])[:, None, None].expand(3, *SIZE).clone()
    result = measure(path, heatmaps, batch, make_scorer(network, batch.targets), network)
    for name, values in result.items():
        assert values.isfinite().all(), name
        torch.testing.assert_close(values[1:], values[:1].expand_as(values[1:]), rtol=0, atol=1e-6, msg=name)


WORST = {
    "adcc": {"adcc": 0}, "arcc": {"arcc": 0}, "coherency": {"coherency": 0}, "complexity": {"mean": 1},
    "cascading_randomization": {"spearman": 1, "ssim": 1, "hog": 1},
    "independent_randomization": {"spearman": 1, "ssim": 1, "hog": 1},
    "bottom_up_randomization": {"spearman": 1, "ssim": 1, "hog": 1}, "efficient_mprt": {"rise": -1},
    "smooth_mprt": {"spearman": 1, "ssim": 1, "hog": 1},
    "max_sensitivity": {"distance": 2**0.5}, "avg_sensitivity": {"distance": 2**0.5},
    **{name: {"iou": 0, "gt_known": 0, "top_1_loc": 0} for name in ("gt_known", "gt_known_mean", "gt_known_otsu")},
    "class_sensitivity": {"spearman": 1, "ssim": 1, "hog": 1}, "random_logit": {"spearman": 1, "ssim": 1, "hog": 1},
    "deletion": {"correlation": 0}, "insertion": {"correlation": 0}, "sensitivity_n": {"correlation": 0},
    "instance_boxes": {"recall": 0, "precision": 0, "f1": 0, "average_precision": 0}, "sparseness": {"gini": 0},
    "average_drop": {"drop": 1, "increase": 0, "gain": 0},
    "average_drop_in_deletion": {"drop": 0}, "saco": {"coefficient": 0}, "faithfulness_correlation": {"correlation": 0},
    # wsolevaluation makes a constant map 0: no contour at any threshold, and all pixels tie.
    "max_box_acc": {"best_iou": 0}, "pxap": {"ap": (16 * 15 + 20 * 20) / (48 * 54)},
}  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_values_without_information(name, batch, make_scorer, network):
    path = YAMLS[0].with_name(f"{name}.yaml")
    result = measure(path, torch.zeros(3, *SIZE), batch, make_scorer(network, batch.targets), network)
    for key, expected in WORST[name].items():
        assert result[key].tolist() == pytest.approx([expected] * 3, abs=1e-5), key


def test_constant_maps_score_the_mean_of_random_maps(make_batch):
    """Random orders simulated by random maps, metric by metric."""
    n, size = 1500, (18, 24)
    boxes = [[1, 2, 9, 8], [12, 9, 20, 14]]
    random = torch.rand(n, *size, generator=torch.Generator().manual_seed(0))
    metrics = {
        "coverage": lambda maps, batch: coverage.box_coverage(maps, batch),
        "relevance": lambda maps, batch: coverage.relevance(maps, batch, k=50),
        "pointing": lambda maps, batch: pointing.pointing_game(maps, batch, tolerance=2),
        "energy": pointing.energy_pointing_game,
        "grid": pointing.grid_pointing_game,
    }
    for name, metric in metrics.items():
        drawn = metric(random, make_batch(size, [boxes] * n))
        flat = metric(torch.zeros(1, *size), make_batch(size, [boxes]))
        for key, values in drawn.items():
            if key in ("min_coverage", "evenness"):  # one drawn order; not linear in the energy
                continue
            expected, spread = flat[key][0], values.std(0)
            # An event too rare to be drawn has no spread in the sample: its own is that of a coin.
            coin = (expected * (1 - expected)).clamp(min=0).sqrt()
            error = torch.where(spread > 0, spread, coin) / np.sqrt(n)
            assert ((values.mean(0) - expected).abs() <= 4 * error + 1e-6).all(), (name, key)


def test_rectified_maps_score_the_mean_over_orders_of_their_zeros(make_batch, cams):
    """A map with half of its positions at 0 equals many maps whose zeros are put in a random order."""
    n, size = 800, (12, 16)
    boxes = [[0, 1, 6, 8], [7, 3, 15, 11]]
    heatmap = (cams(1, *size)[0] - 0.3).clamp(min=0)
    assert 0.3 < (heatmap == 0).float().mean() < 0.95
    noise = torch.rand(n, *size, generator=torch.Generator().manual_seed(1)) * 1e-3
    drawn = torch.where(heatmap > 0, heatmap + 1, noise)
    expected = coverage.box_coverage(drawn, make_batch(size, [boxes] * n))
    result = coverage.box_coverage(heatmap[None], make_batch(size, [boxes]))
    for key, values in expected.items():
        if key not in ("min_coverage", "evenness"):
            error = values.std(0) / np.sqrt(n)
            assert ((values.mean(0) - result[key][0]).abs() <= 4 * error + 1e-5).all(), key
    # Turned upside down with its boxes it scores the same: no side of the picture is preferred.
    turned = [[x0, 12 - y1, x1, 12 - y0] for x0, y0, x1, y1 in boxes]
    mirrored = coverage.box_coverage(heatmap.flip(0)[None], make_batch(size, [turned]))
    for key, values in result.items():
        if key != "min_coverage":
            torch.testing.assert_close(mirrored[key], values)


def test_a_constant_map_on_masks_is_quick_and_exact(make_batch):
    size = (60, 80)
    y, x = np.mgrid[: size[0], : size[1]]
    mask = ((y - 30) ** 2 + (x - 20) ** 2 < 100) & ~((y - 30) ** 2 + (x - 20) ** 2 < 25)
    batch = make_batch(size, [[[10, 20, 30, 40]]], masks=[torch.from_numpy(mask)[None]])
    near = [((y[mask] - i) ** 2 + (x[mask] - j) ** 2 < 16).any() for i in range(size[0]) for j in range(size[1])]
    result = pointing.pointing_game(torch.zeros(1, *size), batch, tolerance=4)["hit"]
    assert result.item() == pytest.approx(np.mean(near), abs=1e-6)


def test_equal_orders_are_scored_once(make_batch, make_scorer, network, cams):
    batch = make_batch((8, 6), n=2)
    first, other = cams(2, 8, 6), cams(2, 8, 6, seed=1)
    mixed = torch.stack([3 * first[0], other[1]])
    for metric, options, passes in (
        (faithfulness.deletion, {"steps": 5}, 4),
        (faithfulness.insertion, {"steps": 5}, 4),
        (road.road, {"shares": (0.2, 0.5)}, 4),
    ):
        score = make_scorer(network, batch.targets)
        alone = metric(mixed, batch, score=make_scorer(network, batch.targets), **options)
        score.maps = ["a", "b"]
        metric(first, batch, score=score, **options)
        before = score.images
        score.maps = ["a", "c"]
        shared = metric(mixed, batch, score=score, **options)
        assert score.images == before + passes
        for key, values in alone.items():
            torch.testing.assert_close(shared[key], values, atol=1e-6, rtol=1e-5)
        # Other parameters are other scores.
        metric(mixed, batch, score=score, **(options | {"seed": 3}))
        assert score.images >= before + 3 * passes
