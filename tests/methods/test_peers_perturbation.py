"""Methods with more passes against pytorch-grad-cam 1.5.7 and torchcam 0.5.0, end to end: their hooks, their passes.

Compared at the layer's own size, stretched to 0 .. 1.
"""

from __future__ import annotations

import multipass as helpers
import numpy as np
import pytest
import torch

from methods import multipass_gradient, perturbation
from methods.common import minmax

EARLY, TARGET = "blocks.0.0.bn1.act", 281  # 32 channels: their loops take a pass a channel


def shown(maps, relu: bool = True):
    maps = torch.as_tensor(np.asarray(maps)).double()
    return minmax(maps.relu() if relu else maps)


def agree(ours, theirs) -> None:
    torch.testing.assert_close(shown(ours), shown(theirs), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def jacobgil():
    return pytest.importorskip("pytorch_grad_cam")


@pytest.fixture(scope="module")
def torchcam():
    return pytest.importorskip("torchcam.methods")


def low_resolution(peer, images, targets):
    """Map of a pytorch-grad-cam method before it is upsampled, normalized and cut off at 0."""
    kept = []
    image_of = peer.get_cam_image
    peer.get_cam_image = lambda *given, **named: kept.append(image_of(*given, **named)) or kept[-1]
    with peer:
        peer(images, targets)
    return kept[-1]


@pytest.fixture(scope="module")
def real(efficientnet, photographs):
    """EfficientNet-Lite0 on small photographs, runtime at an early layer."""
    small = torch.nn.functional.interpolate(photographs, (96, 96), mode="bilinear", antialias=True)
    return helpers.runtime(efficientnet, small, [(TARGET,)] * 2, ["cat", "coffee"], layer=EARLY)


@pytest.fixture
def tiny(request):
    """float32, since pytorch-grad-cam makes its weights float32."""
    network = helpers.Network(smooth=getattr(request, "param", False)).float()
    return helpers.runtime(network, helpers.images_of().float(), targets=[(1,), (0,), (4,)])


def peer_targets(package, run, kind="ClassifierOutputTarget"):
    return [getattr(package.utils.model_targets, kind)(target) for (target,) in run.targets]


@pytest.mark.parametrize("where", ["tiny", "real"])
@pytest.mark.parametrize("name", ["score_cam", "ablation_cam"])
def test_pytorch_grad_cam(jacobgil, request, name, where) -> None:
    run = request.getfixturevalue(where)
    layer = run.module.get_submodule("layer" if where == "tiny" else EARLY)
    if name == "score_cam":
        peer = jacobgil.ScoreCAM(run.module, [layer])
        ours = perturbation.score_cam(run.acts, run.images, score=run.score)
    else:
        peer = jacobgil.AblationCAM(run.module, [layer], ablation_layer=jacobgil.ablation_layer.AblationLayer())
        ours = perturbation.ablation_cam(run.acts, run.targets, forward_from=run.forward_from)
    agree(ours, low_resolution(peer, run.images.clone(), peer_targets(jacobgil, run)))


@pytest.mark.parametrize("tiny", [False, True], indirect=True)
@pytest.mark.parametrize("utility", ["logit", "rest"])
def test_shapley_cam(jacobgil, tiny, utility) -> None:
    kind = {"logit": "ClassifierOutputTarget", "rest": "ClassifierOutputReST"}[utility]
    peer = jacobgil.ShapleyCAM(tiny.module, [tiny.module.layer])
    theirs = low_resolution(peer, tiny.images.clone(), peer_targets(jacobgil, tiny, kind))
    agree(
        multipass_gradient.shapley_cam(tiny.acts, tiny.targets, forward_from=tiny.forward_from, utility=utility), theirs
    )


def test_finer_cam(jacobgil, tiny) -> None:
    ours = multipass_gradient.finer_cam(tiny.acts, tiny.targets, forward_from=tiny.forward_from, gamma=0.7)
    for n, (target,) in enumerate(tiny.targets):
        finer = jacobgil.finer_cam.FinerCAM(tiny.module, [tiny.module.layer])
        kept, image_of = [], finer.base_cam.get_cam_image
        finer.base_cam.get_cam_image = lambda *given, _of=image_of, _kept=kept: _kept.append(_of(*given)) or _kept[-1]
        image = tiny.images[n : n + 1].clone().requires_grad_()
        with finer:
            finer(image, target_idx=target, alpha=0.7)
        agree(ours[n : n + 1], kept[-1])


@pytest.mark.parametrize("name", ["ScoreCAM", "ISCAM"])
def test_torchcam(torchcam, name) -> None:
    """Where the layer is as large as the input: torchcam stretches masks before upsampling them, the papers after."""
    network = helpers.Network(stride=1).float()
    run = helpers.runtime(network, helpers.images_of().float(), targets=[(1,), (0,), (4,)])
    with getattr(torchcam, name)(network, "layer", input_shape=run.images.shape[1:]) as peer:
        theirs = peer([1, 0, 4], network(run.images))[0].detach()
    method = {"ScoreCAM": perturbation.score_cam, "ISCAM": perturbation.is_cam}[name]
    agree(method(run.acts, run.images, score=run.score), theirs)
