"""Decode and transform cases ahead of the network."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from bench.transforms import InputSpec, Sample, prepare
from bench.types import Case

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bad:
    """A case whose picture cannot be decoded, and why."""

    case_id: str
    reason: str


class _Prepared(Dataset):
    def __init__(self, cases: Sequence[Case], spec: InputSpec, geometry: str) -> None:
        self.cases, self.spec, self.geometry = cases, spec, geometry

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Sample | Bad:
        case = self.cases[index]
        try:
            return prepare(case, self.spec, self.geometry)
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
            return Bad(case.id, " ".join(str(error).split())[:200])


def samples(
    cases: Sequence[Case], spec: InputSpec, geometry: str, workers: int | None, device: torch.device
) -> Iterator[Sample | Bad]:
    """Yield every case, in order, decoded and transformed.

    Parameters
    ----------
    cases : sequence of Case
    spec : InputSpec
    geometry : str
        See `bench.transforms.prepare`.
    workers : int or None
        Processes that decode ahead; None takes none on a CPU, where they would only take the network's cores,
        and up to 8 beside a GPU.
    device : torch.device
        Of the network; tensors are yielded on the CPU.
    """
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    # Batches keep the cases of one image in one process, which decodes it once.
    loader = DataLoader(_Prepared(cases, spec, geometry), batch_size=16, num_workers=workers, collate_fn=list)
    for batch in loader:
        for sample in batch:
            if isinstance(sample, Bad):
                log.warning("%s is left out: %s", sample.case_id, sample.reason)
            yield sample
