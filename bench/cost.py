"""What a metric costs in forward passes, from the ``about`` of its yaml."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.types import Part

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


@dataclass(frozen=True)
class Cost:
    """Forward passes of a metric; a backward pass counts as two.

    Attributes
    ----------
    per_map : int
        For every case, method and layer.
    per_case : int
        For every case, shared by all its maps (what two metrics share, as the clean image's, counts for each).
    explanations : int
        How often the method makes a map again, whose own passes come on top, for every map.
    """

    per_map: int
    per_case: int
    explanations: int


def metric_cost(metric: Part) -> Cost:
    """Evaluate ``about.passes``, ``passes_per_case`` and ``explanations`` (0 where missing) with its parameters.

    Raises
    ------
    ValueError
        An entry is not a number or an expression of numbers, parameters, ``len(parameter)`` and ``+ - * //``.
    """
    entries = (metric.about.get(name, 0) for name in ("passes", "passes_per_case", "explanations"))
    return Cost(*(evaluate(str(entry), metric.parameters) for entry in entries))


def evaluate(expression: str, values: Mapping[str, Any]) -> int:
    """Value of an expression in whole numbers, see `metric_cost`."""

    def of(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int()):
                return node.value
            case ast.Name() if node.id in values:
                return values[node.id]
            case ast.Call(func=ast.Name(id="len"), args=[only], keywords=[]):
                return len(of(only))
            case ast.BinOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](of(node.left), of(node.right))
        raise ValueError(f"{expression!r} is not arithmetic over {', '.join(values)}")

    try:
        return int(of(ast.parse(expression, mode="eval").body))
    except (SyntaxError, TypeError) as error:
        raise ValueError(f"{expression!r} cannot be evaluated: {error}") from error
