"""A pretended GPU: tensors that claim to be on ``cuda`` and cannot be mixed with tensors on the CPU.

On machines without a GPU it catches tensors that are made on the wrong device or read without a copy to the CPU, and
runs the code that only a GPU takes. The CPU computes the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
aten = torch.ops.aten
# Place of the argument that may be on the CPU on a real GPU, too: a source, or indices.
MIXING = {aten.copy_.default: 1, aten.index.Tensor: 1, aten.index_put_.default: 1, aten.index_put.default: 1}


class OnGpu(Tensor):
    """A tensor whose numbers are in `held`; it has no storage of its own."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> OnGpu:
        return Tensor._make_wrapper_subclass(
            cls, real.shape, real.stride(), real.storage_offset(), dtype=real.dtype, layout=real.layout, device="cpu"
        )

    def __init__(self, real: Tensor) -> None:
        self.held = real

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self, **options: Any) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        checked = [arg for i, arg in enumerate(args) if i != MIXING.get(func)]
        strangers = [x for x in tree_leaves((checked, kwargs)) if isinstance(x, Tensor) and not isinstance(x, OnGpu)]
        if any(x.ndim for x in strangers):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found cpu and {GPU}")
        result = func(*tree_map(fetch, args), **tree_map(fetch, kwargs))
        return return_and_correct_aliasing(func, args, kwargs, tree_map(put, result))


def put(x: Any) -> Any:
    return OnGpu(x.detach() if x.requires_grad else x) if isinstance(x, Tensor) and not isinstance(x, OnGpu) else x


def fetch(x: Any) -> Any:
    return x.held if isinstance(x, OnGpu) else x


def is_device(x: Any) -> bool:
    return isinstance(x, torch.device) or (isinstance(x, str) and x.split(":")[0] in ("cpu", "cuda"))


class PretendedGpu(TorchFunctionMode):
    """Inside this context, ``device="cuda"`` gives tensors that are `OnGpu`."""

    def __enter__(self) -> PretendedGpu:
        # Otherwise a network's parameters would keep their type when they are moved.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if isinstance(first, OnGpu):
            if func in (Tensor.numpy, Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
            if func is Tensor.tolist:
                return first.held.tolist()
            if func is Tensor.cpu:
                return first.held
            if func is Tensor.new_tensor:
                return put(torch.tensor(*args[1:], **{"dtype": first.dtype, **kwargs}))
            if func is one_hot:  # torch makes tensors of its own in it
                return put(func(first.held, *args[1:], **kwargs))
        if func is Tensor.cuda:
            return put(first)
        device = kwargs.pop("device", None)
        if func is Tensor.to:
            rest = args[1:]
            if rest and isinstance(rest[0], Tensor):
                rest = (rest[0].device, rest[0].dtype)
            device = next((x for x in rest if is_device(x)), device)
            dtype = next((x for x in rest if isinstance(x, torch.dtype)), None)
            kwargs |= {"dtype": dtype} if dtype else {}
            if device is not None:
                first = fetch(first) if torch.device(device).type == "cpu" else put(first)
            return func(first, **kwargs) if kwargs.keys() & {"dtype", "memory_format"} else first
        result = func(*args, **kwargs)
        if device is None:
            return result
        return tree_map(put if torch.device(device).type == "cuda" else fetch, result)
