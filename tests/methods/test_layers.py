"""Maps that several layers make together, against plain loops in float64."""

from __future__ import annotations

import multipass as helpers
import numpy as np
import pytest
import torch
from torch import nn

from bench.maps.heatmaps import fuse_backward
from methods.layers.several import poly_cam, winsor_cam, winsorized

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


def score_of(network: nn.Module):
    """Probability of each image's case."""

    def score(images, cases):
        chosen = [helpers.TARGETS[i] for i in cases.tolist()]
        return torch.stack([p[list(t)].sum() for p, t in zip(network(images).softmax(1), chosen, strict=True)]).detach()

    return score


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_poly_cam_weights_channels_by_their_scores_alone_and_without(rank: int) -> None:
    network, images = helpers.Network(rank), helpers.images_of(rank)
    score, size = score_of(network), images.shape[2:]
    acts = network.layer(network.norm(network.first(images))) - 0.05  # not all start at 0
    ours = poly_cam(acts, images, score=score)
    for n in range(len(images)):
        case, total = torch.tensor([n]), 0
        clean = float(score(images[n : n + 1], case))
        for channel in acts[n].numpy():
            low, high = np.percentile(channel, [0.1, 99.9])
            mask = np.clip((channel - low) / high, 0, 1) if high > 0 else np.where(channel > low, 1.0, 0)
            mask = torch.from_numpy(helpers.upsampled(mask, size, False))
            alone, without = (float(score((images[n] * part)[None], case)) for part in (mask, 1 - mask))
            total += max(0, alone + clean - without) * channel
        np.testing.assert_allclose(ours[n].numpy(), np.maximum(total, 0), rtol=1e-9, atol=1e-12)


def test_poly_cam_keeps_few_positive_positions() -> None:
    """Of 4,000 positions one is positive: its 99.9th percentile is 0, and the mask is that position."""
    acts, seen = torch.zeros(1, 1, 50, 80), []
    acts[..., 20, 30] = 3

    def score(images, cases):
        seen.append(images)
        return images.mean((1, 2, 3))

    heatmap = poly_cam(acts, torch.ones(1, 1, 50, 80), score=score)
    assert torch.equal(seen[1][0, 0], acts[0, 0] / 3) and torch.equal(seen[2][0, 0], 1 - acts[0, 0] / 3)
    assert heatmap[0, 20, 30] > 0 and (heatmap > 0).sum() == 1


@pytest.mark.parametrize("sizes", [[(12,), (5,), (4,)], [(12, 18), (6, 9), (3, 4)], [(6, 8, 10), (3, 4, 5)]])
def test_backward_refinement_takes_each_layers_share_of_its_surroundings(sizes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, *size, generator=generator, dtype=torch.float64) for size in sizes]
    ours = fuse_backward(maps)
    for n in range(2):
        refined = maps[-1][n].numpy()
        for earlier in reversed(maps[:-1]):
            own = earlier[n].numpy()
            coarse = helpers.upsampled(own, refined.shape, False)
            refined = own / helpers.upsampled(coarse, own.shape, False) * helpers.upsampled(refined, own.shape, False)
        np.testing.assert_allclose(ours[n].numpy(), refined, rtol=1e-9)


def test_backward_refinement_neither_invents_nor_divides_by_nothing() -> None:
    late = torch.rand(1, 3, 4, dtype=torch.float64)
    even = fuse_backward([torch.full((1, 6, 8), 7.0, dtype=torch.float64), late])
    plain = nn.functional.interpolate(late[None], (6, 8), mode="bilinear")[0]
    torch.testing.assert_close(even, plain)  # a layer that shows no differences changes nothing
    early = torch.rand(1, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(fuse_backward([early * 1e6, late]), fuse_backward([early, late]))
    torch.testing.assert_close(fuse_backward([early.flip(2), late.flip(2)]), fuse_backward([early, late]).flip(2))
    assert not fuse_backward([torch.zeros(1, 6, 8), late.float()]).any()
    assert not fuse_backward([early, torch.zeros_like(late)]).any()
    alone = torch.zeros(1, 12, 16)
    alone[0, 0, 0] = 1  # between the places that a fourfold reduction looks at
    assert fuse_backward([alone, late.float()]).isfinite().all()
