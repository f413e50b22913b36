"""Mosaics: a grid of pictures, some of the asked class; exact ground truth from labels alone.

With one cell of the class this is the grid pointing game (Boehle, Fritz, Schiele: Convolutional dynamic alignment
networks for interpretable classifications, CVPR 2021, section 3.2); with more it is a multi-instance test.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from bench.datasets.classes.class_map import IMAGENET_OUTPUTS
from bench.datasets.coco import coco
from bench.datasets.collage import collage
from bench.datasets.files import check_names, need_number
from bench.datasets.folder import imagefolder
from bench.datasets.imagenet import imagenet
from bench.datasets.records import bad, bad_note, box_tensor, check_bad
from bench.datasets.transforms import prepare
from bench.datasets.voc import voc
from bench.types import Case, Dataset, Network, UserError, counted, printable

SOURCES: dict[str, Callable[..., Any]] = {one.__name__: one for one in (collage, imagefolder, imagenet, coco, voc)}


def mosaic(
    *,
    source: Mapping[str, Any] | None = None,
    mosaics: int = 48,
    grid: int = 2,
    targets: int = 1,
    size: int = 224,
    min_probability: float = 0.0,
    seed: int = 0,
    allow_bad_records: bool = False,
    network: Network | None = None,
) -> Dataset:
    """Compose mosaics of a labelled data set's pictures.

    Mosaic i is the same for every value of `mosaics`. Classes take turns, no picture is twice in a mosaic, and the
    other cells show as many different classes as there are.

    Parameters
    ----------
    source : mapping, optional
        ``name`` of a data set function (`SOURCES`) and its parameters; the embedded scenes where there is none. The
        middle square of a picture is used.
    mosaics : int
        Number of mosaics, one case each.
    grid : int
        Cells a side, at least 2.
    targets : int
        Cells of the asked class, fewer than ``grid ** 2``.
    size : int
        Side of the mosaic in pixels; cells are ``size // grid``.
    min_probability : float
        Only pictures whose own class the network gives this probability, each alone at the network's input size.
    seed : int
    allow_bad_records : bool
        Go on when more than 5 % of the source's records, or of the mosaics' pictures, are bad.
    network : Network, optional
        Needed where `min_probability` is not 0; the runner passes it.

    Returns
    -------
    Dataset
        Boxes are the cells; a case's id ends in a hash of the pictures in it.

    Raises
    ------
    UserError
        A parameter out of range, a source without labels, or too few pictures.
    """
    need_number("mosaics", mosaics, 1)
    need_number("grid", grid, 2, 16)
    need_number("targets", targets, 1, grid**2 - 1)
    need_number("size", size, 8 * grid, 8192)
    need_number("min_probability", min_probability, 0, 1, whole=False)
    need_number("seed", seed, 0, 2**63)
    if min_probability and network is None:
        raise UserError("dataset.min_probability needs a network to ask")
    data = _source(source, allow_bad_records)
    pool: dict[str, list[Case]] = {}
    for case in data.cases:
        if case.target and case.class_name:
            pool.setdefault(case.class_name, []).append(case)
    judge = _Judge(min_probability, network)
    cases = []
    usable = {name: len(group) for name, group in pool.items() if len({case.image_id for case in group}) >= targets}
    for index in range(mosaics):
        made = None
        while usable and made is None:
            # Classes that turn out to have too few recognized pictures drop out of the turns.
            names = sorted(usable, key=lambda one: hashlib.sha256(f"{seed}/{one}".encode()).hexdigest())
            generator = np.random.default_rng([seed, index])
            name = names[index % len(names)]
            chosen = list(_distinct(pool[name], judge, generator, targets))
            others: list[Case] = []
            if len(chosen) == targets:
                others = _others(pool, name, judge, generator, grid**2 - targets, {case.image_id for case in chosen})
            if len(chosen) + len(others) < grid**2:
                del usable[name]
                continue
            made = _case(index, seed, grid, size // grid, chosen, others, generator)
        if made is None:
            least = f" that the network gives probability {min_probability}" if min_probability else ""
            raise UserError(
                "dataset=mosaic: the source holds too few "
                f"pictures{least} for {targets} of {grid**2} cells; add pictures or take a smaller grid"
            )
        cases.append(made)
    check_bad("mosaic", "pictures", judge.broken, len(judge.known), allow_bad_records)
    refused = len(judge.refused)
    unused = f"mosaic: not used, under probability {min_probability}: {counted(refused, 'picture')}"
    notes = [unused] if refused else []
    wrong = data.bad_records + judge.broken
    return Dataset(
        cases=cases,
        bad_records=wrong,
        notes=notes + bad_note(wrong),
        outputs=data.outputs,
        most_bad=data.most_bad,
        offers=("mosaic",),
    )


def _source(source: Mapping[str, Any] | None, allow_bad_records: bool) -> Dataset:
    if source is not None and not isinstance(source, Mapping):
        raise UserError(
            f"dataset.source={printable(source)} must be a mapping: 'dataset.source={{name: imagefolder, root: DIR}}'"
        )
    parameters = dict(source or {"name": "collage"})
    name = str(parameters.pop("name", ""))
    check_names("source.name", [name], SOURCES)
    signature = inspect.signature(SOURCES[name]).parameters
    check_names("source", parameters, signature)
    for key, parameter in signature.items():
        if parameter.default is inspect.Parameter.empty and key not in parameters:
            raise UserError(f"dataset.source={name} needs {key}: 'dataset.source={{name: {name}, {key}: ...}}'")
    if "allow_bad_records" in signature:
        parameters.setdefault("allow_bad_records", allow_bad_records)
    if name == "collage":
        # An object of another class in a cell would make the ground truth wrong.
        return Dataset(collage(**{"others": 0, **parameters}), outputs=IMAGENET_OUTPUTS)
    return SOURCES[name](**parameters)


class _Judge:
    """Says whether the network recognizes a picture; remembers the answer."""

    def __init__(self, least: float, network: Network | None) -> None:
        self.least, self.network = least, network
        self.known: dict[str, bool] = {}
        self.refused: set[str] = set()
        self.broken: list[dict[str, str]] = []

    def __call__(self, case: Case) -> bool:
        if not self.least or self.network is None:
            return True
        if case.id not in self.known:
            self.known[case.id] = self._ask(case, self.network)
        return self.known[case.id]

    def _ask(self, case: Case, network: Network) -> bool:
        try:
            square = Case(case.id, case.image_id, "", case.target, partial(_square, case))
            image = prepare(square, network.spec, "stretch").image[None]
        except (OSError, ValueError) as error:
            self.broken.append(bad(case.id, printable(error)[:200]))
            return False
        device = next(iter(network.module.state_dict().values())).device
        with torch.inference_mode():
            logits = network.module(image.to(device))
        if max(case.target) >= logits.shape[1]:
            raise UserError(f"{case.id} is of output {max(case.target)}, but the network has {logits.shape[1]} outputs")
        enough = logits.float().softmax(1)[0, list(case.target)].sum().item() >= self.least
        if not enough:
            self.refused.add(case.id)
        return enough


def _distinct(pool: list[Case], judge: _Judge, generator: np.random.Generator, number: int) -> Iterator[Case]:
    """Draw so many recognized cases of different images in random order."""
    seen: set[str] = set()
    for i in generator.permutation(len(pool)):
        if len(seen) == number:
            return
        if pool[i].image_id not in seen and judge(pool[i]):
            seen.add(pool[i].image_id)
            yield pool[i]


def _others(
    pool: dict[str, list[Case]], name: str, judge: _Judge, generator: np.random.Generator, number: int, taken: set[str]
) -> list[Case]:
    """Draw cases of other classes, one of each in turn, that share no output with `name` and no image with `taken`."""
    forbidden = set(pool[name][0].target)
    # In a multi-label source, an image of another class may show the class asked about, too.
    shows = {case.image_id for case in pool[name]}
    names = [one for one in sorted(pool) if one != name and not forbidden & set(pool[one][0].target)]
    names = [names[i] for i in generator.permutation(len(names))]
    queues = [iter([pool[one][i] for i in generator.permutation(len(pool[one]))]) for one in names]
    drawn: list[Case] = []
    while queues and len(drawn) < number:
        for queue in list(queues):
            case = next((c for c in queue if c.image_id not in taken | shows and judge(c)), None)
            if case is None:
                queues.remove(queue)
            elif len(drawn) < number:
                drawn.append(case)
                taken = taken | {case.image_id}
    return drawn


def _case(
    index: int, seed: int, grid: int, cell: int, chosen: list[Case], others: list[Case], generator: np.random.Generator
) -> Case:
    places = generator.permutation(grid**2)
    placed = sorted(zip(places.tolist(), chosen + others, strict=True), key=lambda pair: pair[0])
    digest = hashlib.sha256("\n".join(case.id for _, case in placed).encode()).hexdigest()[:8]
    corners = [(place % grid * cell, place // grid * cell) for place in places.tolist()]
    boxes = [(left, top, left + cell, top + cell) for left, top in corners]
    image_id = f"mosaic-{seed}-{index:05d}-{digest}"
    name = chosen[0].class_name
    return Case(
        id=f"{image_id}/{name}",
        image_id=image_id,
        class_name=name,
        target=chosen[0].target,
        load=partial(_load, [case for _, case in placed], grid, cell),
        boxes=box_tensor(boxes[: len(chosen)]),
        other_boxes=box_tensor(boxes[len(chosen) :]),
        difficult=torch.zeros(len(chosen), dtype=torch.bool),
        files=tuple(file for _, case in placed for file in case.files),
    )


def _load(cells: list[Case], grid: int, cell: int) -> tuple[Tensor, None]:
    pictures = [F.resize(_square(case)[0], [cell, cell], InterpolationMode.BICUBIC, antialias=True) for case in cells]
    rows = [torch.cat(pictures[start : start + grid], 2) for start in range(0, grid**2, grid)]
    return torch.cat(rows, 1), None


def _square(case: Case) -> tuple[Tensor, None]:
    """Cut the middle square out of a case's picture."""
    image = case.load()[0]
    return F.center_crop(image, [min(image.shape[1:])] * 2), None
