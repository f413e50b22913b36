"""A built module becomes a `Network`: its weights and their hash, its input and output, its default layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.identity import place_of, user_function
from bench.networks.checkpoints import load_weights, read_weights
from bench.networks.code import code_hash
from bench.networks.layers import default_layers
from bench.networks.outputs import fix_ends, probability_of
from bench.networks.reshape import reshape_of
from bench.networks.running import logits_of, pictures, running_order
from bench.types import InputSpec, Network, UserError

STEADY = 1e-3  # share of the logits by which batch size and chance may change them


def finish(
    name: str,
    module: nn.Module,
    spec: InputSpec,
    layers: Sequence[str] | None,
    weights: str,
    sources: Mapping[str, Callable[[], Mapping[str, Tensor]]],
    *,
    output: str | int | None = None,
    probability: str = "auto",
    reshape: str = "auto",
    code: str = "",
    any_output: bool = False,
) -> Network:
    """Load weights into a new module and describe it: in evaluation mode, float32, parameters without gradients.

    `layers` None takes the last map through which everything passes. `weights` is ``random`` (the module's own), a name
    in `sources`, which give state dicts, or a .pth or .safetensors file. `output`, `probability`, `reshape` as the
    settings ``model.output`` and so on; `code` is the hash of a user's own; `any_output` as in `fix_ends`, where a map
    or no tensor has no default layers. UserError where any of it cannot be.
    """
    if any_output and probability not in ("auto", "none"):
        raise UserError(f"model.probability={probability} is about classes, and a function is explained; leave it out")
    module = without_wrapper(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(
            f"{name} is TorchScript, which lets nobody look into its layers; give the module it was made of"
        )
    check_parts(name, module)
    if weights != "random":
        state = sources[weights]() if weights in sources else read_weights(Path(str(weights)), sorted(sources))
        load_weights(name, module, weights, state)
    fix_ends(name, module, output, any_output)
    check_weights(name, module)
    channels_last, logits = try_out(name, module, spec.shape)
    if isinstance(logits, Tensor):
        check_alone(name, module, spec.shape, logits.detach())
    settings = {"code": code, "output": "" if output is None else str(output)}
    settings["reshape"] = "" if reshape == "auto" else str(reshape)
    if ":" in str(reshape):  # a user's function
        settings["reshape_code"] = code_hash(module, user_function(reshape, "model.reshape"))
    module.requires_grad_(False)
    read = reshape_of(module, reshape)
    if layers is None:
        whole = isinstance(logits, Tensor) and logits.ndim == 2
        layers = default_layers(name, module, spec.shape, read) if whole else []
    return Network(
        name=name,
        module=module,
        spec=spec,
        layers=[layers] if isinstance(layers, str) else list(layers),
        weights=weights,
        weights_hash=weights_hash(module),
        probability="none" if any_output else probability_of(name, probability, logits),
        reshape=read,
        channels_last=channels_last,
        running=tuple(running_order(name, module, spec.shape)),
        settings={key: value for key, value in settings.items() if value},
    )


def without_wrapper(module: nn.Module) -> nn.Module:
    """Take a module out of what trains it on several GPUs or compiles it."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(module, parallel) or isinstance(getattr(module, "_orig_mod", None), nn.Module):
        inner = module.module if isinstance(module, parallel) else module._orig_mod
        assert isinstance(inner, nn.Module)
        module = inner
    return module


def fill_lazy(name: str, module: nn.Module, shape: Sequence[int]) -> None:
    """Give lazy layers their shapes and weights by a first pass."""
    if any(isinstance(part, nn.modules.lazy.LazyModuleMixin) for part in module.modules()):
        logits_of(name, module.eval(), pictures(module, shape))


def check_parts(name: str, module: nn.Module) -> None:
    """Bring a network to evaluation mode and float32; UserError where it refuses, or is quantized."""
    try:
        module.eval().float()
    except Exception as error:  # the network's own code
        raise UserError(f"{name} cannot be brought to evaluation mode and float32 ({place_of(error)})") from error
    if any(not isinstance(value, Tensor) or value.is_quantized for value in module.state_dict().values()):
        raise UserError(f"{name} has quantized weights; pass the network as it was before quantization")


def check_weights(name: str, module: nn.Module) -> None:
    """Raise UserError where a weight or a running statistic is NaN or infinite; -inf, as in masks, passes."""
    for key, value in module.state_dict().items():
        if value.is_floating_point() and value.numel() and not value.max() < torch.inf:
            raise UserError(
                f"{name}: its {key} holds NaN or infinite values, as after a training that diverged; take an earlier "
                "checkpoint"
            )


def check_alone(name: str, module: nn.Module, shape: Sequence[int], logits: Tensor) -> None:
    """Raise UserError where a picture's logits depend on the pictures beside it, or change from pass to pass.

    `logits` are those of `pictures`. Rounding changes 1e-7 of them; dropout, noise and statistics of the batch, 5e-3.
    """
    with torch.no_grad():
        alone = logits_of(name, module, pictures(module, shape)[:1])[0]
    off, apart = (alone - logits[0]).abs().max(), (logits[0] - logits[1]).abs().max()
    if off > STEADY * logits[0].abs().max() and off > STEADY * apart:
        raise UserError(
            f"{name} gives one picture different outputs, alone and beside another or from pass to pass: batch norm "
            "without running statistics, dropout or noise that eval() leaves on, or a state; switch that off"
        )


def try_out(name: str, module: nn.Module, shape: Sequence[int]) -> tuple[bool, Tensor]:
    """Whether a network runs in the channels-last memory format, and its logits of two pictures, with their graph.

    UserError where it does not run in the usual one either. The module is in the usual one afterwards.
    """
    images = pictures(module, shape).requires_grad_()
    try:
        with torch.enable_grad():
            module.to(memory_format=torch.channels_last)
            return True, logits_of(name, module, images.contiguous(memory_format=torch.channels_last))
    except (RuntimeError, UserError):  # a view of a feature map, a parameter of five axes
        with torch.enable_grad():
            return False, logits_of(name, module.to(memory_format=torch.contiguous_format), images)
    finally:
        module.to(memory_format=torch.contiguous_format)


def weights_hash(module: nn.Module) -> str:
    """Hash of every parameter and buffer, in order: 16 hex digits."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in module.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
