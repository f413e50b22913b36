"""A network whose weights are set by hand, one class a mechanism, so that its evidence is known exactly.

A glyph is a square of 3 x 3 tiles (a cube of 27 in a volume), all with one Walsh pattern. The first convolution holds
the patterns as filters with a stride of one tile. Walsh patterns are orthogonal to one another and to any flat colour,
so on the grid of tiles a filter answers to its own glyph alone; what noise adds stays below a threshold. Two more
convolutions with batch normalization hand the answers on (``deep`` mechanisms mix them there), then comes ``features``,
the layer that methods look at. Behind it a mean over neighbours, a threshold, weights of positions and a piecewise
linear head make the class's score. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import gcd
from typing import Any

import torch
from scipy.linalg import hadamard
from torch import Tensor, nn

from bench.networks.mechanisms import COMBINE, Glyph, Mechanism, read_mechanism
from bench.networks.network import finish
from bench.types import InputSpec, Network, UserError

SIDE = {2: (224, 8), 3: (48, 4)}  # of a picture or volume, and of a tile, by rank
GLYPH = 3  # tiles along a side
GREY, SPREAD = 128 / 255, 64 / 255  # mean and standard deviation that pictures are normalized with
AMPLITUDE = 100 / 255  # of a pattern at full contrast
THRESHOLD = 0.1  # of a filter's answer: noise of 4 grey levels stays below .03
COLOURS = ((1, 0.9, 0.3), (0.4, 0.8, 1), (1, 0.5, 0.6), (0.5, 1, 0.5), (0.8, 0.6, 1), (1, 0.7, 0.4))


class Planted(nn.Module):
    """The network; pictures (N, 3, *spatial) in normalized space to scores (N, mechanisms).

    Attributes
    ----------
    mechanisms : dict of Mechanism
        By name, in the order of the outputs.
    patterns : dict of Tensor
        By (mechanism, glyph): what the glyph adds to grey at full contrast, (3, *glyph), in 0 to 1.
    rank, size, tile, cells : int
        Spatial axes, side of the picture and of a tile in pixels, tiles along a side.
    """

    seen: Tensor
    combine: Tensor
    scale: Tensor

    def __init__(self, mechanisms: Mapping[str, Mechanism], rank: int = 2) -> None:
        super().__init__()
        self.mechanisms, self.rank = dict(mechanisms), rank
        self.size, self.tile = SIDE[rank]
        self.cells = self.size // self.tile
        kinds = [(name, kind) for name, one in self.mechanisms.items() for kind in one.glyphs]
        tiles = dict(zip(kinds, tile_patterns(self.tile, rank), strict=False))
        if len(tiles) < len(kinds):
            raise UserError(f"model=planted has {len(tiles)} patterns for {len(kinds)} kinds of glyphs; use fewer")
        self.patterns = {kind: AMPLITUDE * tile.repeat(1, *[GLYPH] * rank) for kind, tile in tiles.items()}
        channels = [(kind, weight) for kind in kinds for weight in self._glyph(kind).weights]
        self.features: nn.Module = self._features([kind for kind, _ in channels], tiles)
        self.read: nn.Module = self._read([self._glyph(kind) for kind, _ in channels])
        self.register_buffer("seen", self._seen([self._glyph(kind) for kind, _ in channels]))
        self.head = nn.Linear(len(channels), len(self.mechanisms), bias=False)
        rows = torch.zeros(self.head.weight.shape)
        for k, ((name, _), weight) in enumerate(channels):
            rows[list(self.mechanisms).index(name), k] = weight
        self.head.weight.data = rows
        members = self.mechanisms.values()
        combine = torch.tensor([[float(one.combine == name) for name in COMBINE] for one in members])
        self.register_buffer("combine", combine.T.contiguous())
        self.register_buffer("scale", torch.tensor([float(one.scale) for one in members]))

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, mechanisms) of pictures (N, 3, *spatial)."""
        answers = self.read(self.features(images)) * self.seen
        z = self.head(answers.flatten(2).sum(2) / GLYPH**self.rank)
        over = (z - 1).relu()
        plain, saturating, needing = self.combine.unbind()
        return self.scale * (plain * z + saturating * (z.relu() - over) + needing * over)

    def contrast(self, strength: float) -> float:
        """Contrast at which a glyph causes an activation of this strength."""
        return THRESHOLD + (1 - THRESHOLD) * strength

    def _glyph(self, kind: tuple[str, str]) -> Glyph:
        return self.mechanisms[kind[0]].glyphs[kind[1]]

    def _features(self, kinds: list[tuple[str, str]], tiles: dict[tuple[str, str], Tensor]) -> nn.Sequential:
        """Build filters and threshold, then two convolutions: the identity, but for deep mechanisms."""
        filters: list[Tensor] = []
        parts: list[range] = []  # which of the filters each channel is made of
        for kind in kinds:
            halves = [tiles[kind]]
            if self.mechanisms[kind[0]].deep:
                halves = [2 * torch.cat([half * (i == j) for j, half in enumerate(tiles[kind].chunk(2, 1))], 1)
                          for i in range(2)]  # fmt: skip
            parts.append(range(len(filters), len(filters) + len(halves)))
            # An answer of 1 for the pattern at full contrast; THRESHOLD becomes 0, and 1 stays 1.
            unit = tiles[kind].square().sum() * AMPLITUDE / SPREAD * (1 - THRESHOLD)
            filters += [half / unit for half in halves]
        first = self._convolution(3, len(filters), self.tile, self.tile, bias=True)
        first.weight.data = torch.stack(filters)
        first.bias.data.fill_(-THRESHOLD / (1 - THRESHOLD))
        second = self._convolution(len(filters), len(kinds), 3)
        third = self._convolution(len(kinds), len(kinds), 1)
        norms: list[Any] = [(nn.BatchNorm2d if self.rank == 2 else nn.BatchNorm3d)(len(kinds)) for _ in range(2)]
        for norm in norms:
            norm.running_var -= norm.eps
        for part in (second, third):
            part.weight.data.zero_()
        for k, (kind, own) in enumerate(zip(kinds, parts, strict=True)):
            third.weight.data[k, k] = 1
            if self.mechanisms[kind[0]].deep:
                # Each half .3 at the place itself and .2 shared by its neighbours: 1 within a glyph, .15 beside it.
                second.weight.data[k, list(own)] = 0.2 / (3**self.rank - 1)
                norms[0].running_mean[k], norms[0].running_var[k] = 0.3, 0.7**2
                third.weight.data[k, k] = 2
                norms[1].running_mean[k], norms[1].running_var[k] = 0.5, 1.5**2
            middle = (k, list(own), *[1] * self.rank)
            second.weight.data[middle] = 0.3 if self.mechanisms[kind[0]].deep else 1.0
        return nn.Sequential(first, nn.ReLU(), second, norms[0], nn.ReLU(), third, norms[1], nn.ReLU())

    def _read(self, glyphs: list[Glyph]) -> nn.Sequential:
        """Mean over 3 x 3 neighbours of each channel by itself, and a threshold."""
        mean = self._convolution(len(glyphs), len(glyphs), 3, groups=len(glyphs), bias=True)
        mean.weight.data.fill_(1 / 3**self.rank)
        mean.bias.data = -torch.tensor([float(glyph.threshold) for glyph in glyphs])
        return nn.Sequential(mean, nn.ReLU())

    def _seen(self, glyphs: list[Glyph]) -> Tensor:
        """Weight 1 or 0 of every position behind `read`, (K, *spatial): 0 in the lower half for blind glyphs."""
        seen = torch.ones(len(glyphs), *[self.cells] * self.rank)
        for k, glyph in enumerate(glyphs):
            if glyph.blind:
                seen[k, self.blind_from :] = 0
        return seen

    @property
    def slots(self) -> int:
        """Places for a glyph along an axis; each has `cells` // `slots` tiles, so that two glyphs never touch."""
        return self.cells // 6

    @property
    def blind_from(self) -> int:
        """First row of tiles, behind `read`, whose weights are 0; `features` does not matter from the next one on."""
        return self.slots // 2 * (self.cells // self.slots)

    def _convolution(self, inputs: int, outputs: int, side: int, stride: int = 1, **more: Any) -> Any:
        more = {"bias": False, "padding": 0 if stride > 1 else side // 2, **more}
        return (nn.Conv2d if self.rank == 2 else nn.Conv3d)(inputs, outputs, side, stride, **more)


def tile_patterns(side: int, rank: int) -> list[Tensor]:
    """Orthogonal tiles (3, *tile) of +-1 times a colour, neither flat along an axis nor changing sign at every pixel.

    The latter would be invisible to the Sobel filter of ``edges``. Halves of a tile along the first axis are orthogonal
    to all other tiles, too: of two rows that share a half, ``u`` and ``u ^ half``, one is used.
    """
    rows, half = torch.from_numpy(hadamard(side)).float(), side // 2
    usable = [u for u in range(2, side) if u < half or u ^ half < 2]
    orders = [order for order in product(range(2, side), repeat=rank) if order[0] in usable]
    # Neighbours in this list look alike; a step that shares no factor with its length visits all.
    step = next(step for step in range(len(orders) // 3, len(orders)) if gcd(step, len(orders)) == 1)
    tiles = []
    for i in range(len(orders)):
        tile = torch.ones([side] * rank)
        for axis, order in enumerate(orders[i * step % len(orders)]):
            tile = tile * rows[order].view([-1 if other == axis else 1 for other in range(rank)])
        tiles.append(tile * torch.tensor(COLOURS[i % len(COLOURS)]).view(-1, *[1] * rank))
    return tiles


def planted_model(
    *,
    name: str,
    mechanisms: Mapping[str, Any],
    rank: int = 2,
    layers: Sequence[str] | None = None,
    num_classes: None = None,
    size: None = None,
    mean: None = None,
    std: None = None,
    output: str | int | None = None,
    probability: str = "auto",
    reshape: str = "auto",
) -> Network:
    """Build the network of these mechanisms, one output each, in the order of their names.

    Parameters
    ----------
    name : str
        Names the results folder.
    mechanisms : mapping
        By name the fields of `Mechanism`, with glyphs as mappings of the fields of `Glyph`.
    rank : int
        2 for pictures of 224 x 224 pixels, 3 for volumes of 48 x 48 x 48.
    layers : sequence of str, optional
        Default layers.
    num_classes, size, mean, std : None
        The mechanisms say how many outputs there are, and the glyphs what the input is.
    output, probability, reshape
        As of any network.

    Raises
    ------
    UserError
        A field that does not exist or makes no sense.
    """
    if num_classes is not None:
        raise UserError(f"model.num_classes={num_classes}: a planted network has one output a mechanism")
    if (size, mean, std) != (None, None, None):
        raise UserError("model=planted has an input of its own: leave out model.size, model.mean and model.std")
    if rank not in SIDE:
        raise UserError(f"model.rank={rank} must be 2 (pictures) or 3 (volumes)")
    if len(mechanisms or ()) < 2:
        raise UserError("model.mechanisms must name at least two: with one output every probability is 1")
    module = Planted({str(key): read_mechanism(str(key), mechanisms[key]) for key in sorted(mechanisms)}, rank)
    side = module.size
    spec = InputSpec(size=(side,) * rank, resize=side, mean=(GREY,) * 3, std=(SPREAD,) * 3, interpolation="nearest")
    return finish(
        name, module, spec, layers, "default", {"default": module.state_dict},
        output=output, probability=probability, reshape=reshape,
    )  # fmt: skip
