"""Symmetric relevance gain with holes filled from what is left, against loops over steps and pixels."""

import builtins
import math

import cv2
import numpy as np
import pytest
import torch

from metrics import baselines
from metrics.perturbation import curves, filling


def telea(image, missing):
    """OpenCV's picture of 8 bits, scaled by the image's own range, channel order as it is."""
    low, high = image.min(), image.max()
    picture = np.rint((image - low) / (high - low) * 255).astype(np.uint8).transpose(1, 2, 0)
    painted = cv2.inpaint(np.ascontiguousarray(picture), missing.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    result = image.copy()
    result[:, missing] = painted.transpose(2, 0, 1)[:, missing] / 255 * (high - low) + low
    return result


@pytest.mark.parametrize(("size", "steps"), [((9, 8), 4), ((6, 7), 5)])
@pytest.mark.parametrize("fill", ["imputation", "inpainting"])
def test_equals_a_loop_over_steps(scene, sequence, solved, size, steps, fill):
    s = scene(size)
    result = curves.symmetric_relevance_gain(s.maps, s.batch, score=s.scorer(), steps=steps, baseline=fill)
    grain = baselines.baseline_images(s.batch, "noise").numpy()
    for i, name in enumerate(s.names):
        image, places = s.batch.images[i].numpy(), sequence(s.maps[i], s.batch.ids[i])

        def probability(gone, i=i, image=image):
            missing = np.zeros(size, dtype=bool)
            for y, x in gone:
                missing[y, x] = True
            if missing.all():
                filled = np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)
            elif fill == "imputation":
                filled = solved(image, missing) + 0.01 * grain[i] * missing
            else:
                filled = telea(image, missing)
            return s.probability(i, torch.from_numpy(filled.copy()))

        total = len(places)
        most = [probability(places[: math.floor(step * total / steps)]) for step in range(steps + 1)]
        least = [probability(places[math.floor((steps - step) * total / steps) :]) for step in range(steps + 1)]
        assert np.allclose(result["most_curve"][i], most, atol=1e-6, rtol=0), name
        assert np.allclose(result["least_curve"][i], least, atol=1e-6, rtol=0), name
        gone = [math.floor(step * total / steps) / total for step in range(steps + 1)]
        left = [1 - math.floor((steps - step) * total / steps) / total for step in range(steps + 1)]
        areas = np.trapezoid(least, left), np.trapezoid(most, gone)
        assert result["least"][i].item() == pytest.approx(areas[0], abs=1e-6), name
        assert result["gain"][i].item() == pytest.approx(areas[0] - areas[1], abs=1e-6), name
    assert result["gain"].std() > 1e-3


def test_both_curves_have_the_same_ends_and_maps_are_scored_once(make_batch, make_scorer, network, cams):
    batch, heatmaps, steps = make_batch((8, 6), n=2), cams(2, 8, 6), 4
    for fill in filling.FILLS:
        score = make_scorer(network, batch.targets)
        score.maps = ["a", "b"]
        result = curves.symmetric_relevance_gain(heatmaps, batch, score=score, steps=steps, baseline=fill)
        assert score.images == 2 * 2 + 2 * 2 * (steps - 1)
        for end in (0, -1):
            assert torch.equal(result["most_curve"][:, end], result["least_curve"][:, end])
        score.maps = ["a", "c"]
        other = torch.stack([3 * heatmaps[0], heatmaps[0]])
        again = curves.symmetric_relevance_gain(other, batch, score=score, steps=steps, baseline=fill)
        assert score.images == 2 * 2 + 3 * 2 * (steps - 1) and again["gain"][0] == result["gain"][0]


def test_more_steps_than_positions(make_batch, make_scorer, network):
    """Points at which nothing or everything is missing."""
    batch = make_batch((1, 2), n=1)
    for fill in filling.FILLS:
        score = make_scorer(network, batch.targets)
        result = curves.symmetric_relevance_gain(torch.tensor([[[2.0, 1]]]), batch, score=score, steps=5, baseline=fill)
        assert all(values.isfinite().all() for values in result.values())
        assert result["least_curve"][0, 0] == result["most_curve"][0, 1]


def test_inpainting_keeps_what_is_known_and_invents_no_colour(make_batch):
    images = make_batch((12, 15), n=3).images
    images[2] = 0.7
    missing = torch.zeros(3, 12, 15, dtype=torch.bool)
    missing[:, 3:8, 4:11] = True
    painted = filling.inpaint(images, missing)
    assert torch.equal(torch.where(missing[:, None], 0, painted), torch.where(missing[:, None], 0, images))
    assert torch.allclose(painted[2], images[2], atol=1e-6)
    step = (images[:2].amax((1, 2, 3)) - images[:2].amin((1, 2, 3))).max() / 255
    assert (painted[:2].amax((1, 2, 3)) <= images[:2].amax((1, 2, 3)) + step).all()
    grey = filling.inpaint(images[:, :1], missing)
    assert grey.shape == (3, 1, 12, 15) and not torch.equal(grey[0], images[0, :1])
    assert torch.equal(filling.inpaint(images, missing & False), images)
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        filling.inpaint(torch.rand(1, 4, 5, 5), missing[:1, :5, :5])


def test_without_opencv(scene, monkeypatch):
    s, load = scene((3, 4)), builtins.__import__

    def refuse(name, *rest):
        if name == "cv2":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match="inpainting needs OpenCV: pip install"):
        curves.symmetric_relevance_gain(s.maps, s.batch, score=s.scorer(), steps=2, baseline="inpainting")
    with pytest.raises(ValueError, match="unknown fill 'grey'"):
        filling.filled_curves(s.maps, s.batch, s.scorer(), 2, "grey")


@pytest.mark.parametrize("fill", ["imputation", "inpainting"])
def test_volumes_are_refused_before_any_work(make_batch, make_scorer, network, fill):
    """Two volumes of three slices, so that no axis can be taken for another by its length."""
    batch = make_batch((4, 5), n=2)
    batch.images = torch.rand(2, 3, 3, 4, 5)
    with pytest.raises(ValueError, match=f"{fill} is for pictures, not for volumes"):
        filling.filled_curves(torch.rand(2, 3, 4, 5), batch, make_scorer(network, batch.targets), 2, fill)
