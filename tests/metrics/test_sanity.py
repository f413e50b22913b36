"""Sanity checks: similarities against scipy and scikit-image, randomization against the paper's description."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity
from small_networks import network, registered
from torch import nn

from bench.networks.running import running_order
from metrics import sanity, similarity

NAMES = ("spearman", "ssim", "hog")


def unit(values):
    values = values.astype(np.float64)
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("size", [(48, 64), (20, 31)])
def test_similarities_equal_scipy_and_skimage(maps, size):
    named = {k: v.numpy() for k, v in maps(*size).items() if k not in ("tiny", "huge")}
    described = {name: similarity.describe(values) for name, values in named.items()}
    seen = set()
    for a, one in named.items():
        for b, other in named.items():
            result = similarity.compare(described[a], described[b])
            if a in ("zero", "constant"):
                assert all(value == 1 for value in result.values())
                continue
            if b in ("zero", "constant"):
                assert result["spearman"] == result["hog"] == 0 and result["ssim"] < 1
                continue
            if a == b:
                assert list(result.values()) == [1, 1, 1]
                continue
            assert result["spearman"] == pytest.approx(
                scipy.stats.spearmanr(one, other, axis=None).statistic, abs=1e-9
            ), (a, b)
            expected = structural_similarity(
                unit(one), unit(other), data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            assert result["ssim"] == pytest.approx(expected, abs=1e-9), (a, b)
            if size == (48, 64):
                histograms = [
                    hog(unit(x).round(6), pixels_per_cell=(16, 16), cells_per_block=(3, 3)) for x in (one, other)
                ]
                if all(np.ptp(h) for h in histograms):
                    assert result["hog"] == pytest.approx(np.corrcoef(*histograms)[0, 1], abs=1e-9), (a, b)
                    seen.add(result["hog"] > 0)
            assert result == pytest.approx(similarity.compare(described[b], described[a]))
    assert size != (48, 64) or seen == {True, False}


def test_ssim_equals_wang_s_formula_at_one_pixel():
    """An image of the window's size: the only full window is the middle's, a Gaussian of sigma 1.5."""
    random = np.random.default_rng(0)
    a, b = random.random((11, 11)), random.random((11, 11))
    a[0, 0], a[0, 1], b[0, 0], b[0, 1] = 0, 1, 0, 1
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(taps, taps) / taps.sum() ** 2
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    expected /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    found = similarity.compare(similarity.describe(a), similarity.describe(b))["ssim"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_rounding_of_the_network_decides_nothing(maps):
    """Flat parts of a map have neither an order nor an orientation."""
    random = np.random.default_rng(0)
    for name in ("cam", "two levels", "real cat (14, 14)"):
        heatmap = maps(48, 64)[name].double().numpy()
        noisy = heatmap + 1e-8 * heatmap.max() * random.standard_normal(heatmap.shape)
        result = similarity.compare(similarity.describe(heatmap), similarity.describe(noisy))
        # .978 for the first map where the noise's sign decides. Ranks of ties do change: each has an order then.
        assert result["ssim"] == pytest.approx(1, abs=1e-6) and result["hog"] > 0.99, name


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (10, 40)])
def test_small_maps(size):
    random = np.random.default_rng(0)
    one, other = (similarity.describe(random.random(size)) for _ in range(2))
    result = similarity.compare(one, other)
    if size == (1, 1):  # always constant
        assert set(result.values()) == {1}
        return
    assert math.isnan(result["ssim"]) and all(math.isfinite(v) for k, v in result.items() if k != "ssim")


def test_scale_shift_and_sign(cams):
    heatmap = cams(1, 48, 48)[0].double().numpy()
    base = similarity.describe(heatmap)
    for other in (heatmap * 1e30, heatmap * 1e-30, 3 * heatmap + 1):
        assert list(similarity.compare(base, similarity.describe(other)).values()) == pytest.approx([1] * 3, abs=1e-5)
    flipped = similarity.compare(base, similarity.describe(-heatmap))
    assert flipped["spearman"] == pytest.approx(-1) and flipped["ssim"] < 0.2
    # Oriented gradients do not know the sign: the reason why more than one similarity is shown.
    assert flipped["hog"] > 0.99
    assert similarity.compare(base, similarity.describe(heatmap.T.copy()))["spearman"] < 0.9


def test_random_maps_are_not_alike():
    random = np.random.default_rng(0)
    found = []
    for _ in range(60):
        one, other = (similarity.describe(random.random((48, 48))) for _ in range(2))
        found.append(similarity.compare(one, other)["spearman"])
    # Of n independent pairs the rank correlation has mean 0 and variance 1 / (n - 1).
    assert abs(np.mean(found)) < 3 / math.sqrt(60 * (48 * 48 - 1))


def test_stages_run_from_the_output_down():
    module = network()
    # A normalization belongs to the layer before it; what stands before all belongs to the first.
    assert sanity.cut(module, registered(module), 3) == [("7",), ("4.0", "4.1"), ("0", "1", "2")]
    assert sanity.cut(module, registered(module), 2) == [("7",), ("4.0", "4.1", "0", "1", "2")]
    assert sanity.cut(module, registered(module), 1) == [("7", "4.0", "4.1", "0", "1", "2")]
    assert sanity.cut(module, registered(module), 50) == sanity.cut(module, registered(module), 3)
    assert sanity.stage_names(module, running=registered(module), stages=3) == ["7", "4.0", "1"]
    assert sanity.stage_names(module, running=registered(module), stages=2) == ["7", "1"]
    one = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    assert sanity.cut(one, registered(one), 10) == [("1",)]
    for bad, stages in ((module, 0), (nn.ReLU(), 3)):
        with pytest.raises(ValueError, match="stages"):
            sanity.cut(bad, registered(bad), stages)


def test_randomized_is_a_copy_that_seed_and_names_fix():
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    changed = sanity.Randomized(("4.0", "4.1", "7"), 0)(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    new = changed.state_dict()
    for name, value in before.items():
        touched = name.rpartition(".")[0] in ("4.0", "4.1", "7") and not name.endswith("num_batches_tracked")
        assert torch.equal(new[name], value) != touched, name
    assert (new["4.1.weight"] == 1).all() and (new["4.1.bias"] == 0).all() and (new["7.bias"] == 0).all()
    assert (new["4.1.running_mean"] == 0).all() and (new["4.1.running_var"] == 1).all()
    again = sanity.Randomized(("7",), 0)(network()).state_dict()
    assert torch.equal(again["7.weight"], new["7.weight"])  # whatever else is random
    other = sanity.Randomized(("7",), 1)(module).state_dict()
    assert not torch.equal(other["7.weight"], new["7.weight"])
    assert sanity.Randomized(("7",), 0) == sanity.Randomized(("7",), 0)
    # Global random numbers are left alone.
    state = torch.get_rng_state()
    sanity.Randomized(("7",), 0)(module)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_are_he_normal_and_scales_stay_scales():
    layer = nn.Conv2d(64, 128, 3)
    layer.scale = nn.Parameter(torch.full((128, 1, 1), 1e-6))
    drawn = sanity.Randomized(("",), 3)(layer)
    assert drawn.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert abs(drawn.weight.mean().item()) < 3 * math.sqrt(2 / (64 * 9) / drawn.weight.numel())
    assert (drawn.bias == 0).all() and (drawn.scale == 1).all()


class Ask:
    """A toy method: squared features of the network's first convolution, or the class's gradient times input."""

    layers = ("1",)

    def __init__(self, module, batch, with_class=True):
        self.module, self.batch, self.with_class, self.asked = module, batch, with_class, []
        self.running = registered(module)

    @property
    def logits(self):
        return self.module(self.batch.images).detach()

    def __call__(self, images=None, targets=None, change=None):
        self.asked.append((targets, change))
        module = change(self.module) if change else self.module
        images = self.batch.images.clone().requires_grad_()
        if not self.with_class:
            return module[:2](images).square().sum(1).detach()
        chosen = targets or self.batch.targets
        score = sum(module(images)[i, list(group)].logsumexp(0) for i, group in enumerate(chosen))
        return (torch.autograd.grad(score, images)[0] * images).sum(1).detach()


@pytest.mark.parametrize("order", sanity.ORDERS)
def test_randomization_compares_with_the_network_stage_by_stage(make_batch, order):
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch)
    heatmaps = explain()
    result = sanity.parameter_randomization(heatmaps, batch, explain=explain, order=order, stages=3, seed=5)
    parts = sanity.cut(explain.module, explain.running, 3)
    parts = parts[::-1] if order == "bottom_up" else parts
    for i in range(3):
        names = parts[i] if order == "independent" else sum(parts[: i + 1], ())
        again = explain(change=sanity.Randomized(names, 5))
        for case in range(2):
            expected = similarity.compare(
                similarity.describe(heatmaps[case].numpy()), similarity.describe(again[case].numpy())
            )
            for name in NAMES:
                assert result[f"{name}_curve"][case, i].item() == pytest.approx(expected[name], abs=1e-6)
    for name in NAMES:
        assert torch.allclose(result[name], result[f"{name}_curve"].mean(1))
        assert (result[f"{name}_curve"] < 0.999).all()


def test_layers_that_a_map_does_not_see_leave_it_as_it_is(make_batch):
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch, with_class=False)
    heatmaps = explain()
    for order, expected in (("cascading", [1, 1, 0]), ("independent", [1, 1, 0]), ("bottom_up", [0, 0, 0])):
        result = sanity.parameter_randomization(heatmaps, batch, explain=explain, order=order, stages=3)
        assert [(result["spearman_curve"][:, i] == 1).all().item() for i in range(3)] == expected
    heatmaps[0] = 0.3
    result = sanity.parameter_randomization(heatmaps, batch, explain=explain, stages=2)
    assert all((values[0] == 1).all() and values[1].isfinite().all() for values in result.values())
    with pytest.raises(ValueError, match="order=up"):
        sanity.parameter_randomization(heatmaps, batch, explain=explain, order="up")


def test_stages_from_the_input_up_end_where_those_from_the_output_down_do():
    module = network()
    down, up = (sanity.random_parts(module, registered(module), order, 3) for order in ("cascading", "bottom_up"))
    assert up == [("0", "1", "2"), ("0", "1", "2", "4.0", "4.1"), ("0", "1", "2", "4.0", "4.1", "7")]
    assert down == [("7",), ("4.0", "4.1", "7"), up[-1]]  # equal names, so one pass for both
    assert sanity.stage_names(module, running=registered(module), stages=3, order="bottom_up") == ["1", "4.0", "7"]
    assert sanity.stage_names(module, running=registered(module), stages=2, order="bottom_up") == ["4.0", "7"]


def test_what_lies_behind_a_layer():
    running = registered(network())
    assert sanity.behind(running, ["4"]) == {"5", "6", "7"}
    assert sanity.behind(running, ["4.0"]) == {"4.1", "4.2", "5", "6", "7"}
    assert sanity.behind(running, ["1", "4"]) == sanity.behind(running, ["4", "1"]) == {"5", "6", "7"}
    assert sanity.behind(running, []) == set(running)


@pytest.mark.parametrize(
    ("layers", "stages"), [(("4.2",), [0]), (("4",), [0]), (("2",), [0, 1]), (("1", "4.1"), [0]), ((), [0, 1, 2])]
)
def test_stages_that_keep_the_explained_layer(make_batch, layers, stages):
    """Their mean; of a method without a layer all count; at the output no stage is left."""
    batch = make_batch((24, 16), n=2)
    explain = Ask(network(), batch)
    explain.layers = layers
    result = sanity.parameter_randomization(explain(), batch, explain=explain, stages=3)
    for name in NAMES:
        expected = result[f"{name}_curve"][:, stages].mean(1)
        torch.testing.assert_close(result[f"{name}_kept"], expected)
    explain.layers = ("7",)
    result = sanity.parameter_randomization(explain(), batch, explain=explain, stages=3)
    assert all(result[f"{name}_kept"].isnan().all() for name in NAMES)
    for order in ("independent", "bottom_up"):
        result = sanity.parameter_randomization(explain(), batch, explain=explain, stages=3, order=order)
        assert not [key for key in result if key.endswith("_kept")]


def test_other_classes():
    logits = torch.tensor([[1.0, 5, 3, -2], [4, 4.5, -9, 2], [0, 1, 2, 3]])
    targets, ids = [(1,), (2, 1), (3,)], ["a", "b", "c"]
    assert sanity.other_classes(logits, targets, ids, "least", 0) == [3, 3, 0]
    assert sanity.other_classes(logits, targets, ids, "second", 0) == [2, 0, 2]
    n = 3000
    drawn = sanity.other_classes(torch.zeros(n, 4), [(1,)] * n, [f"case {i}" for i in range(n)], "random", 0)
    counts = np.bincount(drawn, minlength=4)
    assert counts[1] == 0 and scipy.stats.chisquare(counts[[0, 2, 3]]).pvalue > 0.001
    # A case's class does not depend on its neighbours, but on the seed.
    assert sanity.other_classes(torch.zeros(1, 4), [(1,)], ["case 7"], "random", 0) == [drawn[7]]
    other = sanity.other_classes(torch.zeros(n, 4), [(1,)] * n, [f"case {i}" for i in range(n)], "random", 1)
    assert other != drawn
    with pytest.raises(ValueError, match="beside the target"):
        sanity.other_classes(torch.zeros(1, 2), [(0, 1)], ["a"], "least", 0)


@pytest.mark.parametrize("other", sanity.OTHERS)
def test_class_sensitivity_compares_with_the_other_class(make_batch, other):
    batch = make_batch((24, 16), n=3)
    explain = Ask(network(), batch)
    heatmaps = explain()
    result = sanity.class_sensitivity(heatmaps, batch, explain=explain, other=other)
    chosen = sanity.other_classes(explain.logits, batch.targets, batch.ids, other, 0)
    again = explain(targets=[(index,) for index in chosen])
    for i in range(3):
        expected = similarity.compare(similarity.describe(heatmaps[i].numpy()), similarity.describe(again[i].numpy()))
        for name in NAMES:
            assert result[name][i].item() == pytest.approx(expected[name], abs=1e-6)
            assert result[name][i] < 0.999
    blind = Ask(explain.module, batch, with_class=False)
    same = sanity.class_sensitivity(blind(), batch, explain=blind, other=other)
    assert all(values.tolist() == [1, 1, 1] for values in same.values())
    with pytest.raises(ValueError, match="other=worst"):
        sanity.class_sensitivity(heatmaps, batch, explain=explain, other="worst")


class Reversed(nn.Module):
    """`network` with its modules registered from the classifier to the input, under the same names."""

    def __init__(self):
        super().__init__()
        for name, part in reversed(list(network().named_children())):
            self.add_module(name, part)

    def forward(self, images):
        for name in sorted(self._modules):
            images = self._modules[name](images)
        return images


@pytest.mark.parametrize("order", sanity.ORDERS)
def test_the_order_of_registration_does_not_matter(make_batch, order):
    batch = make_batch((24, 16), n=2)
    both = []
    for module in (network(), Reversed().eval()):
        explain = Ask(module, batch)
        explain.running = running_order("toy", module, (3, 24, 16))
        both.append(sanity.parameter_randomization(explain(), batch, explain=explain, order=order, stages=3))
        names = sanity.stage_names(module, running=explain.running, stages=3, order=order)
        assert names == (["1", "4.0", "7"] if order == "bottom_up" else ["7", "4.0", "1"])
    assert all(torch.equal(both[0][key], both[1][key]) for key in both[0])


def test_of_several_runs_the_last_is_behind_a_layer():
    running = ["", "stem", "act", "block", "act", "head", "stem"]
    assert sanity.behind(running, ["act"]) == {"head"}
    assert sanity.behind(running, ["stem"]) == set()
    assert sanity.behind(running, ["block"]) == {"head"}
    parts = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("stem", "block", "head")})
    assert sanity.cut(parts, ["", "stem", "block", "head", "stem"], 3) == [("stem",), ("head",), ("block",)]
