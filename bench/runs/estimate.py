"""What a whole plan costs on this machine, from two batches of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

from bench.analysis.merged import MAP_COLUMNS
from bench.datasets.loading import Bad, samples
from bench.runs import store
from bench.runs.batch import compute_cases
from bench.runs.cost import passes_of
from bench.runs.execution import choose_speed, memory_format
from bench.runs.plan import NO_LAYER
from bench.runs.provenance import device_name
from bench.runs.rows import schema_of
from bench.runs.run import Outcome, setting_of
from bench.runs.setup import prepare_run
from bench.types import Bound, Case, Dataset, Network, UserError

WORKERS = (1, 2, 4, 8, 16, 32, 64)


def print_estimate(
    config: dict[str, Any],
    network: Network,
    data: Dataset | Sequence[Case],
    methods: Sequence[Bound],
    metrics: Sequence[Bound],
) -> Outcome:
    """Run two batches, time the second and print passes, time and disk of the whole plan; nothing is kept.

    Arguments and errors as in `bench.runs.run.run`; raises UserError where the first pictures cannot be decoded.
    """
    plan = prepare_run(config, network, data, methods, metrics)
    cases, jobs = len(plan.cases), plan.jobs
    passes = passes_of(jobs, plan.metrics, plan.channels)
    setting = setting_of(config, plan, set())
    speed = choose_speed(config, plan.network, plan.device, cases * passes.scored, setting.forward)
    plan.network.module.to(memory_format=memory_format(speed.channels_last))
    stream = samples(plan.cases, plan.network.spec, plan.geometry, config["loader_workers"], plan.device)
    seconds = {job.folder: {"capture": 0.0, "method": 0.0, "metrics": 0.0} for job in jobs}
    rows: dict[Path, list[dict[str, Any]]] = {}
    # A CPU's cost a case hardly depends on the batch, and a case may take seconds.
    size = speed.batch if plan.device.type == "cuda" else min(speed.batch, 4)
    number = spent = 0.0
    for _ in range(2):  # the first one warms up; a data set of one batch is timed on that
        began = time.perf_counter()
        ready = [sample for sample in islice(stream, size) if not isinstance(sample, Bad)]
        if not ready:
            break
        number, rows = len(ready), {job.folder: [] for job in jobs}
        for parts in seconds.values():
            parts.update(dict.fromkeys(parts, 0.0))
        speed = compute_cases(setting, ready, jobs, speed, rows, seconds, lambda _: None)
        spent = time.perf_counter() - began
    if not number:
        raise UserError("none of the first pictures can be decoded; nothing to estimate from")
    schema = schema_of(next(iter(rows.values())))
    stored = disk(list(rows.values()), schema, cases, len(plan.chunks))
    if len(plan.chunks) > 1:
        merged = pa.schema([field for field in schema if field.name not in MAP_COLUMNS])
        stored += disk(list(rows.values()), merged, cases, 1)
    parts = {name: sum(one[name] for one in seconds.values()) / number for name in ("capture", "method", "metrics")}
    parts = {"loading": max(0.0, spent / number - sum(parts.values())), **parts}

    console = Console(highlight=False)
    layers = [name for name in dict.fromkeys(job.layer for job in jobs) if name != NO_LAYER]
    console.print(
        f"{cases} cases x {len(jobs)} maps each ({len(methods)} methods, {len(layers)} layers), "
        f"{len(plan.metrics)} metrics, in {len(plan.chunks)} x {len(jobs)} result files"
    )
    table = Table("", "a case", "all cases", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in vars(passes).items():
        table.add_row(name.replace("_", " ") + " passes", f"{value:,}", f"{value * cases:,}")
    table.add_section()
    for name, value in {**parts, "all": sum(parts.values())}.items():
        table.add_row(f"{name} time", f"{value * 1e3:,.0f} ms", duration(value * cases))
    table.add_section()
    table.add_row("disk", f"{stored / cases / 1e3:,.1f} kB", f"{stored / 1e6:,.1f} MB")
    console.print(table)
    whole = spent / number * cases
    useful = [workers for workers in WORKERS if workers <= max(1, len(plan.chunks))]
    console.print("workers like this one: " + ", ".join(f"{n}: {duration(whole / n)}" for n in useful))
    console.print(
        f"measured on {int(number)} cases, {device_name(plan.device)}, {speed.batch} cases and {speed.score_batch} "
        f"perturbed images a pass{', compiled' if speed.compiled else ''}, {config['precision']}; no result was kept"
    )
    return Outcome([], False, 0, [])


def disk(tables: Sequence[list[dict[str, Any]]], schema: pa.Schema, cases: int, files: int) -> float:
    """Bytes of so many cases in so many files for each list of rows, which are samples of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.parquet"

        def size(rows: list[dict[str, Any]]) -> int:
            store.write_chunk(path, rows, schema, {})
            return path.stat().st_size

        # A file's own part is paid once a file, a further row's for every case.
        single = [size(rows[:1]) for rows in tables]
        further = [(size(rows) - one) / max(1, len(rows) - 1) for rows, one in zip(tables, single, strict=True)]
    return sum(single) * files + sum(further) * (cases - files)


def duration(seconds: float) -> str:
    """Time in words: ``12 s``, ``3.4 min``, ``5.6 h``, ``7.8 days``."""
    for limit, unit, word in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 else 1}f} {word}"
    return f"{seconds / 86400:,.1f} days"
