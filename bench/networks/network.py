"""A built module becomes a `Network`: weights from a file or elsewhere, their hash, default layers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.networks.layers import default_layers
from bench.types import InputSpec, Network, UserError


def finish(
    name: str,
    module: nn.Module,
    spec: InputSpec,
    layers: Sequence[str] | None,
    weights: str,
    sources: Mapping[str, Callable[[], Mapping[str, Tensor]]],
) -> Network:
    """Load weights into a newly built module and describe it, in evaluation mode, its parameters without gradients.

    `layers` None takes the last feature map behind an activation. `weights` is ``random`` (the module's own), a name
    in `sources`, which give state dicts, or a .pth or .safetensors file; UserError if they cannot be read or do not
    fit.
    """
    if weights != "random":
        state = sources[weights]() if weights in sources else read_weights(Path(weights), sorted(sources))
        try:
            module.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            detail = " ".join(str(error).split())[:200]
            raise UserError(f"the weights {weights} do not fit {name}: {detail}") from error
    module.eval().requires_grad_(False)
    return Network(
        name=name,
        module=module,
        spec=spec,
        layers=default_layers(name, module, spec.size) if layers is None else list(layers),
        weights=weights,
        weights_hash=weights_hash(module),
    )


def read_weights(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """State dict in a .pth file (loaded with weights_only, so no code in it runs) or a .safetensors file.

    Raises
    ------
    UserError
        No such file, or not a weights file. `names` are the alternatives that the message lists.
    """
    if not path.is_file():
        raise UserError(
            f"model.weights={path}: no such file; it takes a .pth or .safetensors file, random, or {', '.join(names)}"
        )
    from safetensors.torch import load_file

    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a file of another kind can make the unpickler fail in any way
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
