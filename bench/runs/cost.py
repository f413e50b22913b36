"""What methods and metrics cost in passes of the network, from the ``about`` of their yamls."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from bench.runs.plan import scales_of
from bench.types import Bound, Job, UserError, at_scale

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


@dataclass(frozen=True)
class Cost:
    """Forward passes of a metric (a backward pass counts as two), and how often it asks the method for a map again.

    ``per_case`` passes are shared by all maps of a case; what two metrics share, as the clean image's, counts for each.
    """

    per_map: int
    per_case: int
    explanations: int


def metric_cost(metric: Bound) -> Cost:
    """Evaluate ``about.passes``, ``passes_per_case`` and ``explanations`` (0 where missing) with its parameters.

    Each is a number or arithmetic over numbers, parameters, ``len(parameter)`` and ``+ - * //``; UserError else, and
    where a parameter is of another kind than the expression needs, as ``steps=abc``.
    """
    entries = (metric.about.get(name, 0) for name in ("passes", "passes_per_case", "explanations"))
    return Cost(*(evaluate(metric.name, str(entry), metric.parameters) for entry in entries))


def evaluate(name: str, expression: str, values: Mapping[str, Any]) -> int:
    """Value of an expression in whole numbers, see `metric_cost`; `name` is whose passes these are."""

    def of(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int()):
                return node.value
            case ast.Name() if node.id in values:
                return values[node.id]
            case ast.Call(func=ast.Name(id="len"), args=[only], keywords=[]):
                value = of(only)
                if not isinstance(value, list | tuple):
                    raise TypeError(f"{value} is no list")
                return len(value)
            case ast.BinOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](of(node.left), of(node.right))
        raise UserError(f"{name}: about.passes: {expression!r} is not arithmetic over {', '.join(values)}")

    try:
        value = of(ast.parse(expression, mode="eval").body)
        if not isinstance(value, int):
            raise TypeError(f"{value} is no whole number")
        return value
    except (SyntaxError, TypeError, ZeroDivisionError) as error:
        used = [f"{key}={value}" for key, value in values.items() if re.search(rf"\b{key}\b", expression)]
        shown = f" with {', '.join(used)}" if used else ""
        raise UserError(f"{name}: its passes, {expression!r}, cannot be counted{shown}: {error}") from error


def own_passes(method: Bound, shape: Sequence[int] = ()) -> tuple[int, int]:
    """Forward and backward passes an image that a method needs beside the shared ones, by its ``about.passes``.

    That is ``shared`` (reads what the shared passes captured), ``none`` (does not look at the network), or ``{forward:
    E, backward: E}``. E is arithmetic over numbers, the method's own parameters, and ``channels`` and ``positions``
    of the layer, whose `shape` is (K, *spatial) (0 without one); channels that are constant, which some methods skip,
    count, so it is what can be needed at most.
    """
    passes = method.about.get("passes", "shared")
    if passes in ("shared", "none"):
        return 0, 0
    names = {**method.parameters, "channels": shape[0] if shape else 0, "positions": prod(shape[1:]) if shape else 0}
    forward, backward = (evaluate(method.name, str(passes[key]), names) for key in ("forward", "backward"))
    return forward, backward


@dataclass(frozen=True)
class Passes:
    """Images that go through the network for one case, all methods and layers of a run together.

    `shared` are those of the passes that all methods share, one a scale and mirror image, `own` those of methods that
    need more, `scored` the perturbed images of the metrics.
    """

    shared_forward: int
    shared_backward: int
    own_forward: int
    own_backward: int
    scored: int


def passes_of(jobs: Sequence[Job], metrics: Sequence[Bound], shapes: Mapping[str, Sequence[int]]) -> Passes:
    """Count the passes of one case, `shapes` (K, *spatial) by layer; one map at a layer and scale serves all others."""
    members = {(job.label, *member): job.method for job in jobs for member in job.members}
    owns = [own_passes(one, shapes.get(at_scale(name, abs(size)), ())) for (_, name, size), one in members.items()]
    costs = [metric_cost(metric) for metric in metrics]
    again = sum(cost.explanations for cost in costs)
    own_forward, own_backward = (sum(own[i] for own in owns) for i in range(2))
    return Passes(
        shared_forward=1 + len(scales_of(jobs)),
        shared_backward=len({scale for job in jobs if "grads" in job.method.wants for scale in job.scales}),
        own_forward=own_forward * (1 + again),  # the pass that shows the method its layer is among the metrics'
        own_backward=own_backward * (1 + again),
        scored=sum(cost.per_map * len(jobs) + cost.per_case for cost in costs),
    )
