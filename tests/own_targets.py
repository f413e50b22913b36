"""Functions that a user may name as ``target=``, and networks whose outputs are no logits."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.maps.targets import detections, region, similarity, value

SIDE = 12


class Dense(nn.Module):
    """Segments into three classes; returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Any:
        logits = self.last(self.body(x))
        return {"out": nn.functional.interpolate(logits, x.shape[2:], mode="bilinear"), "aux": logits}


class Embeds(nn.Module):
    def __init__(self, outputs: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()), nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


class Detects(nn.Module):
    """Returns boxes with labels and scores, another number for each picture, as torchvision's detectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body, self.score = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for one in self.score(self.body(x)).sigmoid():
            scores, labels = one.flatten(1).max(0)
            kept = scores > scores.mean()
            found.append({"scores": scores[kept], "labels": labels[kept] + 1})
        return found


def dense() -> nn.Module:
    return Dense()


def embeds() -> nn.Module:
    return Embeds()


def regresses() -> nn.Module:
    return Embeds(1)


def detects() -> nn.Module:
    return Detects()


age = partial(value, index=0)
second = partial(region, index=1)
objects = partial(region, index=1, over="objects")
like = partial(similarity, reference=torch.tensor([1.0, -2, 0.5, 3]))
found = partial(detections, label=2)
calls: list[Any] = []


def by_case(output: Tensor, cases: Any) -> Tensor:
    """Another output for each case, by the length of its class's name."""
    calls.append(list(cases.ids))
    return torch.stack([row[len(name) % row.numel()] for row, name in zip(output, cases.class_names, strict=True)])


def pixels(output: Tensor, cases: Any) -> Tensor:
    """A score for each picture of another shape."""
    return output


def labels(output: Tensor, cases: Any) -> Tensor:
    return output.argmax(1)


def fails(output: Tensor, cases: Any) -> Tensor:
    return output.no_such_method()
