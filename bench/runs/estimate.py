"""What a whole plan costs on this machine, from two batches of it."""

from __future__ import annotations

import time
from functools import partial
from itertools import islice
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.datasets.loading import Bad, samples
from bench.runs.batch import Setting, compute_batch
from bench.runs.cost import Passes, passes_of
from bench.runs.execution import Speed
from bench.runs.facts import Opener
from bench.runs.missing import Needs, Piece
from bench.runs.plan import scales_of, sizes_of
from bench.runs.provenance import device_name, facts
from bench.runs.rows import Writer
from bench.runs.run import Outcome, keeps_map, setting_of, speed_for
from bench.runs.setup import Prepared
from bench.store.parts import CHUNK
from bench.types import NO_LAYER, UserError, counted

WORKERS = (1, 2, 4, 8, 16, 32, 64)


def print_estimate(config: dict[str, Any], network: Opener, plan: Prepared) -> Outcome:
    """Run two batches, time the second and print passes, time and disk of the whole plan; its folder is temporary.

    Equal maps are scored once, but how many maps are equal is only known afterwards: the figures are an upper bound.
    Raises UserError where the first pictures cannot be decoded.
    """
    needs = Needs(((tuple(range(len(plan.jobs))), tuple(range(len(plan.metrics)))),), (), False)
    piece = Piece(0, plan.cases, needs, [])
    keeps = partial(keeps_map, plan, str(config["save_maps"]).lower(), set())
    setting = setting_of(config, plan, network, keeps, set(), [piece])
    speed = speed_for(config, plan, network, setting, [piece], facts(config, plan.device))
    number, spent, stored = sample(config, plan, setting, needs, speed)
    passes = passes_of(plan.jobs, [m.bound for m in plan.metrics], plan.facts.shapes)
    print_table(plan, passes, number, spent, stored)
    whole = spent["all"] / number * len(plan.cases)
    parts = -(-len(plan.cases) // CHUNK)
    useful = [workers for workers in WORKERS if workers <= parts]
    console = Console(highlight=False)
    console.print("workers like this one: " + ", ".join(f"{n}: {duration(whole / n)}" for n in useful))
    console.print(
        f"measured on {counted(number, 'case')}, {device_name(plan.device)}, {counted(speed.batch, 'case')} and "
        f"{counted(speed.score_batch, 'perturbed image')} a pass"
        f"{', compiled' if speed.compiled else ''}, {config['precision']}; no result was kept"
    )
    return Outcome(folder=None, complete=False)


def sample(
    config: dict[str, Any], plan: Prepared, setting: Setting, needs: Needs, speed: Speed
) -> tuple[int, dict[str, float], float]:
    """Compute two batches; return the cases of the second, its seconds by what they were spent on, and bytes a case."""
    scales = sizes_of(scales_of(plan.jobs))
    stream = samples(plan.cases, plan.facts.spec, plan.geometry, config["loader_workers"], plan.device, scales)
    # A CPU's cost a case hardly depends on the batch, and a case may take seconds.
    size = speed.batch if plan.device.type == "cuda" else min(speed.batch, 4)
    number, spent, stored = 0, dict[str, float](), 0.0
    for _ in range(2):  # the first one warms up; a data set of one batch is timed on that
        began = time.perf_counter()
        ready = [sample for sample in islice(stream, size) if not isinstance(sample, Bad)]
        if not ready:
            break
        writer = Writer(plan, {}, [], speed=speed, pieces=[Piece(0, [s.case for s in ready], needs, [])])
        computed = compute_batch(setting, ready, [None] * len(ready), needs, speed, lambda _: None)
        writer.add(ready, computed)
        written = sum(path.stat().st_size for path in plan.folder.parts)
        for path in plan.folder.parts:
            path.unlink()
        number, stored = len(ready), written / len(ready)
        parts = ("capture", "method", "metrics")
        spent = {name: sum(one[name] for one in computed.seconds.values()) for name in parts}
        whole = time.perf_counter() - began
        spent = {"loading": max(0.0, whole - sum(spent.values())), **spent, "all": whole}
    if not number:
        raise UserError("none of the first pictures can be decoded; nothing to estimate from")
    return number, spent, stored


def print_table(plan: Prepared, passes: Passes, number: int, spent: dict[str, float], stored: float) -> None:
    """Print passes, time and disk, a case and all cases; `stored` are bytes a case."""
    console, cases = Console(highlight=False), len(plan.cases)
    methods = len({job.label for job in plan.jobs})
    layers = [name for name in dict.fromkeys(job.layer for job in plan.jobs) if name != NO_LAYER]
    console.print(
        f"{counted(cases, 'case')} x {counted(len(plan.jobs), 'map')} each ({counted(methods, 'method')}, "
        f"{counted(len(layers), 'layer')}), {counted(len(plan.metrics), 'metric')}, "
        f"in {counted(-(-cases // CHUNK), 'result file')}"
    )
    table = Table("", "a case", "all cases", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in vars(passes).items():
        table.add_row(name.replace("_", " ") + " passes", f"{value:,}", f"{value * cases:,}")
    table.add_section()
    for name, value in spent.items():
        table.add_row(f"{name} time", f"{value / number * 1e3:,.0f} ms", duration(value / number * cases))
    table.add_section()
    table.add_row("disk", f"{stored / 1e3:,.1f} kB", f"{stored * cases / 1e6:,.1f} MB")
    console.print(table)
    console.print("equal maps are scored once, so fewer perturbed images may be needed: it shows only in the run")


def duration(seconds: float) -> str:
    """Time in words: ``12 s``, ``3.4 min``, ``5.6 h``, ``7.8 days``."""
    for limit, unit, word in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 else 1}f} {word}"
    return f"{seconds / 86400:,.1f} days"
