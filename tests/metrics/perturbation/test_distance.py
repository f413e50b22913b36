"""Distance of a baseline in the network's features: plain loops, a picture equal to its baseline, growing holes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from metrics.baselines import baseline_images
from metrics.perturbation.distance import baseline_distance
from metrics.perturbation.filling import inpaint
from metrics.ranking import generator

PLAIN = ("zero", "black", "mean", "blur", "noise", "minimum")


class Explain:
    """A network's features at two of its layers, as the runner gives them; counts the images it looks at."""

    layers = ("squares", "whole")

    def __init__(self, network, batch):
        self.network, self.batch, self.images = network, batch, 0

    def features(self, images=None):
        self.images += 0 if images is None else len(images)
        acts = self.network.layers(self.batch.images if images is None else images).detach().double()
        return {"squares": acts.square().mean(2), "whole": acts.mean(2), "other": acts[:, :, 0]}


def slow(network, batch, i, missing, filled):
    """Distance of one case by loops over channels and positions."""

    def features(image):
        channels = network.layers(image[None])[0].detach().double().tolist()
        means = [math.fsum(values) / len(values) for values in channels]
        return [math.fsum(v * v for v in values) / len(values) for values in channels] + means

    image = batch.images[i].clone()
    for y, x in np.argwhere(missing).tolist():
        image[:, y, x] = filled[:, y, x]
    before, after = features(batch.images[i]), features(image)
    apart = math.fsum((a - b) ** 2 for a, b in zip(after, before, strict=True))
    return math.sqrt(apart / math.fsum(b * b for b in before))


def holes(size, cell, share, case, seed):
    """Cells in the order of random numbers of the seed and the case; a share of them is gone."""
    rows, columns = (math.ceil(side / cell) for side in size)
    drawn = torch.rand(1, rows * columns, generator=generator(f"sets:{seed}:{case}"))[0]
    order = np.argsort(drawn.numpy(), kind="stable")
    gone = set(order[: min(max(1, round(share * rows * columns)), rows * columns - 1)].tolist())
    return np.array([[(y // cell) * columns + x // cell in gone for x in range(size[1])] for y in range(size[0])])


@pytest.mark.parametrize(("size", "cell", "share"), [((9, 12), 4, 0.5), ((10, 7), 3, 0.2)])
@pytest.mark.parametrize("baseline", [*PLAIN, "imputation", "inpainting"])
def test_equal_to_plain_loops(make_batch, make_scorer, network, solved, size, cell, share, baseline):
    batch, double = make_batch(size, n=3), network.double()
    batch.images, batch.black = batch.images.double(), batch.black.double()
    explain, options = Explain(double, batch), {"share": share, "cell": cell, "baseline": baseline, "seed": 3}
    score = make_scorer(double, batch.targets)
    measured = baseline_distance(torch.zeros(3, *size), batch, score=score, explain=explain, **options)["distance"]
    for i, case in enumerate(batch.ids):
        missing = holes(size, cell, share, case, 3)
        if baseline == "imputation":
            grain = baseline_images(batch, "noise", seed=3)[i].numpy()
            filled = torch.from_numpy(solved(batch.images[i].numpy(), missing) + 0.01 * grain * missing)
        elif baseline == "inpainting":
            filled = inpaint(batch.images[i : i + 1], torch.from_numpy(missing)[None])[0]
        else:
            filled = baseline_images(batch, baseline, seed=3)[i]
        expected = slow(double, batch, i, missing, filled)
        assert measured[i].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert expected > 0.001


def test_a_picture_that_is_its_baseline_already_does_not_move(make_batch, make_scorer, network):
    batch = make_batch((8, 8), n=2)
    batch.images = batch.black.view(1, 3, 1, 1).expand(2, 3, 8, 8).contiguous()
    for baseline, moves in (("black", False), ("mean", False), ("zero", True)):
        score, explain = make_scorer(network, batch.targets), Explain(network, batch)
        options = {"score": score, "explain": explain, "cell": 2, "baseline": baseline}
        distance = baseline_distance(torch.zeros(2, 8, 8), batch, **options)["distance"]
        assert torch.equal(distance > 1e-5, torch.full((2,), moves)), baseline


class Brightness:
    """Features that are linear in the picture: the mean of each channel."""

    layers = ("mean",)

    def __init__(self, batch):
        self.batch = batch

    def features(self, images=None):
        return {"mean": (self.batch.images if images is None else images).double().flatten(2).mean(2)}


def test_the_distance_is_the_share_that_is_gone_and_grows_with_it(make_batch, make_scorer):
    """Of a picture of one colour, with brightness as the feature, zero takes away just the share of its cells."""
    batch = make_batch((8, 8), n=3)
    batch.images = torch.ones(3, 3, 8, 8)
    score, explain = make_scorer(None, batch.targets), Brightness(batch)
    shares = (0.125, 0.25, 0.5, 0.875)
    columns = [
        baseline_distance(torch.zeros(3, 8, 8), batch, score=score, explain=explain, share=share, cell=2)["distance"]
        for share in shares
    ]
    for share, column in zip(shares, columns, strict=True):
        assert column.tolist() == pytest.approx([share] * 3, abs=1e-6)


def test_all_methods_and_layers_share_one_pass_and_no_map_counts(make_batch, make_scorer, network):
    batch = make_batch((8, 6), n=2)
    score, explain = make_scorer(network, batch.targets), Explain(network, batch)
    options = {"score": score, "explain": explain, "cell": 2}
    first = baseline_distance(torch.zeros(2, 8, 6), batch, **options)["distance"]
    assert torch.equal(baseline_distance(torch.rand(2, 8, 6), batch, **options)["distance"], first)
    explain.layers = ("other",)
    assert not torch.equal(baseline_distance(torch.zeros(2, 8, 6), batch, **options)["distance"], first)
    assert explain.images == 2
    explain.layers = ()
    assert baseline_distance(torch.zeros(2, 8, 6), batch, **options)["distance"].isnan().all()


def test_what_does_not_fit_is_refused(make_batch, make_scorer, network):
    batch = make_batch((8, 6), n=1)
    for wrong, message in (
        ({"share": 0.0}, "share=0.0"),
        ({"share": 1.0}, "share=1.0"),
        ({"cell": 0}, "cell=0"),
        ({"baseline": "white"}, "unknown baseline"),
    ):
        options = {"score": make_scorer(network, batch.targets), "explain": Explain(network, batch), **wrong}
        with pytest.raises(ValueError, match=message):
            baseline_distance(torch.zeros(1, 8, 6), batch, **options)
    batch.images = torch.zeros(1, 3, 4, 8, 6)
    options["explain"], options["baseline"] = Explain(network, batch), "imputation"
    with pytest.raises(ValueError, match="not for volumes"):
        baseline_distance(torch.zeros(1, 4, 8, 6), batch, **options)
