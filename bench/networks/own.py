"""A user's own network: the one source that runs code of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from bench.identity import place_of, user_function
from bench.networks.code import code_hash
from bench.networks.inputs import adapted
from bench.networks.network import fill_lazy, finish
from bench.networks.sources import IMAGENET_MEAN, IMAGENET_STD, classes, seeded
from bench.types import InputSpec, Network, UserError


def custom_model(
    *,
    name: str,
    target: str,
    weights: str = "default",
    layers: Sequence[str] | None = None,
    size: int | Sequence[int] = 224,
    resize: int = 256,
    rank: int = 2,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    interpolation: str = "bilinear",
    seed: int = 0,
    num_classes: int | None = None,
    output: str | int | None = None,
    probability: str = "auto",
    reshape: str = "auto",
    any_output: bool = False,
) -> Network:
    """Build a user's own network by running their code.

    Parameters
    ----------
    name, layers, seed, output, probability, reshape, any_output
        See `bench.networks.sources`.
    target : str
        ``package.module:factory``; ``factory()``, or ``factory(num_classes=)`` where that is given, returns an
        ``nn.Module`` that maps (N, C, *spatial) to logits.
    weights : str
        ``default`` keeps what the factory returns; else a .pth or .safetensors file.
    size : int or sequence of int
        Pixels of every side of the input, or of each.
    resize : int
        Pixels of the shorter side before a center crop.
    rank : int
        Spatial axes where `size` is one number: 2 for pictures, 3 for volumes.
    mean, std : sequence of float
        For values 0 to 1, one a channel.
    interpolation : {"bilinear", "bicubic", "nearest"}
    """
    factory = user_function(target, "model.target")
    try:
        module = seeded(partial(factory, **classes(num_classes, "", [])), seed)
    except (Exception, SystemExit) as error:  # the user's code
        raise UserError(f"model.target={target} raised {place_of(error)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"model.target={target} returned {type(module).__name__}, not a torch.nn.Module")
    if rank not in (2, 3):
        raise UserError(f"model.rank={rank} must be 2 (pictures) or 3 (volumes)")
    rank = rank if isinstance(size, int) else len(size)
    spec = InputSpec((224,) * rank, resize, (0.5,) * 3, (0.5,) * 3, interpolation=interpolation)
    spec = replace(adapted(spec, size, mean, std), resize=resize)
    seeded(partial(fill_lazy, name, module, spec.shape), seed)
    code = code_hash(module, factory)
    read: dict[str, Any] = {"output": output, "probability": probability, "reshape": reshape, "any_output": any_output}
    return finish(name, module, spec, layers, weights, {"default": module.state_dict}, code=code, **read)
