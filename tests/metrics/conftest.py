"""A fake batch, a fake scorer, adversarial maps and real maps for the metrics' tests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from skimage.transform import resize

from bench.maps.capture import capture
from bench.networks.sources import efficientnet_lite


@pytest.fixture
def make_batch():
    """``make_batch(size=(H, W), boxes=[[...], ...])``: what the metrics read of a Batch; images are smooth noise."""

    def build(size, boxes=None, n=None, channels=3, seed=0, to_input=(1.0, 1.0, 0.0, 0.0), masks=None, difficult=None):
        n = n or (1 if boxes is None else len(boxes))
        generator = torch.Generator().manual_seed(seed)
        boxes = [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in (boxes or [[]] * n)]
        scale_x, scale_y, shift_x, shift_y = to_input
        shift, scale = torch.tensor([shift_x, shift_y] * 2), torch.tensor([scale_x, scale_y] * 2)
        return SimpleNamespace(
            images=torch.randn(n, channels, *size, generator=generator) + 0.3,
            ids=[f"case {i}" for i in range(n)],
            image_ids=[f"image {i}" for i in range(n)],
            class_names=["cat"] * n,
            targets=[(i % 3,) for i in range(n)],
            boxes=boxes,
            other_boxes=[torch.zeros(0, 4)] * n,
            masks=masks or [None] * n,
            original_boxes=[(b - shift) / scale for b in boxes],
            original_masks=masks or [None] * n,
            difficult=[torch.zeros(len(b), dtype=torch.bool) for b in boxes] if difficult is None else difficult,
            sizes=[size] * n,
            to_input=[to_input] * n,
            black=torch.tensor([-2.1, -2.0, -1.8])[:channels],
            ignore=[torch.zeros(0, 4)] * n,
            distractors=[True] * n,
            parts=[torch.tensor([[0.0, 0, 4, 3], [size[1] / 2, 0, size[1], 4], [0, size[0] / 2, 5, size[0]]])] * n,
            values=[torch.tensor([1.0, 0, -1])] * n,
            predicted=[0] * n,
        )

    return build


class Scorer:
    """Probability of each case's class, the slow way: one image at a time; counts the images it was given."""

    batch_size = 4
    maps = None

    def __init__(self, network, targets):
        self.network, self.targets, self.images, self.shared = network, targets, 0, {}

    def __call__(self, images, cases):
        self.images += len(images)
        with torch.no_grad():
            logits = torch.cat([self.network(image[None]) for image in images])
        probability = logits.softmax(1)
        return torch.stack([probability[i, list(self.targets[c])].sum() for i, c in enumerate(cases.tolist())])

    def logit(self, images, cases):
        with torch.no_grad():
            logits = torch.cat([self.network(image[None]) for image in images])
        return torch.stack([logits[i, list(self.targets[c])].logsumexp(0) for i, c in enumerate(cases.tolist())])

    def with_top(self, images, cases):
        with torch.no_grad():
            top = [self.network(image[None]).argmax().item() for image in images]
        values = self(images, cases)
        right = [t in self.targets[c] for t, c in zip(top, cases.tolist(), strict=True)]
        return torch.stack([values, torch.tensor(right).to(values)], 1)

    def per_map(self, key, function):
        """The first case of each map computes, one case at a time; the others take its result."""
        if self.maps is None:
            return function(torch.arange(len(self.targets)))
        for case, identity in enumerate(self.maps):
            if (key, case, identity) not in self.shared:
                self.shared[key, case, identity] = function(torch.tensor([case]))[0]
        return torch.stack([self.shared[key, case, identity] for case, identity in enumerate(self.maps)])

    def once(self, key, function):
        if key not in self.shared:
            self.shared[key] = function()
        return self.shared[key]


@pytest.fixture
def make_scorer():
    return Scorer


@pytest.fixture
def network():
    """A small real convolutional network with 3 outputs that tell images apart."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 5, padding=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(2),
        )

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers
            with torch.random.fork_rng():
                torch.manual_seed(4)
                self.head = torch.nn.Linear(16, 3)

        def forward(self, x):
            features = self.layers(x)
            return 6 * self.head(torch.cat([features.mean(2), features.amax(2)], 1))

    return Net().eval()


def smooth(n, height, width, seed=0):
    """Upsampled and rectified low-resolution noise, as a CAM looks: about half of it is exactly 0."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(n, 1, 4, 5, generator=generator).clamp(min=0)
    return torch.nn.functional.interpolate(low, (height, width), mode="bilinear", align_corners=False)[:, 0]


def adversarial_maps(height, width):
    """Name -> map (H, W)."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    one = torch.zeros(height, width)
    one[-1, -1] = 1
    return {
        "zero": torch.zeros(height, width),
        "constant": torch.full((height, width), 0.3),
        "one pixel": one,
        "checkerboard": ((rows + columns) % 2).float(),
        "two levels": (columns < (width + 1) // 2).float().expand(height, width).clone(),
        "negative": -smooth(1, height, width)[0] - 1,
        "mixed signs": torch.randn(height, width, generator=torch.Generator().manual_seed(1)),
        "tiny": smooth(1, height, width)[0] * 1e-30,
        "huge": smooth(1, height, width)[0] * 1e37,
        "cam": smooth(1, height, width, seed=2)[0],
    }


@pytest.fixture(scope="session")
def native_maps():
    """Name -> Layer-CAM of efficientnet_lite0 on scikit-image's photos, at the layers' own size."""
    layers = ["blocks.6.0.bn2.act", "blocks.4.0.bn2.act"]
    model = efficientnet_lite(name="efficientnet_lite0", weights="default", layers=layers, size=224, resize=256)
    photos = [
        resize(photo, (224, 224), anti_aliasing=True) for photo in (skimage.data.chelsea(), skimage.data.coffee())
    ]
    images = (torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).float() - 127 / 255) / (128 / 255)
    captured = capture(model.module, images, [(281, 282, 285), (504, 967, 968)], layers)
    named = {}
    for layer in captured.layers.values():
        for subject, native in zip(("cat", "cup"), (layer.grads.clamp(min=0) * layer.acts).sum(1), strict=True):
            named[f"real {subject} {tuple(native.shape)}"] = native.detach()
    assert all(native.max() > 0 for native in named.values())
    return named


@pytest.fixture
def maps(native_maps):
    """``maps(H, W)``: dictionary of adversarial and of real maps."""

    def build(height, width):
        real = {
            name: torch.nn.functional.interpolate(
                native[None, None], (height, width), mode="bilinear", align_corners=False
            )[0, 0]
            for name, native in native_maps.items()
        }
        return adversarial_maps(height, width) | real

    return build


@pytest.fixture
def cams():
    """``cams(n, H, W, seed=0)``: maps that look like a CAM."""
    return smooth
