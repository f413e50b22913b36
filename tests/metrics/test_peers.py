"""The same maps through other packages, where their protocol is the same; and where they are wrong, how.

Needs the peers: pytorch-grad-cam 1.5.7 (grad-cam), torchcam 0.5.0, quantus 0.6.0, captum (of the test extra).
"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from metrics import (
    baselines,
    coverage,
    faithfulness,
    masking,
    pointing,
    road,
    sanity,
    sensitivity,
)

CLASSES = [0, 1, 2, 0]
SIZE = (20, 20)


@pytest.fixture
def batch(make_batch):
    batch = make_batch(SIZE, [[[3, 4, 12, 11]]] * 4)
    batch.targets = [(c,) for c in CLASSES]
    return batch


@pytest.fixture
def heatmaps(maps):
    """Real maps without ties, since peers break ties in another order; 0 to 1, as peers expect them."""
    real = torch.stack([m for name, m in maps(*SIZE).items() if name.startswith("real")])
    grain = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    heatmaps = masking.unit_range(real / real.amax((1, 2), keepdim=True) + 1e-3 * grain)
    assert len(heatmaps) == 4 and all(len(m.unique()) == m.numel() for m in heatmaps)
    return heatmaps


class Extractor:
    """torchcam's extractor, with maps that are given."""

    def __init__(self, model, heatmaps):
        self.model, self.heatmaps = model, heatmaps

    def __call__(self, class_idx=None, scores=None, **_):
        return [self.heatmaps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize(("ours", "theirs"), [("zero", "zero"), ("blur", "blur"), ("mean", "mean")])
def test_torchcam_deletion_and_insertion(batch, heatmaps, make_scorer, network, ours, theirs):
    module = pytest.importorskip("torchcam.metrics")
    baseline = baselines.baseline_images(batch, ours)
    metric = module.DeletionInsertionMetric(
        Extractor(network, heatmaps), lambda logits: logits.softmax(-1), steps=20, baseline=baseline
    )
    metric.update(batch.images, CLASSES)
    summary = metric.summary()
    score = make_scorer(network, batch.targets)
    for function in (faithfulness.deletion, faithfulness.insertion):
        auc = function(heatmaps, batch, score=score, steps=20, baseline=ours)["auc"].mean().item()
        assert auc == pytest.approx(summary[f"{function.__name__}_auc"], abs=1e-4)


def test_torchcam_average_drop_and_increase(batch, heatmaps, make_scorer, network):
    module = pytest.importorskip("torchcam.metrics")
    metric = module.ClassificationMetric(Extractor(network, heatmaps), lambda logits: logits.softmax(-1))
    metric.update(batch.images, CLASSES)
    result = masking.average_drop(heatmaps, batch, score=make_scorer(network, batch.targets))
    assert result["drop"].mean().item() == pytest.approx(metric.summary()["avg_drop"], abs=1e-4)
    assert result["increase"].mean().item() == pytest.approx(metric.summary()["conf_increase"], abs=1e-4)


@pytest.fixture
def grad_cam_arguments(batch, heatmaps, network):
    module = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    targets = [module.ClassifierOutputSoftmaxTarget(c) for c in CLASSES]
    return batch.images, heatmaps.numpy(), targets, network


def test_grad_cam_drop_and_increase(grad_cam_arguments, batch, heatmaps, make_scorer, network):
    module = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    score = make_scorer(network, batch.targets)
    result = masking.average_drop(heatmaps, batch, score=score)
    # Its drop is not divided by the probability, as Grad-CAM++'s is.
    drop = module.DropInConfidence()(*grad_cam_arguments)
    assert np.allclose(result["drop"] * faithfulness.clean_score(batch, score), drop, atol=1e-4)
    assert np.array_equal(result["increase"], module.IncreaseInConfidence()(*grad_cam_arguments))


def test_grad_cam_road(grad_cam_arguments, batch, heatmaps, make_scorer, network, monkeypatch):
    module = pytest.importorskip("pytorch_grad_cam.metrics.road")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # its noise cannot be switched off otherwise
    score = make_scorer(network, batch.targets)
    result = road.road(heatmaps, batch, score=score, noise=0)
    clean = faithfulness.clean_score(batch, score)
    assert np.allclose(result["morf"] - clean, module.ROADMostRelevantFirstAverage()(*grad_cam_arguments), atol=1e-4)
    assert np.allclose(result["lerf"] - clean, module.ROADLeastRelevantFirstAverage()(*grad_cam_arguments), atol=1e-4)
    assert np.allclose(result["combined"], module.ROADCombined()(*grad_cam_arguments), atol=1e-4)


def test_grad_cam_coherency_and_arcc(grad_cam_arguments, batch, heatmaps, make_scorer, network, monkeypatch):
    module = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    images, cams, targets, _ = grad_cam_arguments

    def explain(images):
        return masking.unit_range(images.square().sum(1))

    def theirs(input_tensor, targets):
        return explain(input_tensor).numpy()

    score = make_scorer(network, batch.targets)
    assert np.allclose(masking.complexity(heatmaps, batch)["mean"], module.Complexity()(cams), atol=1e-4)
    expected = module.Coherency()(images, cams, targets, network, theirs)
    assert np.allclose(masking.coherency(heatmaps, batch, explain=explain)["coherency"], expected, atol=1e-4)
    expected = module.ARCC(theirs)(images, cams, targets, network)
    result = masking.arcc(heatmaps, batch, score=score, explain=explain, noise=0)["arcc"]
    assert np.allclose(result, expected, atol=1e-4) and result.max() > 0


@pytest.fixture
def masks(batch):
    generator = torch.Generator().manual_seed(1)
    batch.masks = batch.original_masks = [torch.rand(1, *SIZE, generator=generator) < 0.3 for _ in CLASSES]
    return torch.stack(batch.masks).numpy()


def quantus_metric(name, **options):
    quantus = pytest.importorskip("quantus")
    return getattr(quantus, name)(disable_warnings=True, display_progressbar=False, **options)


@pytest.mark.parametrize(
    ("output", "name", "options"),
    [
        ("mass", "RelevanceMassAccuracy", {}),
        ("rank", "RelevanceRankAccuracy", {}),
        ("top_k", "TopKIntersection", {"k": 50}),
    ],
)
def test_quantus_relevance(batch, heatmaps, masks, output, name, options):
    expected = quantus_metric(name, **options).evaluate_batch(a_batch=heatmaps[:, None].numpy(), s_batch=masks)
    assert np.allclose(coverage.relevance(heatmaps, batch, k=50)[output], expected, atol=1e-4)


def test_quantus_pointing_game(batch, heatmaps, masks):
    # On masks, and with a tolerance that allows the pixel itself only.
    for i, (row, column) in enumerate(map(lambda h: divmod(int(h.argmax()), SIZE[1]), heatmaps)):
        masks[i, 0, row, column] = i % 2
        batch.original_masks[i][0, row, column] = bool(i % 2)
    metric = quantus_metric("PointingGame")
    expected = metric.evaluate_batch(a_batch=heatmaps[:, None].numpy(), s_batch=masks)
    ours = pointing.pointing_game(heatmaps, batch, tolerance=1)["hit"]
    assert ours.tolist() == [0, 1, 0, 1] == [float(e) for e in expected]
    # Quantus writes NaN into booleans, so that an empty mask becomes a hit; here it is a miss.
    empty = np.zeros_like(masks)
    assert all(metric.evaluate_batch(a_batch=heatmaps[:, None].numpy(), s_batch=empty))
    batch.original_masks = list(torch.from_numpy(empty))
    assert pointing.pointing_game(heatmaps, batch)["hit"].tolist() == [0, 0, 0, 0]


def test_quantus_sparseness_and_complexity(batch, heatmaps):
    images = batch.images.numpy()
    gini = quantus_metric("Sparseness").evaluate_batch(x_batch=images, a_batch=heatmaps.numpy().copy())
    assert np.allclose(masking.sparseness(heatmaps, batch)["gini"], gini, atol=1e-4)
    entropy = quantus_metric("Complexity").evaluate_batch(x_batch=images, a_batch=heatmaps.numpy().copy())
    assert np.allclose(masking.complexity(heatmaps, batch)["entropy"], entropy, atol=1e-4)


def test_quantus_deletion_crashes_on_numpy_2(batch, heatmaps, network):
    """Its PixelFlipping takes areas with np.trapz, which numpy 2.4 no longer has; ours are compared with torchcam's."""
    utils = pytest.importorskip("quantus.helpers.utils")
    if hasattr(np, "trapz"):
        assert utils.calculate_auc(np.array([1.0, 0.0])) == 0.5
        return
    with pytest.raises(AttributeError, match="trapz"):
        utils.calculate_auc(np.array([1.0, 0.0]))


def test_quantus_random_logit(batch, heatmaps, network):
    """Its random logit test with the same other class and structural similarity: gradient times input explained."""
    pytest.importorskip("quantus")

    def attribute(images, targets):
        images = images.clone().requires_grad_()
        score = sum(network(images)[i, int(c)] for i, c in enumerate(targets))
        return (torch.autograd.grad(score, images)[0] * images).sum(1).detach()

    class Explain:
        logits = network(batch.images).detach()

        def __call__(self, targets):
            return attribute(batch.images, [c for (c,) in targets])

    ours = attribute(batch.images, CLASSES)
    result = sanity.class_sensitivity(ours, batch, explain=Explain(), other="random")["spearman"]
    chosen = sanity.other_classes(Explain.logits, batch.targets, batch.ids, "random", 0)
    from quantus.functions.similarity_func import correlation_spearman

    other = attribute(batch.images, chosen)
    for i in range(len(ours)):
        theirs = correlation_spearman(ours[i].flatten().numpy(), other[i].flatten().numpy())
        assert result[i].item() == pytest.approx(theirs, abs=1e-4)


def softmax(network):
    return lambda images: network(images).softmax(1)


def test_captum_feature_ablation_is_the_first_step_of_deletion(batch, network, make_scorer):
    """What captum says a quarter of the image is worth is what deletion loses when a map marks that quarter first."""
    attr = pytest.importorskip("captum.attr")
    quarters = (torch.arange(SIZE[0]) // 10)[:, None] * 2 + torch.arange(SIZE[1]) // 10
    worth = attr.FeatureAblation(softmax(network)).attribute(
        batch.images, baselines=0, target=CLASSES, feature_mask=quarters[None, None]
    )
    seen = []
    for quarter in range(4):
        marked = (quarters == quarter).float().expand(len(CLASSES), *SIZE)
        result = faithfulness.deletion(marked, batch, score=make_scorer(network, batch.targets), steps=4)
        lost = result["curve"][:, 0] - result["curve"][:, 1]
        row, column = np.argwhere(quarters.numpy() == quarter)[0]
        assert np.allclose(lost, worth[:, 0, row, column].detach(), atol=1e-4)
        seen += lost.tolist()
    assert max(np.abs(seen)) > 0.01


def test_captum_infidelity_has_the_sums_and_drops_of_sensitivity_n(batch, heatmaps, network, make_scorer):
    """captum's infidelity is the mean square of the difference between the two things that sensitivity-n correlates."""
    metrics = pytest.importorskip("captum.metrics")
    score = make_scorer(network, batch.targets)
    result = sensitivity.sensitivity_n(heatmaps, batch, score=score, subsets=12, cell=5)["correlation"]
    ((drawn, drops),) = (kept for key, kept in score.shared.items() if key[0] == "sensitivity_n")
    cells = (torch.arange(SIZE[0]) // 5)[:, None] * 4 + torch.arange(SIZE[1]) // 5
    sets = drawn[:, :, cells].float()
    for i, heatmap in enumerate(heatmaps):
        image, numbers = batch.images[i : i + 1], iter(range(12))

        def perturb(inputs, i=i, numbers=numbers):
            gone = torch.stack([sets[i, next(numbers)] for _ in inputs])[:, None].expand_as(inputs)
            return gone, inputs * (1 - gone)

        # A third in each channel, so that the sum over a set is the map's.
        attributions = (heatmap / 3).expand_as(image)
        found = metrics.infidelity(softmax(network), perturb, image, attributions, target=CLASSES[i],
                                   n_perturb_samples=12, max_examples_per_batch=1)  # fmt: skip
        sums = (sets[i] * heatmap).sum((1, 2))
        assert found.item() == pytest.approx((sums - drops[i]).square().mean().item(), abs=1e-4, rel=1e-4)
        assert result[i].item() == pytest.approx(np.corrcoef(sums, drops[i])[0, 1], abs=1e-4)
