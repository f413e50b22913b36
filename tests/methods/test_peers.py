"""Other packages' implementations as methods: their own maps, on the run's network, layer and targets.

Needs pytorch-grad-cam 1.5.7 (grad-cam), torchcam 0.5.0 and captum.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from contract import make_batch, make_network, maps, run
from torch import Tensor, nn

import bench
from bench.binding import GIVEN_TO_METHOD
from bench.config.nodes import bind_all
from bench.maps.capture import capture
from bench.networks.reshape import reshape_of
from bench.options import conf_node
from bench.types import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import conformance

PACKAGES = {"pytorch_grad_cam": "pytorch_grad_cam", "torchcam": "torchcam.methods", "captum": "captum.attr"}


def bound(package: str, cam: str):
    pytest.importorskip(PACKAGES[package])
    (method,) = bind_all({package: {**conf_node("method", package), "cam": cam}}, GIVEN_TO_METHOD)
    return method


def test_each_named_class_is_a_method_of_its_own() -> None:
    node = {"torchcam": conf_node("method", "torchcam")}
    assert [method.parameters["cam"] for method in bind_all(node, GIVEN_TO_METHOD)] == node["torchcam"]["cam"]


def test_pytorch_grad_cam_gives_what_its_users_see_but_for_the_upsampling() -> None:
    peer = pytest.importorskip("pytorch_grad_cam")
    network, batch = make_network(), make_batch()
    native = maps(bound("pytorch_grad_cam", "GradCAM"), network, batch, "1")

    def score(target):
        return lambda output: output[list(target)].logsumexp(0)

    with peer.GradCAM(network, [network[1]]) as extractor:
        whole = extractor(batch.images.clone().requires_grad_(), [score(target) for target in batch.targets])
    for small, large in zip(native.numpy(), whole, strict=True):
        resized = cv2.resize(small, (48, 32))
        resized = (resized - resized.min()) / (resized.max() - resized.min())  # it stretches once more at input size
        np.testing.assert_allclose(resized, large, atol=1e-5)


def test_torchcam_gives_what_its_users_see() -> None:
    peer = pytest.importorskip("torchcam.methods")
    network, batch = make_network(), make_batch()
    batch = type(batch)(**{**vars(batch), "targets": [(1,), (4,)]})
    native = maps(bound("torchcam", "GradCAMpp"), network, batch, "1")
    with peer.GradCAMpp(network, "1", (3, 32, 48)) as extractor:
        theirs = extractor([1, 4], network(batch.images.clone().requires_grad_()))[0]
    torch.testing.assert_close(native, theirs)


def test_torchcam_leaves_out_the_division_of_grad_cam_pp() -> None:
    """It divides a copy, so that its weights are sum g² relu(g); the paper's alpha divides by 2 g² + sum(A) g³."""
    network, batch = make_network(), make_batch()
    theirs = maps(bound("torchcam", "GradCAMpp"), network, batch, "1")
    acts = network[:2](batch.images).detach().requires_grad_()
    score = sum(
        logits[list(target)].logsumexp(0) for logits, target in zip(network[2:](acts), batch.targets, strict=True)
    )
    (grads,) = torch.autograd.grad(score, acts)
    undivided = ((grads**2 * grads.relu()).sum((2, 3), keepdim=True) * acts).sum(1).relu().detach()
    for ours, other in zip(undivided.numpy(), theirs.numpy(), strict=True):
        np.testing.assert_allclose(conformance.stretched(ours), conformance.stretched(other), atol=1e-5)


@pytest.mark.parametrize(("cam", "ours"), [("LayerGradCam", "grad_cam"), ("LayerGradientXActivation", "hirescam")])
def test_captum_equals_ours(cam: str, ours: str) -> None:
    network, batch = make_network(), make_batch()
    method = bind_all({ours: conf_node("method", ours)}, GIVEN_TO_METHOD)[0]
    torch.testing.assert_close(maps(bound("captum", cam), network, batch, "1"), maps(method, network, batch, "1"))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_hook_and_no_changed_flag_survives(package: str) -> None:
    network, batch = make_network().requires_grad_(False), make_batch()  # as the runner freezes them
    flags = [parameter.requires_grad for parameter in network.parameters()]
    for cam in conf_node("method", package)["cam"]:
        maps(bound(package, cam), network, batch, "1")
    assert not any(part._forward_hooks or part._backward_hooks or part._forward_pre_hooks for part in network.modules())
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("package", PACKAGES)
def test_maps_do_not_depend_on_the_pictures_beside(package: str) -> None:
    network, batch = make_network(), make_batch()
    swapped = type(batch)(**{**vars(batch), "images": batch.images.flip(0), "targets": batch.targets[::-1]})
    for cam in conf_node("method", package)["cam"]:
        one, other = (maps(bound(package, cam), network, each, "1") for each in (batch, swapped))
        torch.testing.assert_close(one, other.flip(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("package", PACKAGES)
def test_an_unknown_class_is_one_line(package: str) -> None:
    with pytest.raises(UserError, match="cam=NoCAM is unknown; it takes "):
        maps(bound(package, "NoCAM"), make_network(), make_batch(), "1")


@pytest.mark.parametrize("package", ["pytorch_grad_cam", "torchcam"])
def test_finer_cam_refuses_groups_in_one_line(package: str) -> None:
    with pytest.raises(UserError, match="FinerCAM takes single outputs"):
        maps(bound(package, "FinerCAM"), make_network(), make_batch(), "1")


def test_a_missing_package_is_one_line(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcam.methods", None)
    (method,) = bind_all({"torchcam": {**conf_node("method", "torchcam"), "cam": "GradCAM"}}, GIVEN_TO_METHOD)
    with pytest.raises(UserError, match=r"torchcam: needs torchcam; install it with: pip install 'cam-bench\[peers\]'"):
        maps(method, make_network(), make_batch(), "1")


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.head = nn.Conv2d(3, 6, 3, 4, 1), nn.Identity(), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layer(self.first(images).relu().permute(0, 2, 3, 1)).tanh().mean((1, 2)))


@pytest.mark.parametrize(
    ("package", "cam", "ours"),
    [
        ("pytorch_grad_cam", "GradCAM", "grad_cam"),
        ("torchcam", "LayerCAM", "layer_cam"),
        ("captum", "LayerGradientXActivation", "hirescam"),
    ],
)
def test_outputs_are_read_as_the_run_reads_them(package: str, cam: str, ours: str) -> None:
    torch.manual_seed(0)
    network, batch = ChannelsLast().eval().requires_grad_(False), make_batch()
    reshape = reshape_of(network, "channels_last")
    captured = capture(network, batch.images, batch.targets, ["layer"], reshape=reshape)
    (method,) = bind_all({ours: conf_node("method", ours)}, GIVEN_TO_METHOD)
    both = (
        run(each, captured.layers["layer"], captured.logits, network, batch, "layer")
        for each in (method, bound(package, cam))
    )
    for one, other in zip(*both, strict=True):
        assert one.shape == (8, 12)
        np.testing.assert_allclose(conformance.stretched(one.numpy()), conformance.stretched(other.numpy()), atol=1e-5)


def test_the_table_of_docs_is_what_the_packages_give(tmp_path: Path) -> None:
    """Five methods of the page's table, computed again on all of its cases."""
    for name in PACKAGES.values():
        pytest.importorskip(name)
    cams = {"pytorch_grad_cam": ["GradCAMPlusPlus", "LayerCAM"], "torchcam": ["GradCAMpp", "FinerCAM"]}
    bench.run(
        "experiment=conformance",
        method=["grad_cam_pp", "layer_cam", "finer_cam", "hirescam", *PACKAGES],
        metric=["complexity"],
        out=tmp_path,
        **{f"method.{package}.cam": names for package, names in cams.items()},
        **{"method.captum.cam": ["LayerGradientXActivation"]},
    )
    again = conformance.conformance(bench.load_results(tmp_path))
    assert len(again) == 2 * 5
    page = conformance.PAGE.read_text().splitlines()
    head = next(i for i, line in enumerate(page) if line.startswith("| package"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page[head + 2 :] if line.startswith("|")]
    said = pd.DataFrame(rows).set_index([0, 1, 3])
    for row in again.to_dict("records"):
        ours, equal, difference, order, _ = said.loc[(row["package"], row["implementation"], row["layer"])]
        assert ours == f"`{row['ours']}`" and equal == f"{row['equal']} of {row['cases']}"
        assert float(difference) == pytest.approx(row["difference"], abs=2e-4)
        assert float(order) == pytest.approx(row["spearman"], abs=2e-3)


def test_results_without_another_packages_maps_are_named(tmp_path: Path, monkeypatch, capsys) -> None:
    planted = conformance.PAGE.parents[1] / "results" / "published" / "planted"
    for folder, said in ((tmp_path, "no results under"), (planted, "has no maps of another package beside ours")):
        monkeypatch.setattr("sys.argv", ["conformance.py", str(folder)])
        assert conformance.main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and said in line
