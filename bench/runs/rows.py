"""From tensors to the rows of a result file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from torch import Tensor

from bench.maps.target_scores import group_probability
from bench.types import Batch, Bound

META = pa.schema(
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
        ("precision", pa.string()),
        ("degenerate", pa.string()),
        ("map", pa.list_(pa.float16())),
        ("map_shape", pa.list_(pa.int64())),
        ("map_scale", pa.float64()),
    ]
)


def case_rows(batch: Batch, logits: Tensor, precision: str) -> list[dict[str, Any]]:
    """Columns that describe the case and what the network says of it, one dict per case."""
    probability = group_probability(logits, batch.targets).tolist()
    best_probability, best = logits.float().softmax(1).max(1)
    height, width = batch.images.shape[2:]
    return [
        {
            "case_id": batch.ids[i],
            "image_id": batch.image_ids[i],
            "class_name": batch.class_names[i],
            "target": list(batch.targets[i]),
            "n_instances": len(batch.boxes[i]),
            "box_area": union_share(batch.boxes[i], height, width),
            "probability": probability[i],
            "predicted": int(best[i]),
            "predicted_probability": float(best_probability[i]),
            "boxes": batch.boxes[i].flatten().tolist(),
            "other_boxes": batch.other_boxes[i].flatten().tolist(),
            "height": height,
            "width": width,
            "precision": precision,
        }
        for i in range(len(batch.ids))
    ]


def union_share(boxes: Tensor, height: int, width: int) -> float:
    """Share of the input's pixels whose centres lie in any of the boxes (M, 4), xyxy."""
    covered = boxes.new_zeros((height, width))
    for x0, y0, x1, y1 in (boxes - 0.5).ceil().long().clamp(min=0).tolist():
        covered[y0:y1, x0:x1] = 1
    return float(covered.mean())


def metric_columns(
    metrics: Sequence[Bound], heatmaps: Tensor, batch: Batch, score: Any, explain: Any = None
) -> list[dict[str, float | list[float]]]:
    """Every metric's outputs as columns ``<metric>.<output>``, one dict per case.

    A metric that takes ``score`` (`bench.maps.scorer.Scorer`) or ``explain`` (`bench.maps.explain.Explain`) gets it.

    Raises
    ------
    ValueError
        A metric's output is not one value or curve per case.
    """
    rows: list[dict[str, float | list[float]]] = [{} for _ in batch.ids]
    offer = {"score": score, "explain": explain}
    for metric in metrics:
        given = {name: value for name, value in offer.items() if name in metric.wants}
        for name, values in metric.call(heatmaps, batch, **given).items():
            if values.ndim not in (1, 2) or len(values) != len(rows):
                raise ValueError(f"{metric.name}.{name} has shape {tuple(values.shape)} for {len(rows)} cases")
            for row, value in zip(rows, values.tolist(), strict=True):
                row[f"{metric.name}.{name}"] = value
    return rows


def map_columns(native: Tensor, reasons: Sequence[str], kept: Sequence[bool]) -> list[dict[str, Any]]:
    """Degenerate reason and, where kept, the map at native size in float16 with its scale."""
    rows: list[dict[str, Any]] = []
    for values, reason, keep in zip(native, reasons, kept, strict=True):
        row: dict[str, Any] = {"degenerate": reason, "map": None, "map_shape": None, "map_scale": None}
        if keep and reason != "nonfinite":
            # Scaled to 1, else float16 would lose small gradients (under 6e-8) and large sums (over 65504).
            scale = float(values.abs().max()) or 1.0
            scaled = (values / scale).half().flatten().cpu().numpy()
            row |= {"map": scaled, "map_shape": list(values.shape), "map_scale": scale}
        rows.append(row)
    return rows


def schema_of(rows: Sequence[dict[str, Any]]) -> pa.Schema:
    """Columns of a result file: the fixed ones, then the metrics', values as float64 and curves as float32 lists."""
    fields = list(META)
    for name, value in rows[0].items() if rows else ():
        if name not in META.names:
            fields.append(pa.field(name, pa.list_(pa.float32()) if isinstance(value, list) else pa.float64()))
    return pa.schema(fields)
