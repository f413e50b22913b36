"""From tensors to rows, and from rows to parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from torch import Tensor, nn

from bench.maps.heatmaps import named_errors
from bench.maps.target_scores import group_probability, output_values
from bench.runs.missing import Piece
from bench.runs.plan import curve_points, parameters_of
from bench.runs.provenance import finish_provenance
from bench.store.parts import write_columns, write_part
from bench.types import Batch, Bound, Metric

log = logging.getLogger(__name__)
CASE = pa.schema(
    [
        ("case_id", pa.string()),
        ("image_id", pa.string()),
        ("class_name", pa.string()),
        ("target", pa.list_(pa.int64())),
        ("n_instances", pa.int64()),
        ("box_area", pa.float64()),
        ("probability", pa.float64()),
        ("predicted", pa.int64()),
        ("predicted_probability", pa.float64()),
        ("boxes", pa.list_(pa.float32())),
        ("other_boxes", pa.list_(pa.float32())),
        ("height", pa.int64()),
        ("width", pa.int64()),
    ]
)
META = pa.schema(
    [
        ("method", pa.string()),
        ("layer", pa.string()),
        *CASE,
        ("degenerate", pa.string()),
        ("map", pa.list_(pa.float32())),
        ("map_shape", pa.list_(pa.int64())),
    ]
)


def case_rows(batch: Batch, logits: Tensor, kind: str = "softmax") -> list[dict[str, Any]]:
    """Columns that describe the case and what the network says of it, one dict per case.

    `kind` is how a probability follows from the logits, as in `bench.types.Network`.
    """
    probability = group_probability(logits, batch.targets, kind).tolist()
    best_probability, best = (values.tolist() for values in output_values(logits, kind).max(1))
    if batch.explains is not None:  # of no class
        best_probability = best = [None] * len(batch.ids)
    height, width = batch.images.shape[-2:]
    return [
        {
            "case_id": batch.ids[i],
            "image_id": batch.image_ids[i],
            "class_name": batch.class_names[i],
            "target": list(batch.targets[i]),
            "n_instances": len(batch.boxes[i]),
            "box_area": union_share(batch.boxes[i], batch.images.shape[2:]),
            "probability": probability[i],
            "predicted": best[i],
            "predicted_probability": best_probability[i],
            "boxes": batch.boxes[i].flatten().tolist(),
            "other_boxes": batch.other_boxes[i].flatten().tolist(),
            "height": height,
            "width": width,
        }
        for i in range(len(batch.ids))
    ]


def union_share(boxes: Tensor, size: Sequence[int]) -> float:
    """Share of the pixels of an input of this size whose centres lie in any of the boxes (M, 2 * rank), x first."""
    covered = boxes.new_zeros(tuple(size))
    for box in (boxes - 0.5).ceil().long().clamp(min=0).tolist():
        low, high = box[: len(size)][::-1], box[len(size) :][::-1]
        covered[tuple(slice(first, end) for first, end in zip(low, high, strict=True))] = 1
    return float(covered.mean())


def metric_columns(
    metric: Bound,
    label: str,
    heatmaps: Tensor,
    batch: Batch,
    score: Any = None,
    explain: Any = None,
    native: Tensor | None = None,
) -> list[dict[str, float | list[float]]]:
    """Measure: a metric's outputs as columns ``<label>.<output>``, one dict per case.

    A metric that takes ``score`` (`bench.maps.scorer.Scorer`), ``explain`` (`bench.maps.explain.Explain`) or
    ``native``, the maps (N, *spatial) before they were brought to the input's size, gets it.

    Raises
    ------
    ValueError
        An output is not one value or curve per case.
    TypeError
        The outputs are no dict of tensors.
    """
    rows: list[dict[str, float | list[float]]] = [{} for _ in batch.ids]
    offer = {"score": score, "explain": explain, "native": native}
    with named_errors(metric.name):
        # A copy, so that a metric that writes into the maps leaves them as they are for the next one.
        values_of = metric.call(
            heatmaps.clone(), batch, **{name: offer[name] for name in offer if name in metric.wants}
        )
    if not isinstance(values_of, dict) or not all(isinstance(values, Tensor) for values in values_of.values()):
        raise TypeError(f"{metric.name} gave {str(values_of)[:60]} instead of a dict of tensors")
    for name, values in values_of.items():
        if values.ndim not in (1, 2) or len(values) != len(rows):
            raise ValueError(f"{metric.name}.{name} has shape {tuple(values.shape)} for {len(rows)} cases")
        for row, value in zip(rows, values.tolist(), strict=True):
            row[f"{label}.{name}"] = value
    return rows


def map_columns(native: Tensor, kept: Sequence[bool]) -> list[dict[str, Any]]:
    """Each map (N, *spatial) at native size where it is kept."""
    return [
        {"map": values.flatten().cpu().numpy() if keep else None, "map_shape": list(values.shape) if keep else None}
        for values, keep in zip(native, kept, strict=True)
    ]


def schema_of(outputs: dict[str, str]) -> pa.Schema:
    """Columns of a part: the fixed ones, then the metrics' outputs, ``value`` as float64, ``curve`` as float32 list."""
    types = {"value": pa.float64(), "curve": pa.list_(pa.float32())}
    return pa.schema([*META, *(pa.field(name, types[kind]) for name, kind in outputs.items())])


def outputs_of(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Columns of the metrics in a part's rows: ``value`` or ``curve`` by name."""
    first = rows[0] if rows else {}
    return {name: "curve" if isinstance(first[name], list) else "value" for name in first if name not in META.names}


@dataclass(eq=False)
class Writer:
    """Collects the rows of batches and writes a piece's parts as soon as all its cases are done.

    `made` goes into every part; `notes` are those of the parts on disk and of those written since; `pieces` are not
    complete yet; `skipped` are pictures that cannot be decoded, by case id; the next batch is computed at `speed`;
    `module`, if any, and `running`, as in `Setting`, name the points of some metrics' curves.
    """

    plan: Any
    made: dict[str, Any]
    notes: list[dict[str, Any]]
    pieces: list[Piece] = field(default_factory=list)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    speed: Any = None
    module: nn.Module | None = None
    running: Sequence[str] = ()
    _rows: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    _seconds: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    _dropped: dict[str, int] = field(default_factory=dict)

    def add(self, samples: Sequence[Any], computed: Any) -> None:
        """Take a batch's rows, and write the pieces that are complete with them."""
        self.speed = replace(self.speed, score_batch=computed.score_batch)
        for c, sample in enumerate(samples):
            case = sample.case.id
            self._rows[case] = {j: rows[c] for j, rows in computed.rows.items()}
            self._seconds[case] = {
                j: {name: value / len(samples) for name, value in parts.items()}
                for j, parts in computed.seconds.items()
            }
            if sample.dropped:
                self._dropped[case] = sample.dropped
        self.write_complete()

    def write_complete(self) -> None:
        """Write every piece whose cases are all done or skipped."""
        complete = [p for p in self.pieces if all(c.id in self._rows or c.id in self.skipped for c in p.cases)]
        for piece in complete:
            for own, wanted in piece.needs.blocks:
                self._write(piece, own, wanted)
            for case in piece.cases:
                self._rows.pop(case.id, None)
                self._seconds.pop(case.id, None)
            self.pieces.remove(piece)

    def _write(self, piece: Piece, own: Sequence[int], wanted: Sequence[int]) -> None:
        """Write one part: these jobs and metrics of a piece's cases."""
        cases = [case.id for case in piece.cases if case.id in self._rows]
        rows = [self._rows[case][j] for j in own for case in cases]
        outputs = outputs_of(rows)
        note = {
            "protocol": self.plan.folder.protocol["key"],
            "cases": cases,
            "entries": [self._entry(j, cases) for j in own],
            "metrics": {metric.label: self._metric(metric) for metric in [self.plan.metrics[m] for m in wanted]},
            "outputs": outputs,
            "skipped": [self.skipped[case.id] for case in piece.cases if case.id in self.skipped],
            "dropped": [{"case_id": case, "boxes": self._dropped[case]} for case in cases if case in self._dropped],
            "batch": self.speed.batch,
            "score_batch": self.speed.score_batch,
            "made": self.made,
        }
        path = write_part(self.plan.folder.path, piece.chunk, rows, schema_of(outputs), note)
        self.notes.append(note)
        log.debug("%s: %d cases, %d maps each", path, len(cases), len(own))

    def _entry(self, j: int, cases: Sequence[str]) -> dict[str, Any]:
        """Describe a job in a part's note."""
        job = self.plan.jobs[j]
        seconds = [self._seconds[case][j] for case in cases]
        return {
            "key": job.key,
            "method": job.label,
            "name": job.method.name,
            "layer": job.layer,
            "layers": list(job.layers),
            "index": job.index,
            "category": job.method.about.get("category", "other"),
            "version": job.method.about.get("version", 0),
            "parameters": {k: v for k, v in parameters_of(job.method).items() if k != "version"},
            "maps": "".join("01"[self._rows[case][j]["map"] is not None] for case in cases),
            "seconds": {name: round(sum(one[name] for one in seconds), 4) for name in ("capture", "method", "metrics")},
        }

    def _metric(self, metric: Metric) -> dict[str, Any]:
        """Describe a metric in a part's note; what follows the score and no probability is in the score's unit."""
        note = metric_note(metric, self.module, self.running)
        if self.plan.facts.probability == "none" and note["about"].get("unit") == "probability":
            note["about"]["unit"] = "explained score"
        return note

    def finish(self, bad_records: Sequence[dict[str, str]]) -> None:
        """Write what is complete, the provenance, and the list of all columns."""
        self.write_complete()
        finish_provenance(self.plan.folder, self.made, self.notes, bad_records)
        outputs = {name: kind for note in self.notes for name, kind in note["outputs"].items()}
        write_columns(self.plan.folder.path, schema_of(outputs))


def metric_note(metric: Metric, module: nn.Module | None, running: Sequence[str]) -> dict[str, Any]:
    """Describe a metric in a part's note."""
    about = {key: value for key, value in metric.bound.about.items() if key not in ("version", "curve_points")}
    about |= curve_points(metric.bound, module, running)
    parameters = {k: v for k, v in parameters_of(metric.bound).items() if k not in ("version", "relu")}
    version = metric.bound.about.get("version", 0)
    return {"key": metric.key, "name": metric.bound.name, "version": version, "parameters": parameters, "about": about}
