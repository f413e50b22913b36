"""What a run is made of: its cases in order, its jobs (method at layer) and its metrics."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.networks.outputs import is_function
from bench.options import named_function
from bench.store.files import folder_content, hash_key
from bench.types import FUSED, NO_LAYER, Bound, Case, Job, Metric, UserError, at_scale

FUSIONS = ("mean", "max", "product")
AUGMENTS = ("flip", "scales")
AUGMENT_SCALES = (0.5, 1.0, 1.5, 2.0)  # where scale= names only one: those of PSA and IRNet (Ahn et al. 2018, 2019)
OWN_FUSIONS = (*FUSIONS, "backward")  # that a method's yaml may name
LAYER_INPUTS = {"acts", "grads", "forward_from", "gradient", "head", "layer_name"}


def seeded_order(ids: Iterable[str], seed: int) -> dict[str, int]:
    """Place of each id in an order that follows from the seed and the ids alone, not from their order."""
    hashes = {name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest() for name in ids}
    return {name: place for place, name in enumerate(sorted(hashes, key=hashes.__getitem__))}


def choose_cases(cases: Sequence[Case], limit: int | None, seed: int, target: str | int) -> list[Case]:
    """Take the first `limit` cases in the seeded order of their images, with the asked target.

    A larger limit adds cases behind those of a smaller one. Cases of one image follow each other. A user's function as
    the target is asked about every case with its boxes. UserError where `limit` or `target` makes no sense.
    """
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UserError(f"limit={limit} leaves nothing to do; give a number of cases from 1, or null for all")
    place = seeded_order((case.image_id for case in cases), seed)
    ordered = sorted(cases, key=lambda case: place[case.image_id])[:limit]
    if target == "label":
        return ordered
    if target == "predicted":
        return [asked_about(case, ()) for case in ordered]
    if type(target) is int and target >= 0:
        return [asked_about(case, (target,)) for case in ordered]
    if is_function(target):  # whose score is the only output
        return [replace(case, target=(0,)) for case in ordered]
    raise UserError(
        f"target={target} is unknown; it takes label, predicted, an output index or package.module:function"
    )


def asked_about(case: Case, target: tuple[int, ...]) -> Case:
    """Ask a case about another class than its own, ``()`` for the predicted one.

    Boxes, masks and flags are of the case's own class. Where that does not hold the output asked for, nothing is known
    of where the objects are, and the case has none.
    """
    if target and set(target) <= set(case.target):
        return replace(case, target=target)
    about_objects = ("boxes", "other_boxes", "ignore", "difficult", "other_difficult")
    none: dict[str, Any] = {name: getattr(case, name)[:0] for name in about_objects}
    for name in ("load", "load_stored"):
        none[name] = getattr(case, name) and partial(_without_masks, getattr(case, name))
    return replace(case, target=target, **none)


def _without_masks(load: Callable[..., tuple[Tensor, Tensor | None]], *channels: int) -> tuple[Tensor, None]:
    return load(*channels)[0], None


def check_targets(cases: Sequence[Case], classes: int, meant: int | None = None) -> None:
    """Raise UserError where a case asks for an output that the network does not have, or for another class.

    `meant` is the number of outputs of the networks that the targets are made for, None where not known.
    """
    if meant is not None and meant != classes:
        raise UserError(
            f"this data set's classes are mapped to networks with {meant} outputs, but this one has {classes}; "
            "name a map of your own with dataset.class_map=FILE, another model, or target=predicted"
        )
    for case in cases:
        for index in case.target:
            if not 0 <= index < classes:
                raise UserError(
                    f"case {case.id} asks for output {index}, but the network has outputs 0 to {classes - 1}; "
                    "change target=, dataset.class_map= or the model"
                )


def gallery_cases(cases: Sequence[Case], number: int, named: Sequence[str] = ()) -> set[str]:
    """Ids of the cases to show: those named by case or image id, and the first `number` with the classes in turn.

    Raises
    ------
    UserError
        A name that no case has.
    """
    known = {name for case in cases for name in (case.id, case.image_id)}
    for name in named:
        if name not in known:
            near = get_close_matches(name, sorted(known), 3, 0.5) or sorted(known)[:3]
            raise UserError(f"gallery.images: no case or image is called {name!r}; there are {', '.join(near)}, …")
    chosen = {case.id for case in cases if case.id in named or case.image_id in named}
    of_class: dict[str, int] = {}
    turns = []
    for i, case in enumerate(cases):
        of_class[case.class_name] = of_class.get(case.class_name, 0) + 1
        turns.append((of_class[case.class_name], i))
    return chosen | {cases[i].id for _, i in sorted(turns)[:number]}


def plan_jobs(
    methods: Sequence[Bound],
    layers: Sequence[str],
    index: dict[str, int],
    fuse: str | None,
    defaults: Callable[[Bound], dict[str, Any]],
    scales: Sequence[float] = (1.0,),
    augment: Sequence[str] = (),
) -> list[Job]:
    """Every method at every layer and scale, a method that looks at no layer once, with labels and keys.

    `index` gives each layer's place in the network. With `fuse`, one of `FUSIONS`, a method has further maps: fused
    over the layers, at every scale; over the scales, at every layer; and over all of both. A method whose yaml says
    ``about.fuse``, one of `OWN_FUSIONS`, has those fused over the layers only (UserError with fewer than two layers).
    With `augment` all these but the ones fused over scales, of a method that looks at the network, have a further map,
    see `augmented_scales`.
    ``defaults(bound)`` gives the parameters that a label need not name.
    """
    jobs = []
    for method in methods:
        how, over_layers = str(method.about.get("fuse", fuse)), len(layers) > 1
        own: list[tuple[str, ...]] = [(layer,) for layer in layers]
        sizes: dict[float | str, tuple[float, ...]] = {scale: (scale,) for scale in scales}
        if "fuse" in method.about:
            if how not in OWN_FUSIONS:
                raise UserError(f"{method.name}.about.fuse={how} is unknown; it takes {', '.join(OWN_FUSIONS)}")
            if not over_layers:
                raise UserError(f"{method.name} needs two layers or more; name them with layer=, or layer=all")
            own = [tuple(layers)]
        elif fuse:
            own += [tuple(layers)] * over_layers
            sizes |= {FUSED + how: tuple(scales)} if len(scales) > 1 else {}
        if not looks_at_layer(method):
            own, sizes = [()], {1.0: (1.0,)}
        seen = scales if own[0] or "scales" in augment else [1.0]
        more = augmented_scales(augment, seen) if reads_network(method) else {}
        label, parameters = label_of(method, defaults(method)), parameters_of(method)
        for of, (at, views) in product(own, (sizes | more).items()):
            layer = NO_LAYER if not of else FUSED + how if len(of) > 1 else of[0]
            name, augmented = at_scale(layer, at), at in more
            members = [at_scale(one, scale) for one in of or (NO_LAYER,) for scale in views]
            key = hash_key([method.name, parameters, name, members if len(members) > 1 else ()])
            place = index.get(layer, len(index))
            several = how if len(of if augmented else members) > 1 else ""
            jobs.append(Job(method, label, name, of, place, key, views, several, augmented))
    return jobs


def augmented_scales(augment: Sequence[str], scales: Sequence[float]) -> dict[float | str, tuple[float, ...]]:
    """Scales that each further map averages over, negative in the mirror, by their common name as in `at_scale`.

    ``flip`` is the picture and its mirror image, at each scale; ``scales`` is all scales together, those of a run that
    names several, else `AUGMENT_SCALES`; both are all of them and their mirror images.
    """
    together = tuple(scales if len(scales) > 1 else AUGMENT_SCALES)
    if "flip" not in augment:
        return {"scales": together} if augment else {}
    if "scales" in augment:
        return {"scales_flip": tuple(one for scale in together for one in (scale, -scale))}
    return {-scale: (scale, -scale) for scale in scales}


def scales_of(jobs: Iterable[Job]) -> list[float]:
    """Scales beside 1 at which some jobs look at the picture, negative in the mirror."""
    return sorted({scale for job in jobs for scale in job.scales} - {1.0})


def sizes_of(scales: Iterable[float]) -> list[float]:
    """Sizes to which the picture is resized for these scales; a mirror image is made from the picture of its size."""
    return sorted({abs(scale) for scale in scales} - {1.0})


def plan_metrics(metrics: Sequence[Bound], defaults: Callable[[Bound], dict[str, Any]]) -> list[Metric]:
    """Metrics with labels and keys; `defaults` as in `plan_jobs`."""
    return [
        Metric(metric, label_of(metric, defaults(metric)), hash_key([metric.name, parameters_of(metric)]))
        for metric in metrics
    ]


def parameters_of(bound: Bound) -> dict[str, Any]:
    """Everything that a method's or metric's values follow from beside its name: no path, but a folder's content."""
    values = {key: value for key, value in bound.parameters.items() if key != "_target_"}
    if folder := bound.about.get("folder"):
        values[folder] = folder_content(values[folder])
    return {**values, "relu": bound.relu, "version": bound.about.get("version", 0)}


def label_of(bound: Bound, defaults: dict[str, Any]) -> str:
    """Name with the parameters that are not the defaults: ``deletion(steps=7)``."""
    function = getattr(bound.call, "func", bound.call)  # without the parameters that are bound
    taken = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    known = {"relu": True, **taken, **defaults}
    values = {**bound.parameters, "relu": bound.relu}
    if folder := bound.about.get("folder"):
        values[folder] = Path(values[folder]).name
    changed = [f"{key}={value}" for key, value in values.items() if key != "_target_" and known.get(key) != value]
    return f"{bound.name}({', '.join(changed)})" if changed else bound.name


def looks_at_layer(method: Bound) -> bool:
    """Whether a method's map depends on a layer; the others are computed once."""
    return bool(LAYER_INPUTS & set(method.wants))


def reads_network(method: Bound) -> bool:
    """Whether a method's map takes a pass of the network."""
    return method.about.get("passes", "shared") != "none"


def curve_points(metric: Bound, module: nn.Module | None, running: Sequence[str]) -> dict[str, list[str]]:
    """Name the points of a metric's curves where they depend on the network, by the function in its ``about``.

    UserError where that may not be named, or a parameter makes no sense, as ``stages=0``.
    """
    target = metric.about.get("curve_points")
    if not target or module is None:
        return {}
    function = named_function(target, f"{metric.name}: curve_points")
    taken, given = inspect.signature(function).parameters, {**metric.parameters, "running": running}
    try:
        return {"curve_points": function(module, **{k: v for k, v in given.items() if k in taken})}
    except ValueError as error:
        raise UserError(f"{metric.name}: {error}") from error
