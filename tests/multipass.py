"""A tiny network and the callables that methods with more passes are given, written plainly and counting passes."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

SIZES = {1: (19,), 2: (10, 13), 3: (6, 7, 9)}
TARGETS = [(1,), (0, 3), (4,)]
IDS = ["a", "b", "c"]
DEAD = 2


class Network(nn.Module):
    """Convolution with stride 2, batch norm, ReLU (the layer asked), convolution, ReLU or tanh, pooling, linear.

    float64, any spatial rank, seeded, with channel `DEAD` of the layer zero for every image.
    """

    def __init__(self, rank: int = 2, channels: int = 3, smooth: bool = False, stride: int = 2, bias: bool = True):
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.first = convolution(channels, 6, 3, stride=stride, padding=1, bias=bias)
            self.norm = norm(6, affine=bias) if bias else nn.Identity()
            self.layer = nn.ReLU(inplace=True)
            self.second = convolution(6, 5, 3, padding=1, bias=bias)
            self.last = nn.Tanh() if smooth else nn.ReLU()
            self.head = nn.Linear(5, 5, bias=bias)
            if bias:
                for values in (self.norm.running_mean, self.norm.bias.data):
                    values.normal_(0.1, 0.3)
                self.norm.running_var.uniform_(0.2, 0.5)
                self.norm.weight.data[DEAD], self.norm.bias.data[DEAD] = 0, -1
        self.double().eval().requires_grad_(False)
        self.head.weight.mul_(20)

    def tail(self, acts: Tensor) -> Tensor:
        return self.head(self.last(self.second(acts)).flatten(2).mean(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(self.layer(self.norm(self.first(images))))


def logit(logits: Tensor, target: tuple[int, ...]) -> Tensor:
    """Explained score of one row of logits, by its definition."""
    return logits[list(target)].exp().sum().log()


def images_of(rank: int = 2, channels: int = 3, n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(n, channels, *SIZES[rank], dtype=torch.float64, generator=generator)


def runtime(network: nn.Module, images: Tensor, targets=None, ids=None, layer: str = "layer") -> SimpleNamespace:
    """Everything a method may ask for, by name; `passes` counts images forwarded and backwarded.

    The random numbers of a case depend on its id, so a batch of one is `runtime(network, images[i:i + 1], ..)`.
    """
    targets, ids = targets or TARGETS[: len(images)], ids or IDS[: len(images)]
    passes: Counter[str] = Counter()
    module = network.get_submodule(layer)

    def run(batch: Tensor, replacement: Tensor | None = None) -> tuple[Tensor, Tensor]:
        passes["forward"] += len(batch)
        kept = []

        def keep(_module, _inputs, output):
            kept.append(output if replacement is None else replacement)
            return kept[0].clone()

        handle = module.register_forward_hook(keep)
        try:
            return network(batch), kept[0]
        finally:
            handle.remove()

    def score_of(batch: Tensor, cases: Tensor, read) -> Tensor:
        with torch.no_grad():
            rows = run(batch)[0]
            return torch.stack([read(row, targets[i]) for row, i in zip(rows, cases.tolist(), strict=True)])

    def score(batch: Tensor, cases: Tensor) -> Tensor:
        return score_of(batch, cases, lambda row, target: row.softmax(0)[list(target)].sum())

    score.logit = lambda batch, cases: score_of(batch, cases, logit)

    def forward_from(acts: Tensor, cases: Tensor) -> Tensor:
        with torch.set_grad_enabled(acts.requires_grad):
            return run(images[cases], acts)[0]

    def gradient(batch: Tensor, cases: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        passes["backward"] += len(batch)
        with torch.enable_grad():
            logits, acts = run(batch.detach().clone().requires_grad_())
            total = sum(logit(row, targets[i]) for row, i in zip(logits, cases.tolist(), strict=True))
            return acts.detach(), torch.autograd.grad(total, acts)[0], logits.detach()

    def logits(batch: Tensor, cases: Tensor) -> Tensor:
        with torch.enable_grad():
            return run(batch)[0]

    acts, grads, _ = gradient(images, torch.arange(len(images)))
    passes.clear()
    return SimpleNamespace(
        acts=acts, grads=grads, images=images, targets=targets, ids=ids, score=score, forward_from=forward_from,
        gradient=gradient, logits=logits, module=network, passes=passes,
    )  # fmt: skip


def interpolation(short: int, long: int, align_corners: bool) -> np.ndarray:
    """Matrix (long, short) of linear interpolation of one axis."""
    if align_corners:
        places = np.linspace(0, short - 1, long)
    else:
        places = np.clip((np.arange(long) + 0.5) * short / long - 0.5, 0, short - 1)
    return np.stack([np.interp(places, np.arange(short), unit) for unit in np.eye(short)], axis=1)


def upsampled(field: np.ndarray, size: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """One map (*spatial) at another size, axis by axis."""
    for axis, length in enumerate(size):
        matrix = interpolation(field.shape[axis], length, align_corners)
        field = np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis)
    return field


def stretched(field: np.ndarray) -> np.ndarray:
    """Minimum 0 and maximum 1; zero where there is no range."""
    span = field.max() - field.min()
    return (field - field.min()) / span if span > 0 else np.zeros_like(field)
