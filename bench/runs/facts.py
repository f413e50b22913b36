"""What a run needs to know of a network, kept with the results so that a later metric need not load it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from bench.maps.capture import capture
from bench.networks.layers import resolve_layers
from bench.networks.running import logits_of, ordered, running_of
from bench.runs.provenance import versions
from bench.store.files import hash_key, write_text
from bench.store.folders import PROTOCOL, Folder, read_protocol
from bench.types import InputSpec, Network, UserError, at_scale


@dataclass(frozen=True)
class Facts:
    """What a run needs to know of a network; kept with the results, so that a later metric need not load it.

    `layers` are those asked for, in the order of running; `shapes` gives channels and spatial size of each one's
    output, also at other scales (`at_scale`), `index` its place among the network's modules as they run. `probability`
    and `settings` as in `bench.types.Network`.
    """

    name: str
    weights: str
    weights_hash: str
    spec: InputSpec
    outputs: int
    layers: tuple[str, ...]
    shapes: dict[str, list[int]]
    index: dict[str, int]
    probability: str = "softmax"
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Opener:
    """The network of a run, built at the first call; `request` is what it follows from, see `request_of`."""

    build: Callable[[], Network]
    request: dict[str, Any] | None
    network: Network | None = field(default=None)

    def __call__(self) -> Network:
        """Build the network, or return the one that was built."""
        if self.network is None:
            self.network = self.build()
        return self.network


def on_device(network: Opener, device: torch.device) -> Network:
    """Build the network and put it on the device."""
    built = network()
    network.network = replace(built, module=built.module.to(device))
    return network.network


def request_of(node: Mapping[str, Any], seed: int) -> dict[str, Any] | None:
    """Describe what a network follows from: its config, the weights file's size and time, the libraries' versions.

    None for a user's own code, which can change unseen.
    """
    if "target" in node or ":" in str(node.get("reshape")):
        return None
    weights = Path(str(node.get("weights")))
    stat = weights.stat() if weights.is_file() else None
    libraries = {name: versions()[name] for name in ("torch", "torchvision", "timm")}
    plain = {key: value for key, value in node.items() if key != "_target_"}
    return {"model": plain, "seed": seed, "file": stat and [stat.st_size, stat.st_mtime_ns], "libraries": libraries}


def known_facts(
    out: Path, request: dict[str, Any] | None, layer: Any, scales: Sequence[float] = (1.0,)
) -> Facts | None:
    """Read what earlier runs with this request for a network, its layers and scales have kept; None where none has."""
    if request is None:
        return None
    for path in sorted(out.glob(f"*/*/{PROTOCOL}")):
        try:
            protocol = read_protocol(path)
            network = protocol["network"]
            if hash_key({**network, "hash": None}) != network["hash"]:
                raise ValueError(f"{path} is damaged")
            if network["request"] != request or str(layer) not in network["layers"]:
                continue
            if any(
                at_scale(name, s) not in network["shapes"] for name in network["layers"][str(layer)] for s in scales
            ):
                continue
            spec = InputSpec(**{**network["spec"], **{k: tuple(network["spec"][k]) for k in ("mean", "std")}})
            return Facts(
                name=protocol["model"],
                weights=str(protocol["weights"]),
                weights_hash=str(protocol["parameters"]["weights"]),
                spec=spec,
                outputs=int(network["outputs"]),
                layers=tuple(network["layers"][str(layer)]),
                shapes=network["shapes"],
                index=network["index"],
                probability=str(protocol["parameters"]["probability"]),
                settings=dict(protocol["parameters"].get("network", {})),
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged file only costs loading the network
    return None


def look_at(network: Network, layer: Any, device: torch.device, scales: Sequence[float] = (1.0,)) -> Facts:
    """Run the network once a scale on an empty picture, for the shapes of its layers and its outputs.

    UserError where it does not take a picture of another size.
    """
    layers = resolve_layers(network, layer)
    empty = torch.zeros(1, *network.spec.shape, device=device)
    seen = capture(network.module, empty, None, layers, gradients=False, reshape=network.reshape, read=as_row)
    shapes = {name: list(captured.acts.shape[1:]) for name, captured in seen.layers.items()}
    for scale in [scale for scale in scales if scale != 1]:
        shapes |= shapes_at(network, layers, device, scale, seen.logits.shape[1])
    order = ordered(running_of(network))
    index = {name: order.index(name) for name in layers}
    return Facts(
        name=network.name,
        weights=network.weights,
        weights_hash=network.weights_hash,
        spec=network.spec,
        outputs=seen.logits.shape[1],
        layers=tuple(layers),
        shapes=shapes,
        index=index,
        probability=network.probability,
        settings=network.settings,
    )


def as_row(output: Any) -> torch.Tensor:
    """Take what the network returns for one picture; one value instead of what only a user's function can read."""
    return output if isinstance(output, torch.Tensor) and output.ndim == 2 else torch.zeros(1, 1)


def shapes_at(
    network: Network, layers: Sequence[str], device: torch.device, scale: float, outputs: int
) -> dict[str, list[int]]:
    """Shapes of the layers at a scale, by `at_scale`; UserError for volumes, or where the network does not take it."""
    channels, *sides = network.spec.shape
    if network.spec.rank > 2:
        raise UserError("scale= and augment=scales are for pictures; volumes are not resized")
    size = [round(side * scale) for side in sides]
    images = torch.zeros(1, channels, *size, device=device)
    try:
        logits_of(network.name, network.module, images)
        seen = capture(network.module, images, None, layers, gradients=False, reshape=network.reshape, read=as_row)
        if seen.logits.shape != (1, outputs):
            raise UserError(f"it gives {tuple(seen.logits.shape)} instead of {outputs} outputs")
    except UserError as error:
        reason = str(error).removeprefix(f"{network.name} ").split(": if it is made")[0]
        raise UserError(
            f"scale={scale:g}: {network.name} does not take pictures of {' x '.join(map(str, size))} ({reason}); "
            "leave scale= at 1 and augment=scales away, or take a network that ends in global pooling"
        ) from error
    return {at_scale(name, scale): list(captured.acts.shape[1:]) for name, captured in seen.layers.items()}


def remember(folder: Folder, request: dict[str, Any] | None, layer: Any, facts: Facts) -> None:
    """Write ``_protocol.yaml``, with what is known of the network added to what an earlier run has kept."""
    path = folder.path / PROTOCOL
    try:
        before = read_protocol(path).get("network") or {}
    except (OSError, ValueError):
        before = {}
    if before.get("request") != request:
        before = {}
    network = {
        "request": request,
        "spec": dict(folder.protocol["parameters"]["input"]),
        "outputs": facts.outputs,
        "layers": {**before.get("layers", {}), str(layer): list(facts.layers)},
        "shapes": {**before.get("shapes", {}), **facts.shapes},
        "index": {**before.get("index", {}), **facts.index},
    }
    folder.protocol["network"] = {**network, "hash": hash_key({**network, "hash": None})}
    plain = json.loads(json.dumps(folder.protocol))
    text = yaml.safe_dump({**plain, "hash": hash_key(plain)}, sort_keys=False, allow_unicode=True)
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)
