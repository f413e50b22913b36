"""Factories of networks as users write them, each of them odd in one way; most hold the same small body."""

from __future__ import annotations

import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

Pair = namedtuple("Pair", ["logits", "features"])


@dataclass
class Output:
    logits: Tensor
    loss: None = None


class Net(nn.Module):
    """Two convolutions, mean, linear; `head` makes of the logits what the module returns."""

    def __init__(self, head: Callable[[Tensor], Any] = lambda y: y, outputs: int = 5, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(channels, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 6, 3, 2), nn.ReLU())
        self.fc, self.head = nn.Linear(6, outputs), head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.fc(self.features(x).mean((2, 3))))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x)


def first_axes(output: Tensor) -> Tensor:
    """A user's own reading of a layer: its output as it is."""
    return output


def plain() -> nn.Module:
    return Net()


def as_dict() -> nn.Module:
    return Net(lambda y: {"logits": y, "loss": None})


def as_tuple() -> nn.Module:
    return Net(lambda y: (y * 2, y))


def as_dataclass() -> nn.Module:
    return Net(lambda y: Output(y))


def as_namedtuple() -> nn.Module:
    return Net(lambda y: Pair(y, y))


def as_none() -> nn.Module:
    return Net(lambda y: None)


def as_map() -> nn.Module:
    return Net(lambda y: y[:, :, None, None])


def as_row() -> nn.Module:
    return Net(lambda y: y[:, 0])


def as_segmentation() -> nn.Module:
    return Net(lambda y: y[:, :, None, None].expand(-1, -1, 7, 7))


def as_labels() -> nn.Module:
    return Net(lambda y: y.argmax(1, keepdim=True))


def ends_in_softmax() -> nn.Module:
    return Net(lambda y: y.softmax(1))


def ends_in_own_softmax() -> nn.Module:
    return Net(lambda y: y.exp() / y.exp().sum(1, keepdim=True))


def ends_in_sigmoid() -> nn.Module:
    return Net(lambda y: y.sigmoid()[:, 0], outputs=1)


class Frozen(Net):
    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.body(x)


def backbone_without_gradients() -> nn.Module:
    return Frozen()


class Detached(Net):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x).detach()


def detached_backbone() -> nn.Module:
    return Detached()


class View(Net):
    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return self.fc(x.view(x.size(0), -1).view(x.size(0), 6, -1).mean(2))


def view() -> nn.Module:
    return View()


class FiveAxes(Net):
    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.eye(3).view(1, 3, 3, 1, 1).repeat(2, 1, 1, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        return self.body(nn.functional.conv2d(x, self.kernels.mean(0)))


def five_axes() -> nn.Module:
    return FiveAxes()


class InPlace(Net):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x.sub_(0.5).add_(0.5))


def writes_into_its_input() -> nn.Module:
    return InPlace()


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))


def traced() -> nn.Module:
    return torch.jit.trace(Net(), torch.zeros(1, 3, 32, 32))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(5))


class Colours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x).mean((2, 3))


def without_parameters() -> nn.Module:
    return Colours()


def half() -> nn.Module:
    return Net().half()


def bfloat16() -> nn.Module:
    return Net().bfloat16()


def double() -> nn.Module:
    return Net().double()


def one_channel() -> nn.Module:
    return Net(channels=1)


def raises() -> nn.Module:
    raise FileNotFoundError("no settings.json")


def no_module() -> Any:
    return {"model": Net()}


class Fails(Net):
    def forward(self, x: Tensor) -> Any:
        return {}["missing"]


def forward_raises() -> nn.Module:
    return Fails()


class Fixed(Net):
    def forward(self, x: Tensor) -> Any:
        assert x.shape[2] == 300, "needs 300 x 300"
        return super().forward(x)


def fixed_size() -> nn.Module:
    return Fixed()


class Dropped(Net):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.body(x), 0.9, self.training)


def in_training() -> nn.Module:
    return Dropped().train()


def frozen() -> nn.Module:
    return Net().requires_grad_(False)


def data_parallel() -> nn.Module:
    return nn.DataParallel(Net())


def compiled() -> nn.Module:
    module: Any = torch.compile(Net())
    return module


class CompiledPart(Net):
    """Its body alone is compiled, which puts a step between the names of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.compile(self.body, backend="eager")  # type: ignore[assignment]


def compiled_part() -> nn.Module:
    return CompiledPart()


class Lightning(nn.Module):
    """A module for training around the network, with a loss of its own, as Lightning's users write them."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.loss = Net(), nn.CrossEntropyLoss(torch.ones(5))

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


def lightning() -> nn.Module:
    return Lightning()


def parametrized() -> nn.Module:
    net = Net()
    weight_norm(net.body[0])
    return net


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))


class Recursive(Net):
    def forward(self, x: Tensor) -> Any:
        return self.forward(x)


def never_ends() -> nn.Module:
    return Recursive()


class Remembers(Net):
    """Keeps its last feature map, with its graph, as networks with a Grad-CAM of their own do."""

    def forward(self, x: Tensor) -> Any:
        self.maps = self.features(x)
        return self.fc(self.maps.mean((2, 3)))


def remembers() -> nn.Module:
    net = Remembers()
    net(torch.zeros(1, 3, 32, 32))
    return net


def normed_by_hooks() -> nn.Module:
    net = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is the older way
        nn.utils.weight_norm(net.body[0])
    net(torch.zeros(1, 3, 32, 32))
    return net


def with_a_lock() -> nn.Module:
    net = Net()
    net.lock = threading.Lock()
    return net


class DropsAlways(Net):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.body(x), 0.1)


def drops_always() -> nn.Module:
    return DropsAlways()


def statistics_of_the_batch() -> nn.Module:
    net = Net()
    net.body.insert(1, nn.BatchNorm2d(8, track_running_stats=False))
    return net


class Counts(Net):
    passes = 0

    def forward(self, x: Tensor) -> Any:
        self.passes += 1
        return super().forward(x) * self.passes


def counts_its_passes() -> nn.Module:
    return Counts()


def diverged() -> nn.Module:
    net = Net()
    net.fc.weight.data[2, 3] = torch.nan
    return net


def overflown() -> nn.Module:
    net = Net()
    net.fc.bias.data[0] = torch.inf
    return net


class Masked(Net):
    """Has a mask of minus infinity, as attention has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([0, -torch.inf]))


def masked() -> nn.Module:
    return Masked()


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net: Any = torch.ao.quantization.quantize_dynamic(Net(), {nn.Linear})
    return net


class Trains(Net):
    def train(self, mode: bool = True) -> nn.Module:
        raise NotImplementedError("only trained")


def refuses_evaluation() -> nn.Module:
    return Trains()


def exits() -> nn.Module:
    raise SystemExit(2)  # as argparse does in a script that reads the command line


class Exits(Net):
    def forward(self, x: Tensor) -> Any:
        raise SystemExit(3)


def exits_in_a_pass() -> nn.Module:
    return Exits()


def no_classes() -> nn.Module:
    return Net(lambda y: y[:, :0])
