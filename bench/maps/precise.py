"""``precision=float64``: a shared pass whose results depend on neither batch size nor threads.

In float32 the order of a convolution's additions, which both decide, moves a layer's values by 1e-6. Methods whose
result jumps where a value crosses an edge, such as the entropy of a histogram, turn that into up to 2e-3 of the map.
No rounding cures it, since some of a million values lie beside any edge. float64 rounds a hundred million times finer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.maps.capture import Captured, capture

log = logging.getLogger(__name__)
AT_ONCE = 4  # pictures; on a CPU torch unfolds all of a float64 convolution's input at once, 230 MB each in VGG-16


def capture_float64(
    model: nn.Module,
    images: Tensor,
    targets: Sequence[tuple[int, ...]] | None,
    layers: Sequence[str],
    *,
    image_of: Sequence[int] | None = None,
    read: Callable[..., Tensor] | None = None,
    **options: Any,
) -> Captured:
    """`capture` by passes in float64, its results rounded to float32; a network that cannot do this runs as it is.

    On 2 CPU cores it takes 3 times as long as in float32, with grouped convolutions (EfficientNet) 10 times. Arguments
    and errors as in `capture`.
    """
    sources = list(range(len(images)) if image_of is None else image_of)
    named = targets or [()] * len(sources)
    places, parts = [], []
    try:
        for start in range(0, len(images), AT_ONCE):
            some = [i for i, source in enumerate(sources) if start <= source < start + AT_ONCE]
            wide = images[start : start + AT_ONCE].double()
            own, local = [named[i] for i in some], [sources[i] - start for i in some]
            if some:
                options["read"] = read and partial(read, cases=some)
                parts.append(_rounded(capture(_Float64(model), wide, own, layers, image_of=local, **options)))
            places += some
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # a dtype written into the network, a scripted one, a device without
        _warn(" ".join(str(error).split())[:200])
        return capture(model, images, targets, layers, image_of=image_of, **{**options, "read": read})
    return _together(parts, torch.tensor(places, device=images.device).argsort())


def _together(parts: Sequence[Captured], back: Tensor) -> Captured:
    """Join passes over some of the targets; `back` (N,) brings them into the order of the targets."""
    first, groups = parts[0], [group for part in parts for group in part.targets]
    layers = {
        name: replace(
            layer,
            acts=torch.cat([part.layers[name].acts for part in parts])[back],
            grads=torch.cat([part.layers[name].grads for part in parts])[back] if len(layer.grads) else layer.grads,
        )
        for name, layer in first.layers.items()
    }
    logits = torch.cat([part.logits for part in parts])[back]
    attention = first.attention
    if attention is not None:
        blocks = [(one.attention.maps, one.attention.grads) for one in parts if one.attention]
        maps, grads = ([torch.cat(own)[back] for own in zip(*kind, strict=True)] for kind in zip(*blocks, strict=True))
        attention = replace(attention, maps=maps, grads=grads)
    targets = [groups[i] for i in back.tolist()]
    return replace(first, logits=logits, targets=targets, layers=layers, attention=attention)


def _rounded(wide: Captured) -> Captured:
    layers = {
        name: replace(layer, acts=layer.acts.float(), grads=layer.grads.float()) for name, layer in wide.layers.items()
    }
    attention = wide.attention
    if attention is not None:
        maps, grads = ([one.float() for one in kind] for kind in (attention.maps, attention.grads))
        attention = replace(attention, maps=maps, grads=grads, readers=attention.readers.float())
    return replace(wide, logits=wide.logits.float(), layers=layers, attention=attention)


class _Float64(nn.Module):
    """The network with float64 copies of its parameters and buffers for the time of a call; itself unchanged."""

    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not as a submodule, whose layers would have longer names

    def named_modules(self, *args: Any, **more: Any) -> Iterator[tuple[str, nn.Module]]:
        return self.model.named_modules(*args, **more)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return self.model.parameters(recurse)

    def forward(self, images: Tensor) -> Any:
        tensors = chain(self.model.named_parameters(), self.model.named_buffers())
        wide = {name: value.double() if value.is_floating_point() else value for name, value in tensors}
        return functional_call(self.model, wide, (images,))


@cache
def _warn(reason: str) -> None:
    log.warning(
        "this network does not run in float64 (%s): the shared pass runs in float32",
        reason,
    )
