"""A function of a user's is another one where its code is, or what the code uses."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bench
from bench.binding import GIVEN_TO_METHOD, bind_function, written
from bench.identity import identity
from bench.types import UserError

WEIGHT = 1.0


def channel(acts: Tensor, number: int = 0) -> Tensor:
    return acts[:, number]


def weighted(acts: Tensor) -> Tensor:
    return helper(acts).sum(1)


def helper(acts: Tensor) -> Tensor:
    return acts * WEIGHT


def around(value: Any) -> Any:
    def method(acts: Tensor) -> Tensor:
        return acts.sum(1) * value

    return method


def typed(text: str) -> Any:
    """A function as a prompt makes it, without a file."""
    space: dict[str, Any] = {}
    exec(text, space)
    return space["f"]


class Power:
    def __init__(self, exponent: float) -> None:
        self.exponent = exponent

    def __call__(self, acts: Tensor) -> Tensor:
        return acts.pow(self.exponent).sum(1)

    def root(self, acts: Tensor) -> Tensor:
        return acts.pow(1 / self.exponent).sum(1)


ONE_LINE = [lambda acts: acts.amax(1), lambda acts: acts.amin(1)]
PAIRS = {
    "parameters of a partial": (partial(channel, number=0), partial(channel, number=1)),
    "places of a partial": (partial(partial(channel), number=2), partial(partial(channel), number=3)),
    "functions of one line": tuple(ONE_LINE),
    "numbers around it": (around(1), around(2)),
    "tensors around it": (around(torch.ones(5)), around(torch.arange(5.0))),
    "long arrays around it": (around(np.arange(5000)), around(np.where(np.arange(5000) == 2500, 0, np.arange(5000)))),
    "functions around it": (around(channel), around(helper)),
    "networks around it": (around(nn.Linear(2, 2)), around(nn.Linear(2, 2))),
    "constants typed into a prompt": (typed("def f(acts): return acts[:, 0]"), typed("def f(acts): return acts[:, 1]")),
    "defaults typed into a prompt": (typed("def f(acts, k=0): return k"), typed("def f(acts, k=1): return k")),
    "modules and classes that it names": (
        typed("import torch, numpy\ndef f(acts): return torch.sin(acts), numpy.ndarray, torch.Tensor"),
        typed("import torch, numpy\ndef f(acts): return torch.cos(acts), numpy.ndarray, torch.Tensor"),
    ),
    "attributes of an object": (Power(1.0), Power(2.0)),
    "the object of a method": (Power(1.0).root, Power(2.0).root),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_differs_is_another_function(kind: str) -> None:
    one, other = PAIRS[kind]
    assert identity(one) == identity(one) != identity(other)


def test_globals_and_the_functions_called_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(weighted)
    monkeypatch.setattr(sys.modules[__name__], "WEIGHT", 2.0)
    changed = identity(weighted)
    assert before != changed
    monkeypatch.setattr(sys.modules[__name__], "WEIGHT", 1.0)
    assert identity(weighted) == before
    monkeypatch.setattr(sys.modules[__name__], "helper", channel)
    assert identity(weighted) not in (before, changed)


def test_equal_in_another_process_and_for_functions_that_call_each_other(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import torch\nfrom torch.nn.functional import relu\nK = {'b', 'a', 'c'}\nclass C: pass\n"
        "def even(acts, n=2): return relu(acts) if n in {'x', 'y'} else odd(acts, n - 1)\n"
        "def odd(acts, n): return even(acts, n - 1), K, C(), [one for one in K]\n"
    )
    code = "from own import even; from bench.identity import identity; print(identity(even))"
    root = str(Path(bench.__file__).parents[1])
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
            env={"PYTHONPATH": f"{root}:{tmp_path}", "PYTHONHASHSEED": seed},
        ).stdout for seed in ("1", "2")
    }  # fmt: skip
    assert len(hashes) == 1


def test_two_partials_of_one_function_are_two_methods(tmp_path: Path) -> None:
    words = {"model": "resnet18", "model.weights": "random", "metric": ["complexity"], "limit": 1, "out": str(tmp_path)}
    both = bench.run(method=[partial(channel, number=1), partial(channel, number=2)], **words)
    values = both[both["metric"] == "complexity.entropy"].set_index("method")["mean"]
    assert len(values) == 2 and values.nunique() == 2 and all(name.startswith("channel(code=") for name in values.index)
    third = bench.run(method=partial(channel, number=3), **words)
    assert not set(third["method"]) & set(both["method"])


def test_a_function_written_in_c_is_one_line() -> None:
    with pytest.raises(UserError, match="max does not say what it takes"):
        bind_function(max, GIVEN_TO_METHOD)


def test_numbers_of_numpy_are_numbers() -> None:
    assert [written(one) for one in (np.int64(3), np.float64(0.5), np.bool_(True))] == ["3", "0.5", "true"]
