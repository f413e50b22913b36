"""Who is asked: a network, what it expects of its input, and one layer of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import, and a mistyped name or --help needs none of it
    from torch import Tensor, nn

# (layer's name, shape of its output without N, the input's spatial size) -> index (K, *spatial) into the flattened
# output, or None where that is (K, *spatial) already. UserError where it cannot be read.
Reshape = Callable[[str, Sequence[int], Sequence[int]], Any]


@dataclass(frozen=True)
class InputSpec:
    """What a network's weights expect of their input.

    Attributes
    ----------
    size : int or tuple of int
        Pixels along each spatial axis: (height, width), or (depth, height, width) of a volume; one number where all
        `rank` of them are equal.
    resize : int
        Pixels of the shortest side before a center crop.
    mean, std : tuple of float
        For values 0 to 1, one a channel: so many channels the input has.
    interpolation : str
    rank : int
        Number of spatial axes; that of `size`, where this names them all.
    """

    size: int | tuple[int, ...]
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    rank: int = 2

    def __post_init__(self) -> None:
        sides = self.sides
        for name, value in (
            ("size", sides[0] if len(set(sides)) == 1 else sides),
            ("rank", len(sides)),
            ("mean", tuple(self.mean)),
            ("std", tuple(self.std)),
        ):
            object.__setattr__(self, name, value)

    @property
    def sides(self) -> tuple[int, ...]:
        """Pixels along each spatial axis."""
        return (self.size,) * self.rank if isinstance(self.size, int) else tuple(self.size)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: channels and the spatial axes."""
        return (self.channels, *self.sides)


@dataclass(frozen=True, eq=False)
class Network:
    """A network in evaluation mode with what is needed to ask it.

    Attributes
    ----------
    name : str
    module : nn.Module
        Gives the logits (n, C) and leaves its input as it is.
    spec : InputSpec
    layers : list of str
        Default layers, in the order of the forward pass.
    weights : str
        What was loaded: ``default``, a file name or ``random``.
    weights_hash : str
        Hash of all parameters and buffers.
    probability : {"softmax", "sigmoid", "none"}
        How a probability follows from the logits; ``none`` takes the explained score itself.
    reshape : callable, optional
        Which entries of a layer's output are channels and positions; None takes every output as (N, K, *spatial).
    channels_last : bool
        Whether it also runs in the channels-last memory format.
    running : tuple of str
        Names of the modules as `bench.networks.running.running_order` gives them; empty: not known yet.
    settings : dict
        What else makes this network's numbers: its code, how its output and its layers are read, where not as usual.
    """

    name: str
    module: nn.Module
    spec: InputSpec
    layers: list[str]
    weights: str
    weights_hash: str
    probability: str = "softmax"
    reshape: Reshape | None = None
    channels_last: bool = True
    running: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's activations and d score / d activations, each (N, K, *spatial).

    `index` (K, *spatial) says where in the module's flattened output they are; None where they are that output.
    """

    acts: Tensor
    grads: Tensor
    index: Tensor | None = None
    _known: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """Give ``function()``, computed at the first call with this key: what several methods need of the layer."""
        if key not in self._known:
            self._known[key] = function()
        return self._known[key]


@dataclass(frozen=True, eq=False)
class Attention:
    """Self-attention of a transformer's blocks, first to last.

    Attributes
    ----------
    maps : list of Tensor, shape (N, heads, T, T)
        Probabilities with which each token (row) reads each (column).
    grads : list of Tensor
        d score / d map; empty where not asked for.
    tokens : Tensor, shape (rows, columns)
        Which of the T tokens lies where; others, as a class token, are not in it.
    readers : Tensor, shape (T,)
        Share of each token in what the classifier reads; they sum to 1.
    scores : list of Tensor
        What the softmax made the maps of; empty where not asked for.
    """

    maps: list[Tensor]
    grads: list[Tensor]
    tokens: Tensor
    readers: Tensor
    scores: list[Tensor] = field(default_factory=list)
