"""Layers of transformers and channels-last networks: the maps of pytorch-grad-cam, default layers, what is refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.config import build
from bench.maps.capture import capture
from bench.maps.explain import job_map
from bench.maps.heatmaps import upsample
from bench.maps.scorer import Scorer
from bench.networks.reshape import reshape_of
from bench.networks.sources import custom_model, timm_model, torchvision_model
from bench.options import conf_node, names
from bench.types import Network, UserError

timm_random = partial(timm_model, weights="random")
torchvision_random = partial(torchvision_model, weights="random")


def tokens(output: Tensor, prefix: int, side: int) -> Tensor:
    return output[:, prefix:].reshape(len(output), side, side, -1).permute(0, 3, 1, 2)


def channels_last(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


# Default layer, and the reshape_transform that a user of pytorch-grad-cam would write for it.
PEERS = {
    "vit_tiny_patch16_224": (timm_random, "blocks.11.norm1", partial(tokens, prefix=1, side=14)),
    "deit_tiny_distilled_patch16_224": (timm_random, "blocks.11.norm1", partial(tokens, prefix=2, side=14)),
    "swin_tiny_patch4_window7_224": (timm_random, "norm", channels_last),
    "maxvit_tiny_tf_224": (timm_random, "stages", None),
    "convnext_atto": (timm_random, "stages", None),
    "vit_b_16": (torchvision_random, "encoder.layers.encoder_layer_11.ln_1", partial(tokens, prefix=1, side=14)),
    "swin_t": (torchvision_random, "permute", None),
}


@pytest.mark.parametrize("name", PEERS)
def test_maps_equal_those_of_pytorch_grad_cam(name: str) -> None:
    """Grad-CAM of the same random network, unnormalized and at the layer's size."""
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    factory, layer, transform = PEERS[name]
    network = factory(name=name)
    head = [part for part in network.module.modules() if isinstance(part, nn.Linear)][-1]
    if not head.weight.any():  # torchvision's ViT begins with a classifier of zeros
        nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    assert network.layers == [layer]
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    captured = capture(network.module, images, [(7,)], network.layers, reshape=network.reshape)
    acts, grads = captured.layers[layer].acts, captured.layers[layer].grads
    ours = (grads.mean((2, 3), keepdim=True) * acts).sum(1)
    peer = GradCAM(network.module, [network.module.get_submodule(layer)], reshape_transform=transform)
    seen = peer.activations_and_grads
    seen(images.requires_grad_())[0, 7].backward()
    # What it makes of them before the ReLU and the division by the maximum.
    weighted = peer.get_cam_image(
        images, None, [ClassifierOutputTarget(7)], seen.activations[0].numpy(), seen.gradients[0].numpy()
    )
    seen.release()
    theirs = torch.from_numpy(weighted).float()
    assert ours.shape == theirs.shape and theirs.abs().max() > 0
    torch.testing.assert_close(ours / theirs.abs().max(), theirs / theirs.abs().max(), rtol=0, atol=1e-4)
