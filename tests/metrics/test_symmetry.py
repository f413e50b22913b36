"""What no metric may depend on: left and right, the order of the cases, the unit of the map."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from contract import METRICS, part

SIZE = (48, 64)  # whole cells of the histograms of gradients
FAST = {"steps": 6, "subsets": 12, "stages": 2, "samples": 2, "noise": 0.0}  # noise is drawn position by position
# By their protocols: sets of cells, and the noise that moves the logits, are drawn in the order of the rows, and
# wsolevaluation's boxes end a pixel too far.
ONE_SIDED = {
    "relative_stability": {"output"},
    "baseline_distance": {"distance"},
    "sensitivity_n": {"correlation"},
    "performance_information_curve": {"sic", "aic", "sic_curve", "aic_curve"},
    "infidelity": {"infidelity", "unexplained"},
    "faithfulness_correlation": {"correlation"},
    "max_box_acc": {"correct_30", "correct_50", "correct_70", "largest_50", "best_iou"},
    "max_box_acc_bicubic": {"correct_30", "correct_50", "correct_70", "largest_50", "best_iou"},
    **{name: {"iou", "gt_known", "top_1_loc"} for name in ("gt_known", "gt_known_mean", "gt_known_otsu")},
}


class Explain:
    """A method asked again: gives the maps at hand."""

    def __init__(self, module, batch, heatmaps):
        self.layers = [name for name, _ in module.named_modules() if name.endswith("layers.1")]
        self.module, self.batch, self.heatmaps = module, batch, heatmaps
        self.running = [name for name, _ in module.named_modules()]
        self.logits = module(batch.images).detach()

    def __call__(self, images=None, change=None, targets=None, perturb=None):
        return self.heatmaps

    def features(self, images=None):
        pictures = self.batch.images if images is None else images
        return {name: self.module(pictures).detach().double() for name in self.layers}

    def effect(self, perturb):
        images = perturb(self.batch.images, self.batch.image_ids)
        shift = (images - self.batch.images).flatten(1).double().norm(dim=1)
        return shift, self.module(images).detach(), shift / 10


def measure(name, heatmaps, others, batch, network, make_scorer):
    metric = part("metric", name)
    node = {key: FAST.get(key, value) for key, value in metric.parameters.items() if key != "_target_"}
    offer = {
        "score": make_scorer(network, batch.targets),
        "explain": Explain(network, batch, others),
    }
    wanted = {key: offer[key] for key in offer if key in metric.wants}
    return metric.call.func(heatmaps, batch, **{**metric.call.keywords, **node}, **wanted)


@pytest.fixture
def scene(make_batch, cams):
    """Three cases with boxes and masks, their maps without ties, and other maps of the same method."""
    boxes = [[[4, 6, 20, 21], [30, 24, 50, 44]], [[32, 0, 64, 24]], [[10, 5, 37, 40], [40, 8, 60, 20], [3, 41, 20, 47]]]
    masks = []
    for some in boxes:
        mask = torch.zeros(len(some), *SIZE, dtype=torch.bool)
        for one, (x0, y0, x1, y1) in zip(mask, some, strict=True):
            one[y0:y1, x0 : x1 - 3] = one[y0 : y1 - 4, x0:x1] = True
        masks.append(mask)
    batch = make_batch(SIZE, boxes, masks=masks)
    batch.ignore = [torch.tensor([[50.0, 30, 60, 40]])] * 3
    slope = 0.01 * torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(5))
    return SimpleNamespace(batch=batch, maps=cams(3, *SIZE) + slope, others=cams(3, *SIZE, seed=8) + slope)


def mirrored(batch):
    """The batch seen in a mirror."""
    width = SIZE[1]

    def turned(boxes):
        return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)

    changes = {
        name: [turned(boxes) for boxes in getattr(batch, name)]
        for name in ("boxes", "other_boxes", "original_boxes", "ignore", "parts")
    }
    masks = {name: [mask.flip(-1) for mask in getattr(batch, name)] for name in ("masks", "original_masks")}
    return SimpleNamespace(**vars(batch) | changes | masks | {"images": batch.images.flip(-1)})


@pytest.mark.parametrize("name", METRICS)
def test_a_mirror_changes_nothing(name, scene, network, make_scorer):
    plain = measure(name, scene.maps, scene.others, scene.batch, network, make_scorer)
    turned = [maps.flip(-1) for maps in (scene.maps, scene.others)]
    seen = MirroredNetwork(network)
    other = measure(name, *turned, mirrored(scene.batch), seen, make_scorer)
    assert plain.keys() == other.keys()
    for key in plain.keys() - ONE_SIDED.get(name, set()):
        # scikit-image has no gradient across the border: at the border it is along it, bin 0 from both sides.
        atol = 0.02 if key.startswith("hog") else 1e-5
        torch.testing.assert_close(other[key], plain[key], rtol=1e-4, atol=atol, equal_nan=True, msg=key)
    assert any(values.nan_to_num(0).std() > 0 for values in plain.values())


class MirroredNetwork(torch.nn.Module):
    """The network behind a mirror, with the same weights."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.flip(-1))


@pytest.mark.parametrize("name", METRICS)
def test_the_order_of_the_cases_changes_nothing(name, scene, network, make_scorer):
    plain = measure(name, scene.maps, scene.others, scene.batch, network, make_scorer)
    order = [2, 0, 1]
    moved = {
        key: values[order] if isinstance(values, torch.Tensor) else [values[i] for i in order]
        for key, values in vars(scene.batch).items()
        if key != "black"
    }
    batch = SimpleNamespace(**moved, black=scene.batch.black)
    other = measure(name, scene.maps[order], scene.others[order], batch, network, make_scorer)
    for key, values in plain.items():
        torch.testing.assert_close(other[key], values[order], rtol=1e-5, atol=1e-6, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", METRICS)
def test_a_map_of_twice_the_size_says_the_same(name, scene, network, make_scorer):
    plain = measure(name, scene.maps, scene.others, scene.batch, network, make_scorer)
    double = measure(name, 2 * scene.maps, 2 * scene.others, scene.batch, network, make_scorer)
    for key, values in plain.items():
        torch.testing.assert_close(double[key], values, rtol=0, atol=0, equal_nan=True, msg=key)
