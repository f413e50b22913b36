"""Steps for the methods that need passes of their own, beyond the one that all methods share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .common import seeded

# Numbers composed at once, before the scorer splits them into its own batches: enough to fill the largest of those,
# 32 images of 224x224 on the CPU and 512 elsewhere.
PIECE = {"cpu": 2**23, "device": 2**27}


def piece(example: Tensor) -> int:
    """How many tensors of one item's size (C, *spatial) to compose at once, a power of two."""
    elements = PIECE["cpu" if example.device.type == "cpu" else "device"]
    return 2 ** max(0, (elements // example.numel()).bit_length() - 1)


def normal_noise(ids: Sequence[str], samples: int, like: Tensor, seed: object) -> Iterator[Tensor]:
    """Draw standard normal numbers shaped like `like`, `samples` times, each case from its own generator."""
    generators = [seeded(seed, case_id) for case_id in ids]
    for _ in range(samples):  # in float64, so that every dtype gets the same numbers
        drawn = [torch.randn(like.shape[1:], generator=g, dtype=torch.float64).to(like.dtype) for g in generators]
        yield torch.stack(drawn).to(like.device)


def explained(logits: Tensor, targets: Sequence[tuple[int, ...]]) -> Tensor:
    """Explained score (n,): the target's logit, logsumexp over a group's; one target per row of the logits (n, C)."""
    if all(len(target) == 1 for target in targets):
        return logits.gather(1, torch.tensor(list(targets), device=logits.device))[:, 0]
    return torch.stack([row[list(target)].logsumexp(0) for row, target in zip(logits, targets, strict=True)])


def resize(maps: Tensor, size: Sequence[int], *, align_corners: bool) -> Tensor:
    """Resize maps (N, *spatial), linear in each axis."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
    return functional.interpolate(maps[:, None], tuple(size), mode=mode, align_corners=align_corners)[:, 0]


def check_rank(acts: Tensor, images: Tensor) -> None:
    """Raise ValueError if the layer's maps and the input differ in their number of axes: no map could be a mask."""
    if acts.ndim != images.ndim:
        raise ValueError(f"a layer of shape {tuple(acts.shape[1:])} cannot mask inputs of {tuple(images.shape[1:])}")


def check_least(least: float, **values: float) -> None:
    """Raise ValueError for a parameter below `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
