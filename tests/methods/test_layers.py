"""Maps that several layers make together, against plain loops in float64."""

from __future__ import annotations

import multipass as helpers
import numpy as np
import pytest
import torch
from torch import nn

from methods.layers.several import winsor_cam, winsorized

SIZES = {1: (24,), 2: (12, 18), 3: (6, 8, 10)}
TARGETS = [(1,), (0, 3)]


def deep(rank: int, *, inplace: bool = False) -> nn.Sequential:
    """Five convolutions, the second of which halves the picture; float64, seeded."""
    torch.manual_seed(3)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    layers: list[nn.Module] = []
    for before, after, stride in ((2, 3, 1), (3, 4, 2), (4, 4, 1), (4, 5, 1), (5, 6, 1)):
        layers += [convolution(before, after, 3, stride=stride, padding=1), nn.ReLU(inplace=inplace)]
    network = nn.Sequential(*layers, nn.Flatten(2), Mean(), nn.Linear(6, 5)).double().eval()
    network[-1].weight.data.abs_()  # so that the importance of most layers is positive
    return network


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(2)


def pictures(rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(2, 2, *SIZES[rank], dtype=torch.float64, generator=generator)


def logits_of(network: nn.Module):
    return lambda images, _cases: network(images)


def layer_by_layer(network: nn.Sequential, image: torch.Tensor, target: tuple[int, ...]) -> list[tuple]:
    """Output of each convolution for one picture, and the gradient of the score there."""
    found = []
    for index, part in enumerate(network):
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            output = network[: index + 1](image[None]).detach().requires_grad_()
            helpers.logit(network[index + 1 :](output)[0], target).backward()
            found.append((output.detach()[0].numpy(), output.grad[0].numpy()))
    return found


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("percentile", [0, 30, 90, 100])
def test_winsor_cam_weights_layers_by_their_winsorized_importance(rank: int, percentile: float) -> None:
    network, images = deep(rank), pictures(rank)
    ours = winsor_cam(images, TARGETS, logits=logits_of(network), percentile=percentile)
    for n, target in enumerate(TARGETS):
        maps, importance = [], []
        for acts, grads in layer_by_layer(network, images[n], target):
            means = [channel.mean() for channel in grads]
            coarse = np.maximum(sum(mean * channel for mean, channel in zip(means, acts, strict=True)), 0)
            maps.append(helpers.upsampled(helpers.stretched(coarse), SIZES[rank], False))
            importance.append(max(np.mean(means), 0))
        used = [value for value in importance if value > 0]
        assert 1 < len(used)
        cut = [min(value, np.percentile(used, percentile)) for value in used]
        expected = np.zeros(SIZES[rank])
        for one, value in zip(maps, importance, strict=True):
            if value > 0:
                capped = min(value, np.percentile(used, percentile))
                share = (capped - min(cut)) / (max(cut) - min(cut)) if max(cut) > min(cut) else 1
                expected += (0.1 + 0.9 * share) * one
        np.testing.assert_allclose(ours[n].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_winsorized_weights_by_hand() -> None:
    importance = torch.tensor([-1.0, 1, 2, 3, 0, 9], dtype=torch.float64)
    # the median of 1, 2, 3, 9 is 2.5: 1, 2, 2.5, 2.5 are left, which 0.1 .. 1 covers
    expected = torch.tensor([0, 0.1, 0.7, 1, 0, 1], dtype=torch.float64)
    torch.testing.assert_close(winsorized(importance, 50), expected)
    assert winsorized(importance, 0).tolist() == [0, 1, 1, 1, 0, 1]
    torch.testing.assert_close(
        winsorized(importance, 100)[[1, 2, 3, 5]], 0.1 + 0.9 * importance[[1, 2, 3, 5]].sub(1) / 8
    )
    assert winsorized(torch.tensor([-1.0, 0]), 50).tolist() == [0, 0]


def test_winsor_cam_sees_a_convolution_before_what_is_written_into_its_output() -> None:
    images = pictures(2)
    maps = [winsor_cam(images, TARGETS, logits=logits_of(deep(2, inplace=inplace))) for inplace in (False, True)]
    torch.testing.assert_close(maps[1], maps[0])


def test_winsor_cam_mirrors_with_the_picture_and_its_network() -> None:
    network, images = deep(2), torch.cat([pictures(2)[..., :17]], 3)  # odd: a stride of 2 takes the same places
    mirrored = deep(2)
    for part in mirrored:
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.flip(3)
    heatmap = winsor_cam(images, TARGETS, logits=logits_of(network))
    assert heatmap.any()
    torch.testing.assert_close(winsor_cam(images.flip(3), TARGETS, logits=logits_of(mirrored)), heatmap.flip(2))


def test_winsor_cam_takes_no_rounding_for_importance() -> None:
    """Before a layer norm the gradients cancel: their mean is rounding, of which half would be positive."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.GroupNorm(1, 4, affine=False), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 5),
    )  # fmt: skip
    network[5].weight.data.abs_()
    images = torch.randn(40, 2, 9, 9)
    heatmap = winsor_cam(images, [(1,)] * 40, logits=logits_of(network))
    last = network[:3](images)
    alone = (last * network[5].weight[1].view(4, 1, 1)).sum(1).relu().detach()
    low, high = alone.amin((1, 2), keepdim=True), alone.amax((1, 2), keepdim=True)
    second = nn.functional.interpolate(((alone - low) / (high - low))[:, None], (9, 9), mode="bilinear")[:, 0]
    torch.testing.assert_close(heatmap, second, rtol=1e-4, atol=1e-5)  # with the first one's it would be another


@pytest.mark.parametrize(
    ("percentile", "words"), [(-1, "percentile=-1 must be at least 0"), (101, "percentile=101 must be at most 100")]
)
def test_winsor_cam_refuses_a_percentile_that_is_none(percentile: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        winsor_cam(pictures(2), TARGETS, logits=logits_of(deep(2)), percentile=percentile)


def test_winsor_cam_refuses_a_network_of_one_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    with pytest.raises(ValueError, match="two convolutions or more, and this one has 1"):
        winsor_cam(pictures(2), TARGETS, logits=logits_of(network))
