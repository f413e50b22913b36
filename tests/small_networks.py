"""Networks and scorers whose answers are known, for the tests of metrics."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.types import Batch


def batch_of(images: Tensor, targets: list[tuple[int, ...]] | None = None) -> Batch:
    """Pictures (n, 3, H, W), of which nothing is known but that they show cats."""
    n = len(images)
    empty, none = [torch.zeros(0, 4)] * n, [None] * n
    return Batch(
        images=images, ids=[f"case {i}" for i in range(n)], image_ids=[f"image {i}" for i in range(n)],
        class_names=["cat"] * n, targets=targets or [(0,)] * n, boxes=empty, other_boxes=empty, masks=none,
        original_boxes=empty, original_masks=none, difficult=[torch.zeros(0, dtype=torch.bool)] * n,
        sizes=[tuple(images.shape[2:])] * n, to_input=[(1.0, 1.0, 0.0, 0.0)] * n,
        black=torch.tensor([-2.0, -2.0, -1.8]),
    )  # fmt: skip


def network():
    """Convolutions, normalizations, a block and a classifier, in evaluation mode, with trained-like statistics."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        module = nn.Sequential(
            nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), block,
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        ).eval()  # fmt: skip
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                for values in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                    values.uniform_(0.5, 2)
    return module


def registered(module):
    """Names of the modules as they are registered, which is the order of running of `network`."""
    return [name for name, _ in module.named_modules()]


class Linear:
    """Score = sum of weights times pixels: the areas are known without a network."""

    batch_size = 4
    maps = None

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, images, cases):
        return (images * self.weights[cases]).sum((1, 2, 3))

    def once(self, key, function):
        return function()

    def per_map(self, key, function):
        return function(torch.arange(len(self.weights)))
