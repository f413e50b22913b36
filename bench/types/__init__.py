"""The few types that the rooms exchange: records without logic, and errors."""

from bench.types.cases import Batch, Case, Dataset
from bench.types.jobs import FUSED, NO_LAYER, Bound, Job, Metric, at_scale, plain_layer
from bench.types.messages import OneLine, UserError, WorkerDied, counted, printable
from bench.types.networks import Attention, InputSpec, Layer, Network, Reshape

__all__ = [
    "Attention",
    "Batch",
    "Bound",
    "Case",
    "Dataset",
    "FUSED",
    "InputSpec",
    "Job",
    "Layer",
    "Metric",
    "NO_LAYER",
    "Network",
    "OneLine",
    "Reshape",
    "UserError",
    "WorkerDied",
    "at_scale",
    "counted",
    "plain_layer",
    "printable",
]
