"""Networks: the packaged weights, the input transform, layers, weights files and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.config import build
from bench.datasets.transforms import prepare
from bench.networks.network import weights_hash
from bench.networks.sources import torchvision_model
from bench.options import conf_node
from bench.types import Case, Network, UserError


@pytest.fixture(scope="module")
def lite0() -> Network:
    return build("model", {**conf_node("model", "efficientnet_lite0"), "weights": "default"})


def resnet(weights: str) -> Network:
    return torchvision_model(name="resnet18", weights=weights, layers=["layer4"])


def test_random_weights_are_seeded_and_leave_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    first = resnet("random")
    assert torch.equal(torch.rand(1), before)
    assert first.weights_hash == resnet("random").weights_hash
    other = torchvision_model(name="resnet18", weights="random", layers=["layer4"], seed=1)
    assert first.weights_hash != other.weights_hash
    assert not first.module.training


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_files_round_trip(tmp_path: Path, suffix: str) -> None:
    source = torchvision_model(name="resnet18", weights="random", layers=["layer4"], seed=3)
    path = tmp_path / f"weights{suffix}"
    state = source.module.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)
    assert resnet(str(path)).weights_hash == source.weights_hash == weights_hash(source.module)


def test_bad_weights_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        resnet(str(tmp_path / "missing.pth"))
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(UserError, match="not a weights file"):
            resnet(str(tmp_path / name))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="do not fit resnet18"):
        resnet(str(tmp_path / "other.pth"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no state dict"):
        resnet(str(tmp_path / "list.pth"))

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="not a weights file"):
        resnet(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_failed_download_names_the_file_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(UserError, match=r"cannot be downloaded from https://.*model\.weights=FILE"):
        resnet("default")


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet50"])
def test_input_is_the_weight_enums_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """center_crop gives what the weights' own transform gives."""
    from PIL import Image
    from skimage.data import chelsea
    from torchvision.models import get_model_weights

    network = build(
        "model",
        {"name": name, "_target_": "bench.networks.sources.torchvision_model", "weights": "random", "layers": []},
    )
    photo = torch.from_numpy(chelsea()).permute(2, 0, 1)
    nothing = torch.zeros(0, 4)
    case = Case("a", "a", "", (), lambda: (photo, None), nothing, nothing, torch.zeros(0, dtype=torch.bool))
    got = prepare(case, network.spec, "center_crop").image
    expected = get_model_weights(name)["DEFAULT"].transforms()(Image.fromarray(chelsea()))
    assert got.shape == expected.shape
    # Pillow and torch round the resized 8-bit values differently: at most 2 levels of 255
    assert (got - expected).abs().max() <= 2.01 / 255 / min(network.spec.std)


def test_packaged_weights_classify(lite0: Network, shared_data: Path) -> None:
    """The 88 % of ../shared/data/README.md, on a tenth of its images."""
    from timm.data import ImageNetInfo

    from bench.datasets.images import read_image

    synsets = ImageNetInfo("imagenet-1k").label_names()
    files = sorted((shared_data / "imagenet_sample").glob("*/*.jpg"))[::10]
    nothing = torch.zeros(0, 4)
    hits = 0
    for path in files:
        case = Case("a", "a", "", (), lambda p=path: (read_image(p), None), nothing, nothing, torch.zeros(0).bool())
        with torch.inference_mode():
            best = lite0.module(prepare(case, lite0.spec, "center_crop").image[None]).argmax().item()
        hits += synsets[best] == path.parent.name
    assert hits / len(files) > 0.8
