"""Methods of attention on toy transformers: values of passes written out, symmetries, what is left behind."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import ATTENTION
from small_networks import batch_of
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer as TorchvisionTransformer

import bench
from bench.binding import GIVEN_TO_METHOD, bind
from bench.maps.attention import attention_modules
from bench.maps.capture import Captured
from bench.maps.explain import Explain
from bench.maps.heatmaps import upsample
from bench.maps.jobs import job_map, shared_pass, wanted_of
from bench.maps.scorer import Scorer
from bench.networks.reshape import reshape_of
from bench.networks.sources import timm_model
from bench.options import conf_node
from bench.types import NO_LAYER, Batch, Job, UserError

HEADS, SIDE, BLOCKS = 3, 4, 2
TARGETS: list[tuple[int, ...]] = [(1,), (2, 3)]


def drawn(module: nn.Module) -> nn.Module:
    """Draw weights large enough for attention that is not even."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (0.5 if parameter.ndim > 1 else 0.2)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.weight.data += 1
    return module.double().eval().requires_grad_(False)


def of_timm(**more: Any) -> nn.Module:
    usual = {"img_size": 32, "patch_size": 8, "embed_dim": 12, "depth": BLOCKS, "num_heads": HEADS, "num_classes": 5}
    return drawn(VisionTransformer(**{**usual, **more}))


def of_torchvision() -> nn.Module:
    return drawn(TorchvisionTransformer(32, 8, BLOCKS, HEADS, 12, 24, num_classes=5))


KINDS = {
    "timm": of_timm,
    "timm, not fused": of_timm,
    "averaged": partial(of_timm, class_token=False, global_pool="avg"),
    "class token unread": partial(of_timm, class_token=True, global_pool="avg"),
    "torchvision": of_torchvision,
}


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    module = KINDS[request.param]()
    for block in getattr(module, "blocks", ()):
        block.attn.fused_attn = request.param != "timm, not fused"
    return module


@pytest.fixture
def batch() -> Batch:
    return batch_of(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64), TARGETS)


def job_of(name: str) -> Job:
    method = bind(name, conf_node("method", name), GIVEN_TO_METHOD)
    return Job(method=method, label=name, layer=NO_LAYER, layers=(), index=0, key=name)


def pass_for(network: nn.Module, batch: Batch, *names: str, **more: Any) -> Captured:
    wanted = wanted_of([job_of(name) for name in names])
    reshape = reshape_of(network, "auto")
    form = torch.contiguous_format
    return shared_pass(network, batch, [], memory_format=form, reshape=reshape, **wanted, **more)


def map_of(name: str, network: nn.Module, batch: Batch, **more: Any) -> Tensor:
    captured = pass_for(network, batch, name, **more)
    return job_map(network, batch, captured, Scorer(network, batch.targets, 4), job_of(name), {})


class ByHand:
    """The network's forward pass from its weights: attention is in `maps`, which a caller may replace one of."""

    def __init__(self, network: nn.Module, image: Tensor, target: tuple[int, ...]) -> None:
        self.timm = isinstance(network, VisionTransformer)
        self.state, self.target = network.state_dict(), target
        self.pooled = self.timm and network.global_pool == "avg"
        conv = "patch_embed.proj" if self.timm else "conv_proj"
        x = functional.conv2d(image[None], self.state[f"{conv}.weight"], self.state[f"{conv}.bias"], stride=8)
        x = x[0].flatten(1).T
        token = self.state.get("cls_token", self.state.get("class_token"))
        self.prefix = 0 if token is None else 1
        x = x if token is None else torch.cat([token[0], x])
        self.start = x + self.state["pos_embed" if self.timm else "encoder.pos_embedding"][0]

    def named(self, block: int, part: str) -> tuple[Tensor, Tensor | None]:
        name = f"blocks.{block}.{part}"
        if not self.timm:
            names = {"norm1": "ln_1", "norm2": "ln_2", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3",
                     "attn.qkv": "self_attention.in_proj_", "attn.proj": "self_attention.out_proj"}  # fmt: skip
            name = f"encoder.layers.encoder_layer_{block}.{names[part]}"
        dot = "" if name.endswith("_") else "."
        return self.state[f"{name}{dot}weight"], self.state.get(f"{name}{dot}bias")

    def norm(self, x: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        deviation = x - x.mean(-1, keepdim=True)
        x = deviation / (deviation.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * weights[0] + weights[1]

    def linear(self, x: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        return x @ weights[0].T + weights[1]

    def scores(self, x: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """What the softmax gets, and the values, (heads, T, ..)."""
        qkv = self.linear(self.norm(x, self.named(block, "norm1")), self.named(block, "attn.qkv"))
        q, k, v = (part.reshape(len(x), HEADS, -1).transpose(0, 1) for part in qkv.split(12, dim=1))
        return q @ k.transpose(1, 2) / math.sqrt(q.shape[2]), v

    def after(self, x: Tensor, block: int, attention: Tensor, values: Tensor) -> Tensor:
        mixed = (attention @ values).transpose(0, 1).reshape(len(x), -1)
        x = x + self.linear(mixed, self.named(block, "attn.proj"))
        hidden = functional.gelu(self.linear(self.norm(x, self.named(block, "norm2")), self.named(block, "mlp.fc1")))
        return x + self.linear(hidden, self.named(block, "mlp.fc2"))

    def score(self, x: Tensor) -> Tensor:
        own = ("norm", "fc_norm", "head") if self.timm else ("encoder.ln", "", "heads.head")
        named = [(self.state[f"{name}.weight"], self.state[f"{name}.bias"]) if f"{name}.weight" in self.state else None
                 for name in own]  # fmt: skip
        x = x if named[0] is None else self.norm(x, named[0])
        x = x[self.prefix :].mean(0) if self.pooled else x[0]
        x = x if named[1] is None else self.norm(x, named[1])
        return self.linear(x, named[2])[list(self.target)].logsumexp(0)

    def run(self, *, skip: bool = False, own: bool = False) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Attention, what its softmax gets, and gradients: also without those through its input, or of own scores."""
        x, maps, before, scores = self.start, [], [], []
        for block in range(BLOCKS):
            scores_, values = self.scores(x.detach() if skip else x, block)
            maps.append(scores_.softmax(-1).detach().requires_grad_() if block == 0 or skip or own
                        else scores_.softmax(-1))  # fmt: skip
            before.append(scores_)
            x = self.after(x, block, maps[-1], values)
            if own:
                scores.append(self.score(x))
                x = x.detach()
        total = torch.stack(scores).sum() if own else self.score(x)
        return maps, before, list(torch.autograd.grad(total, maps))

    def row(self, matrix: Tensor) -> Tensor:
        whole = matrix[self.prefix :].mean(0) if self.pooled else matrix[0]
        return whole[self.prefix :].reshape(SIDE, SIDE)


def expected(name: str, network: nn.Module, image: Tensor, target: tuple[int, ...]) -> Tensor:
    hand = ByHand(network, image, target)
    maps, before, grads = hand.run(skip=name == "ag_cam", own=name == "legrad")
    eye = torch.eye(maps[0].shape[1], dtype=torch.float64)
    if name == "attention_rollout":
        total = eye
        for one in maps:
            total = (0.5 * one.mean(0) + 0.5 * eye) @ total
        return hand.row(total)
    if name == "chefer_cam":
        total = eye
        for one, grad in zip(maps, grads, strict=True):
            total = total + (one * grad).clamp(min=0).mean(0) @ total
        return hand.row(total)
    if name == "legrad":
        each = [grad.clamp(min=0).mean((0, 1)) for grad in grads]
        return (torch.stack(each).mean(0))[hand.prefix :].reshape(SIDE, SIDE)
    each = [grad.clamp(min=0) / (1 + (-one).exp()) for one, grad in zip(before, grads, strict=True)]
    return hand.row(torch.stack(each).sum((0, 1)))


@pytest.mark.parametrize("name", ATTENTION)
def test_values_are_those_of_a_pass_written_out(name: str, network: nn.Module, batch: Batch) -> None:
    maps = map_of(name, network, batch)
    assert maps.shape == (2, SIDE, SIDE)
    for image, target, ours in zip(batch.images, TARGETS, maps, strict=True):
        theirs = expected(name, network, image, target).detach()
        assert theirs.max() > 0 and (theirs - theirs.mean()).abs().max() > 1e-3 * theirs.max()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6 * float(theirs.max()))


def test_gradients_are_those_of_small_changes(batch: Batch) -> None:
    """Of `ByHand` itself: the attention of the first block changed by hand, no autograd in it."""
    hand = ByHand(of_timm(), batch.images[0], (1,))
    maps, _, grads = hand.run()

    def score(first: Tensor) -> Tensor:
        values = hand.scores(hand.start, 0)[1]
        x = hand.after(hand.start, 0, first, values)
        scores, values = hand.scores(x, 1)
        return hand.score(hand.after(x, 1, scores.softmax(-1), values))

    for place in [(0, 0, 3), (1, 5, 0), (2, 16, 16)]:
        step = torch.zeros_like(maps[0])
        step[place] = 1e-5
        with torch.no_grad():
            slope = (score(maps[0] + step) - score(maps[0] - step)) / 2e-5
        assert slope.item() == pytest.approx(grads[0][place].item(), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ATTENTION)
def test_positions_go_with_the_picture(name: str, batch: Batch) -> None:
    """Without position embeddings a picture of shuffled patches has the shuffled map."""
    network = of_timm()
    network.pos_embed.data.zero_()
    order = torch.randperm(SIDE * SIDE, generator=torch.Generator().manual_seed(2))
    patches = functional.unfold(batch.images, 8, stride=8)
    shuffled = batch_of(functional.fold(patches[:, :, order], 32, 8, stride=8), TARGETS)
    maps, moved = map_of(name, network, batch), map_of(name, network, shuffled)
    torch.testing.assert_close(moved.flatten(1), maps.flatten(1)[:, order], rtol=1e-5, atol=1e-9)
    assert not torch.allclose(moved, maps, rtol=1e-2)


@pytest.mark.parametrize("name", ATTENTION)
def test_contract(name: str, network: nn.Module, batch: Batch) -> None:
    """Nothing depends on the batch, float64's pass gives the same, and the yaml says what is true."""
    maps, about = map_of(name, network, batch), conf_node("method", name)["about"]
    for i in range(2):
        one = batch_of(batch.images[i : i + 1], TARGETS[i : i + 1])
        torch.testing.assert_close(map_of(name, network, one), maps[i : i + 1], rtol=1e-4, atol=1e-9)
    narrow = network.float()
    small = batch_of(batch.images.float(), TARGETS)
    if about["passes"] == "shared":
        torch.testing.assert_close(map_of(name, narrow, small, float64=True), maps, rtol=1e-4, atol=1e-7)
    other = batch_of(small.images, [(0,), (4,)])
    depends = not torch.equal(map_of(name, narrow, small), map_of(name, narrow, other))
    assert depends == about["needs_gradients"] == (name != "attention_rollout")
    twice = batch_of(small.images[[0, 0, 1]], [TARGETS[0], (4,), TARGETS[1]])
    twice.image_ids[1] = twice.image_ids[0]  # two cases of one image, whose forward pass they share
    both = map_of(name, narrow, twice)
    torch.testing.assert_close(both[[0, 2]], maps, rtol=1e-3, atol=1e-6)
    assert torch.equal(both[1], both[0]) != depends


@pytest.mark.parametrize("name", ATTENTION)
def test_passes_are_counted(name: str, batch: Batch) -> None:
    network, runs = of_timm(), list[int]()
    captured = pass_for(network, batch, name)
    handle = network.register_forward_pre_hook(lambda _m, inputs: runs.append(len(inputs[0])))
    job_map(network, batch, captured, Scorer(network, batch.targets, 4), job_of(name), {})
    handle.remove()
    passes = conf_node("method", name)["about"]["passes"]
    assert sum(runs) == (0 if passes == "shared" else 2 * passes["forward"])


def test_all_from_one_pass_with_a_layer(batch: Batch) -> None:
    """Rollout, CheferCAM and Grad-CAM's layer share one forward pass, which gives the network's own logits."""
    network, runs = of_timm(), list[int]()
    handle = network.register_forward_pre_hook(lambda _m, inputs: runs.append(len(inputs[0])))
    reshape = reshape_of(network, "auto")
    wanted = wanted_of([job_of("attention_rollout"), job_of("chefer_cam")])
    assert wanted == {"gradients": True, "attention": "gradients"}
    assert wanted_of([job_of("attention_rollout")]) == {"gradients": False, "attention": "maps"}
    form = torch.contiguous_format
    captured = shared_pass(network, batch, ["blocks.0.norm1"], memory_format=form, reshape=reshape, **wanted)
    handle.remove()
    alone = shared_pass(network, batch, ["blocks.0.norm1"], True, form, reshape)
    assert runs == [2]
    torch.testing.assert_close(captured.logits, network(batch.images))
    torch.testing.assert_close(captured.layers["blocks.0.norm1"].grads, alone.layers["blocks.0.norm1"].grads)
    score = Scorer(network, batch.targets, 4)
    for name in ("attention_rollout", "chefer_cam"):
        torch.testing.assert_close(
            job_map(network, batch, captured, score, job_of(name), {}), map_of(name, network, batch)
        )


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("the head broke")


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_left_behind(name: str, broken: bool, network: nn.Module, batch: Batch) -> None:
    own = network.get_submodule(attention_modules(network)[0])
    own.forward = wrapped = partial(type(own).forward, own)  # a user's own forward comes back
    flags = [getattr(network.get_submodule(one), "fused_attn", None) for one in attention_modules(network)]
    captured = pass_for(network, batch, name)
    if broken:
        name_of = "head" if hasattr(network, "head") else "heads"
        setattr(network, name_of, Breaks())
        with pytest.raises(RuntimeError, match="the head broke"):
            pass_for(network, batch, name)
    if broken and conf_node("method", name)["about"]["passes"] != "shared":
        with pytest.raises(RuntimeError, match="the head broke"):
            job_map(network, batch, captured, Scorer(network, batch.targets, 4), job_of(name), {})
    elif not broken:
        job_map(network, batch, captured, Scorer(network, batch.targets, 4), job_of(name), {})
    for part in network.modules():
        assert ("forward" in part.__dict__) == (part is own)
        assert not part._forward_hooks and not part._forward_pre_hooks
    assert own.forward is wrapped
    assert flags == [getattr(network.get_submodule(one), "fused_attn", None) for one in attention_modules(network)]


def test_asked_again_about_other_pictures_and_classes(batch: Batch) -> None:
    """As metrics of robustness and class sensitivity do."""
    network = of_timm()
    jobs = [job_of(name) for name in ATTENTION]
    captured = pass_for(network, batch, *ATTENTION)
    score = Scorer(network, batch.targets, 4)
    explain = Explain(module=network, batch=batch, captured=captured, score=score, natives={}, jobs=jobs, job=jobs[0],
                      running=[], memory_format=torch.contiguous_format)  # fmt: skip
    for job in jobs:
        asked = replace(explain, job=job)
        other = asked(targets=[(0,), (4,)])
        again = map_of(job.label, network, batch_of(batch.images, [(0,), (4,)]))
        torch.testing.assert_close(other, upsample(again, (32, 32)))
        changed = asked(images=batch.images.flip(3))
        assert not torch.allclose(changed, asked(images=batch.images), rtol=1e-3)


class Weights(nn.Module):
    """A block of the older kind: tokens first, the attention's weights used beside its output."""

    num_prefix_tokens, grid_size = 0, (SIDE, SIDE)

    def __init__(self, *, masked: bool = False) -> None:
        super().__init__()
        self.embed, self.masked = PatchEmbed(3, 12, 8, 8), masked
        self.attention, self.fc = nn.MultiheadAttention(12, HEADS), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).permute(2, 0, 1)
        mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool) if self.masked else None
        output, weights = self.attention(tokens, tokens, tokens, attn_mask=mask)
        return self.fc((output.transpose(0, 1) + weights[:, :, :1]).mean(1))


class PatchEmbed(nn.Conv2d):
    grid_size = (SIDE, SIDE)


def test_multihead_attention_of_ones_own(batch: Batch) -> None:
    network = drawn(Weights())
    captured = pass_for(network, batch, "chefer_cam")
    torch.testing.assert_close(captured.logits, network(batch.images))
    assert captured.attention.maps[0].shape == (2, HEADS, 16, 16) and captured.attention.grads[0].abs().max() > 0
    with pytest.raises(UserError, match="methods of attention need blocks"):
        pass_for(drawn(Weights(masked=True)), batch, "chefer_cam")


class Windows(nn.Module):
    """Attention of windows: more of them than pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = WindowAttention()
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = functional.unfold(x, 8, stride=8).view(len(x) * 4, 4, -1)[:, :, :3]
        return self.fc(self.attention(tokens).view(len(x), -1, 3).mean(1))


class WindowAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x @ x.mT)[:, None].softmax(-1) @ x[:, None])[:, 0]


@pytest.mark.parametrize("name", ATTENTION)
def test_networks_without_attention_of_all_tokens_are_one_line(name: str, batch: Batch) -> None:
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()
    narrow = batch_of(batch.images.float(), TARGETS)
    for module, images, says in (
        (cnn, batch, "methods of attention need blocks in which every token of a picture reads every other"),
        (
            Windows(),
            narrow,
            r"the attention of 'attention' is \(8, 1, 4, 4\) for 2 pictures: methods of attention need",
        ),
    ):
        with pytest.raises(UserError, match=says) as raised:
            map_of(name, module, images)
        assert "\n" not in str(raised.value)
    unknown = of_timm()
    with pytest.raises(UserError, match=r"where the 17 tokens of 'blocks\.1\.attn' lie is not known"):
        shared_pass(unknown, batch, [], memory_format=torch.contiguous_format, **wanted_of([job_of(name)]))


def test_distillation_and_register_tokens() -> None:
    """Both tokens that DeiT classifies are read; registers are neither read nor positions."""
    network = timm_model(name="deit_tiny_distilled_patch16_224", weights="random").module
    batch = batch_of(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    readers = pass_for(network, batch, "attention_rollout").attention.readers
    assert readers.tolist()[:3] == [0.5, 0.5, 0] and readers.sum() == 1
    registers = of_timm(reg_tokens=4)
    small = batch_of(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    attention = pass_for(registers, small, "attention_rollout").attention
    assert attention.readers.tolist()[:5] == [1, 0, 0, 0, 0]
    assert attention.tokens.flatten().tolist() == list(range(5, 21))


def test_a_run_with_layers_and_attention(tmp_path: Path) -> None:
    words = ["model=timm", "model.name=test_vit", "model.weights=random", "limit=2", "gallery.cases=1", "device=cpu",
             "score_batch=4", "compile=false", "metric.deletion.steps=2"]  # fmt: skip
    methods = ["grad_cam", *ATTENTION, "random"]
    table = bench.run(*words, method=methods, metric=["deletion", "coherency"], out=tmp_path)
    assert set(table["method"]) == set(methods) and table["mean"].notna().all()
    layers = {name: set(rows["layer"]) for name, rows in table.groupby("method")}
    assert all(layers[name] == {"-"} for name in ATTENTION) and layers["grad_cam"] == {"blocks.5.norm1"}
    with pytest.raises(UserError, match="methods of attention need blocks"):
        bench.run("model=resnet18", *words[2:], method=["chefer_cam"], metric=["deletion"], out=tmp_path)
    network = timm_model(name="test_vit", weights="random")
    shown = bench.explain_image(np.zeros((64, 80, 3), dtype=np.uint8), "legrad", model=network)
    assert shown.heatmap.shape == (64, 80) and shown.layer == "-"
