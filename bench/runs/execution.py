"""How a run's passes are cut and run: what changes its time and, by rounding, the last digits of its numbers."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.store.files import hash_key, read_json, write_first
from bench.types import Network, UserError

log = logging.getLogger(__name__)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
Forward = Callable[[Tensor], Tensor]
SIZES = {"cpu": (4, 8, 16, 32), "cuda": (32, 64, 128, 256, 512)}
SECONDS = 2.5  # for all measurements together
# Compiling EfficientNet-Lite0 takes some 10 s on 2 cores and saves 30 % of the time of scoring.
COMPILE_SECONDS, SAVED = 12.0, 0.3


@dataclass(frozen=True, order=True)
class Speed:
    """Batch sizes and the form of the network; kept with a run and used again when it is resumed.

    `batch` cases in one shared pass, `score_batch` perturbed images in one forward pass, memory format of the network,
    and whether perturbed images go through the compiled network.
    """

    batch: int
    score_batch: int
    channels_last: bool
    compiled: bool


def memory_format(channels_last: bool) -> torch.memory_format:
    """Memory format of networks and images."""
    return torch.channels_last if channels_last else torch.contiguous_format


def choose_speed(
    config: dict[str, Any],
    network: Network,
    device: torch.device,
    scored: float,
    forward: Callable[[Speed], Forward],
) -> Speed:
    """Batch sizes as asked or measured, memory format and whether compiling pays as measured.

    Where both sizes are given nothing is measured: channels_last where the network takes it, and compiled only if asked
    for. A GPU compiles only if asked, too: its best batch sizes gained nothing by it (benchmarks/RESULTS.md). On a CPU
    a batch is one chunk of 16 cases, so that a run that was killed, or shared, has the bytes of one that was not.
    `scored` is the number of perturbed images of this run; `forward`, from `forwards`, is asked whether compiling
    works.
    """
    untimed = {"batch": config["score_batch"], "channels_last": network.channels_last, "seconds_per_image": 0.0}
    automatic = "auto" in (config["batch"], config["score_batch"])
    best = measured(network, device, config["precision"]) if automatic else untimed
    pays = device.type == "cpu" and SAVED * scored * best["seconds_per_image"] > 2 * COMPILE_SECONDS
    speed = Speed(
        batch=config["batch"] if config["batch"] != "auto" else max(best["batch"] if device.type == "cuda" else 0, 16),
        score_batch=best["batch"] if config["score_batch"] == "auto" else config["score_batch"],
        channels_last=best["channels_last"] and network.channels_last,
        compiled=pays if config["compile"] == "auto" else config["compile"],
    )
    failed = speed.compiled and forward(speed) is network.module
    return replace(speed, compiled=False) if failed else speed


def measured(network: Network, device: torch.device, precision: str) -> dict[str, Any]:
    """Fastest batch size and memory format of forward passes, from the cache or measured in under 3 s.

    The answer is kept below ``$XDG_CACHE_HOME/cam-bench`` per network, device, number of threads and precision. Whoever
    writes first is right: processes that start together go on with one answer.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    key = hash_key(
        [network.name, network.spec.shape, name, precision, torch.__version__, torch.get_num_threads(), os.cpu_count()]
    )
    # A user without a name, as in some containers, may have no home; then the answer is kept nowhere.
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not home.is_absolute():
        return measure(network, device, precision)
    path = home / "cam-bench" / f"speed-{key}.json"
    known = read_json(path)
    if whole(known):
        return known
    best = measure(network, device, precision)
    try:
        return write_first(path, best, whole)
    except UserError as error:
        log.debug("the measured batch size is not kept: %s", error)
        return best


def whole(kept: dict[str, Any]) -> bool:
    """Whether a kept answer holds what it should."""
    batch: Any = kept.get("batch")
    seconds: Any = kept.get("seconds_per_image")
    numbers = type(batch) is int and 1 <= batch <= max(SIZES["cuda"]) and isinstance(seconds, float)
    return numbers and 0 < seconds < math.inf and isinstance(kept.get("channels_last"), bool)


def measure(network: Network, device: torch.device, precision: str) -> dict[str, Any]:
    """Time forward passes: both memory formats at the smallest size, growing sizes in the faster one, the best again.

    Single times differ by a tenth and more on a busy machine, so the best few are timed in turns while time is left.
    """
    formats = (True, False) if network.channels_last else (False,)
    smallest, *larger = SIZES["cuda" if device.type == "cuda" else "cpu"]
    seconds: dict[tuple[int, bool], float] = {}
    if device.type == "cuda":  # the first pass loads CUDA's libraries, which takes as long as all measurements
        timed(network.module, torch.zeros(1, *network.spec.shape, device=device), precision)
    began = time.perf_counter()

    def try_out(size: int, channels_last: bool) -> bool:
        known = min(seconds.values(), default=0.0)
        if time.perf_counter() - began + 2 * size * known > SECONDS:
            return False
        network.module.to(memory_format=memory_format(channels_last))
        images = torch.zeros(size, *network.spec.shape, device=device)
        images = images.contiguous(memory_format=memory_format(channels_last))
        at = size, channels_last
        try:
            seconds[at] = min(seconds.get(at, math.inf), timed(network.module, images, precision) / size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        return True

    # In turns, since all larger sizes are timed in the faster format alone: one disturbed pass must not choose it.
    for channels_last in formats * 3:
        try_out(smallest, channels_last)
    format_of = min(seconds, key=seconds.__getitem__)[1] if seconds else formats[0]
    for size in larger:
        try_out(size, format_of)
    good = [at for at in seconds if seconds[at] < 1.25 * min(seconds.values())]
    while good and all(try_out(*at) for at in good):
        pass
    # A larger batch has to be clearly faster: it costs memory.
    best = min(
        (at for at in seconds if seconds[at] < 1.05 * min(seconds.values())),
        key=lambda at: (at[0], seconds[at]),
        default=(1, formats[0]),
    )
    network.module.to(memory_format=memory_format(best[1]))
    log.debug("batch %d, channels_last %s, of %s", *best, {k: round(v, 5) for k, v in seconds.items()})
    return {"batch": best[0], "channels_last": best[1], "seconds_per_image": seconds.get(best, 0.1)}


def timed(module: nn.Module, images: Tensor, precision: str) -> float:
    """Seconds of one forward pass, the faster of two."""
    seconds = []
    reduced = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.no_grad(), reduced:
        for _ in range(2):
            began = time.perf_counter()
            module(images)
            if images.device.type == "cuda":
                torch.cuda.synchronize(images.device)
            seconds.append(time.perf_counter() - began)
    return min(seconds)


def forwards(
    module: nn.Module, shape: Sequence[int], device: torch.device, precision: str
) -> Callable[[Speed], Forward]:
    """Return a function that gives the network as a speed wants it, compiled at the first need."""

    @cache
    def compiled(score_batch: int, channels_last: bool) -> Forward:
        images = torch.zeros(score_batch, *shape, device=device)
        reduced = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        # torch warns where it sees a CUDA toolkit and no GPU, which changes nothing on a CPU.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        try:
            from torch._inductor import config as inductor  # slow to import

            function = torch.compile(module, dynamic=False)
            # As an option of torch.compile it would come too late: tracing must find the weights constant already.
            with inductor.patch(freezing=True), torch.no_grad(), reduced, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "TensorFloat32", UserWarning)  # precision=tf32 is there to ask for it
                function(images)
        except Exception as error:  # whatever a compiler's tool chain may raise: the network itself still works
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("compile: not possible here (%s); going on without", reason)
            return module
        return function

    def forward(speed: Speed) -> Forward:
        return compiled(speed.score_batch, speed.channels_last) if speed.compiled else module

    return forward


def set_precision(precision: str, device: torch.device) -> None:
    """Switch TF32 on or off for the whole process; torch switches it on for convolutions by default.

    Raises
    ------
    UserError
        TF32 is asked for where there is none.
    """
    tf32 = precision == "tf32"
    if tf32 and device.type != "cuda":
        raise UserError("precision=tf32 needs an NVIDIA GPU; choose float32 or bfloat16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks instead of giving them back to the system.

    A feature map of more than 32 MiB is otherwise a fresh mapping in every forward pass, and touching its pages
    costs more than some convolutions: on 2 cores efficientnet_lite0 took 23 ms an image without and 14 ms with this.
    Elsewhere than on Linux with glibc it does nothing. Call it before large tensors are made.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**30)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
