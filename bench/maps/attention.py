"""Self-attention as a layer: the probabilities with which each token of a transformer's block reads every other one.

Fused attention never has them in memory. For the time of a pass the attention modules compute them instead: in place of
`scaled_dot_product_attention` and of the one step that `nn.MultiheadAttention` is, by plain matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bench.maps.target_scores import group_logit, read_output
from bench.types import Attention, Batch, Reshape, UserError

# (name of the attention module, what its softmax gets, what it gives) -> the probabilities that go on
Keep = Callable[[str, Tensor, Tensor], Tensor]
SOFTMAX = (torch.softmax, Tensor.softmax, functional.softmax)
NEEDED = (
    "methods of attention need blocks in which every token of a picture reads every other, as in ViT, DeiT, EVA and "
    "BEiT; take other methods for this network"
)


def attention_modules(module: nn.Module) -> list[str]:
    """Names of the innermost modules that are attention by their class; pools that attend from elsewhere are none."""
    named = {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.MultiheadAttention) or "Attention" in type(part).__name__
    }
    inner = [name for name in named if not any(other.startswith(f"{name}.") for other in named)]
    return [name for name in inner if not type(named[name]).__name__.startswith("AttentionPool")]


@contextmanager
def watched(module: nn.Module, names: Sequence[str], keep: Keep, *, cut: bool = False) -> Iterator[None]:
    """Hand the attention of these modules to `keep`, by other `forward` functions that are taken away on leaving.

    `cut` lets no gradient through what comes into them.
    """
    parts = dict(module.named_modules()) if names else {}
    with ExitStack() as undo:
        for name in names:
            part = parts[name]
            own = part.__dict__  # a function there goes before that of the class
            undo.callback(_put_back, own, own.get("forward"))
            own["forward"] = partial(_attend, part, part.forward, partial(keep, name), cut)
        yield


def _put_back(own: dict[str, Any], before: Any) -> None:
    del own["forward"]
    if before is not None:
        own["forward"] = before


def _attend(part: nn.Module, forward: Any, keep: Any, cut: bool, *args: Any, **options: Any) -> Any:
    if cut:  # one tensor stays one: self-attention is told by it
        once = {id(one): one.detach() for one in args if isinstance(one, Tensor)}
        args = tuple(once.get(id(one), one) for one in args)
    if isinstance(part, nn.MultiheadAttention):
        return _multihead(part, keep, *args, **options)
    with _Softmax(keep):
        return forward(*args, **options)


class _Softmax(TorchFunctionMode):
    """Hands what goes into and comes out of a softmax to a function, and what that gives on; undoes fused attention."""

    def __init__(self, keep: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.keep = keep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self._unfused(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        return self.keep(args[0], result) if func in SOFTMAX and args else result

    def _unfused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if is_causal or enable_gqa:
            raise UserError(NEEDED)
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
        if attn_mask is not None:
            hidden = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if hidden else scores + attn_mask
        return self.keep(scores, scores.softmax(-1)) @ value


def _multihead(part: nn.MultiheadAttention, keep: Any, query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Any:
    """Output of self-attention without masks, and the weights' mean over heads."""
    masks = [more.get(name) for name in ("key_padding_mask", "attn_mask", "is_causal")]
    odd = part.bias_k is not None or part.add_zero_attn or any(one is not None and one is not False for one in masks)
    if query is not key or key is not value or odd:
        raise UserError(NEEDED)
    x = query if part.batch_first else query.transpose(0, 1)
    heads = functional.linear(x, part.in_proj_weight, part.in_proj_bias).unflatten(-1, (3, part.num_heads, -1))
    q, k, v = heads.permute(2, 0, 3, 1, 4)  # (N, heads, T, K) each
    scores = q * part.head_dim**-0.5 @ k.mT
    probabilities = keep(scores, scores.softmax(-1))
    output = part.out_proj((probabilities @ v).transpose(1, 2).flatten(2))
    return (output if part.batch_first else output.transpose(0, 1)), probabilities.mean(1)


def check_square(name: str, probabilities: Tensor, number: int) -> None:
    """Raise UserError unless each of `number` pictures has attention of all its tokens to all: (N, heads, T, T)."""
    shape = tuple(probabilities.shape)
    if len(shape) != 4 or shape[0] != number or shape[2] != shape[3]:
        raise UserError(f"the attention of {name!r} is {shape} for {number} pictures: {NEEDED}")


def attention_of(
    module: nn.Module, maps: dict[str, Tensor], grads: Sequence[Tensor], reshape: Reshape | None, size: Sequence[int]
) -> Attention:
    """Describe kept attention by name: where its tokens lie in pictures of this size, and which the classifier reads.

    It reads the class token, and the distillation token where there is one; without them, or where timm's
    ``global_pool`` says so, all positions alike. UserError where there is none, or its tokens are no grid.
    """
    if not maps:
        raise UserError(NEEDED)
    name, first = list(maps.items())[-1]
    number = first.shape[-1]
    places = reshape(name, (number, 1), size) if reshape else None
    if places is None or any(one.shape[-1] != number for one in maps.values()):
        raise UserError(f"where the {number} tokens of {name!r} lie is not known (see model.reshape): {NEEDED}")
    tokens = places[0].to(first.device)
    parts = [part for _, part in module.named_modules()]
    pooled = any(getattr(part, "global_pool", "") in ("avg", "avgmax", "max", "map") for part in parts)
    whole = pooled or tokens.numel() == number
    read = tokens.flatten().tolist() if whole else [0, 1] if any(hasattr(part, "head_dist") for part in parts) else [0]
    readers = first.new_zeros(number)
    readers[read] = 1 / len(read)
    return Attention(maps=list(maps.values()), grads=list(grads), tokens=tokens, readers=readers)


def attention_pass(module: nn.Module, batch: Batch, attention: Attention, cut: str) -> Attention:
    """Attention of a batch with gradients in which something is left out, from a pass of its own.

    `cut` is ``inputs``, where no gradient flows through what comes into an attention module, so that those of earlier
    blocks go past it; or ``blocks``, where each block's gradient is that of a score of its own: what follows the
    blocks makes it of this block's output instead of the last one's. Everything else is as in `attention`, which is of
    the same batch.
    """
    names, number = attention_modules(module), len(batch.ids)
    maps: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}
    outputs: list[Tensor] = []

    def keep(name: str, before: Tensor, probabilities: Tensor) -> Tensor:
        scores[name], maps[name] = before.detach(), probabilities.detach().requires_grad_()
        return maps[name].clone()

    def end(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise UserError(f"a block gives {type(output).__name__} and no tokens, so each has no score of its own")
        outputs.append(output)
        return torch.cat(outputs) if len(outputs) == len(names) else output.detach()

    blocks = [module.get_submodule(name.rpartition(".")[0]) for name in names] if cut == "blocks" else []
    with ExitStack() as undo, torch.enable_grad():
        for block in blocks:
            undo.callback(block.register_forward_hook(end).remove)
        undo.enter_context(watched(module, names, keep, cut=cut == "inputs"))
        turns = max(1, len(blocks))
        logits = read_output(batch, module(batch.images), list(range(number)) * turns)
        if len(logits) != number * turns:
            raise UserError("what follows the blocks of this network does not work on several blocks' tokens at once")
        score = group_logit(logits, batch.targets * turns).sum()
        grads = torch.autograd.grad(score, list(maps.values()), allow_unused=True, materialize_grads=True)
    return Attention(
        maps=[one.detach() for one in maps.values()], grads=list(grads), tokens=attention.tokens,
        readers=attention.readers, scores=list(scores.values()),
    )  # fmt: skip
