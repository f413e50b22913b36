"""Decode and transform cases ahead of the network."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from bench.datasets.transforms import Sample, prepare
from bench.types import Case, InputSpec, UserError, printable

log = logging.getLogger(__name__)
AHEAD = 32  # pictures that the thread has ready: two batches of data sets with one case a picture
AHEAD_EACH = 4  # and each process
LARGE = ("image", "masks", "original_masks", "scaled")


@dataclass(frozen=True)
class Bad:
    """A case whose picture cannot be decoded, and why."""

    case_id: str
    image_id: str
    reason: str


class _Prepared(Dataset):
    """Cases by picture: those of one picture, which follow one another, share its decoded and transformed pixels."""

    def __init__(self, cases: Sequence[Case], spec: InputSpec, geometry: str, scales: Sequence[float] = ()) -> None:
        self.pictures = [list(same) for _, same in groupby(cases, lambda case: case.image_id)]
        self.spec, self.geometry, self.scales = spec, geometry, scales

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Sample | Bad]:
        ready: list[Sample | Bad] = []
        sample: Sample | None = None
        for case in self.pictures[index]:
            try:
                sample = prepare(case, self.spec, self.geometry, sample, self.scales)
            except (OSError, ValueError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
                ready.append(Bad(case.id, case.image_id, printable(error)[:200]))
                continue
            ready.append(sample)
        return ready


def samples(
    cases: Sequence[Case],
    spec: InputSpec,
    geometry: str,
    workers: int | None,
    device: torch.device,
    scales: Sequence[float] = (),
) -> Iterator[Sample | Bad]:
    """Yield every case, in order, decoded and transformed; tensors on the CPU, page-locked where `device` is a GPU.

    `scales` as in `prepare`.
    `workers` processes decode ahead; with 0 a thread does. None takes none on a CPU, where they would only take the
    network's cores, and up to 8 beside a GPU.
    """
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    pictures = _Prepared(cases, spec, geometry, scales)
    loaded: Iterable[list[Sample | Bad]]
    if workers:
        loader = DataLoader(
            pictures, batch_size=None, collate_fn=_pack, num_workers=workers, prefetch_factor=AHEAD_EACH,
            pin_memory=device.type == "cuda", worker_init_fn=_expect_an_end,
        )  # fmt: skip
        loaded = map(_unpack, loader)
    else:
        loaded = _ahead(pictures)
    said = False
    for picture in loaded:
        for sample in picture:
            if isinstance(sample, Bad):
                log.warning("%s is left out: %s", printable(sample.case_id), sample.reason)
            elif sample.made_grey and not said:
                said = True
                log.warning(
                    "colour pictures become grey: the network takes one channel (%s)", printable(sample.case.id)
                )
            yield sample


def _expect_an_end(_worker: int) -> None:
    """Print no traceback when the process that reads this one's tensors has ended, as after Ctrl-C.

    A thread hands the tensors over, and Python prints its errors; those of decoding reach the reading process.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, (EOFError, ConnectionError)):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def _pack(picture: list[Sample | Bad]) -> tuple[bytes, list[dict[str, Any]]]:
    """Take the large tensors out; the rest becomes bytes.

    A tensor travels in shared memory and costs an open file, of which many systems allow 1,024.
    """
    large = [{name: getattr(one, name) for name in LARGE} if isinstance(one, Sample) else {} for one in picture]
    taken: dict[str, Any] = dict.fromkeys(LARGE)
    rest = [replace(one, **taken) if isinstance(one, Sample) else one for one in picture]
    return pickle.dumps(rest), large


def _unpack(packed: tuple[bytes, list[dict[str, Any]]]) -> list[Sample | Bad]:
    return [
        replace(one, **large) if large else one for one, large in zip(pickle.loads(packed[0]), packed[1], strict=True)
    ]


def refuse_many_bad(
    stream: Iterator[Sample | Bad], name: str, pictures: int, most: float, known: Iterable[str] = ()
) -> Iterator[Sample | Bad]:
    """Pass samples on until more than the share `most` of the run's `pictures` have turned out to be bad.

    `name` is the data set's, for the message; `known` are the ``image_id`` of pictures that earlier parts left out.
    Raises UserError then; what was yielded before can still be used.
    """
    bad = set(known)
    for sample in stream:
        if isinstance(sample, Bad):
            bad.add(sample.image_id)
            if len(bad) > most * pictures:
                raise UserError(
                    f"dataset={name}: {len(bad)} of {pictures} pictures are bad, last {printable(sample.case_id)}: "
                    f"{sample.reason}; finished chunks are kept: mend the pictures and take another out=DIR, or go on "
                    "without them with dataset.allow_bad_records=true"
                )
        yield sample


def _ahead(pictures: _Prepared) -> Iterator[list[Sample | Bad]]:
    """Yield every picture while a thread prepares the next ones: decoders and torch let the network run meanwhile."""
    # OpenMP counts the thread's own helpers, finds more threads than cores and lets all of them sleep instead of wait
    # for work, the network's too: 11 ms an image instead of 8, for as long as the thread lives. The limit is only the
    # thread's own; this one's has to be fixed first, since torch hands the last limit to threads that have none.
    torch.set_num_threads(torch.get_num_threads())
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting: deque[Future[list[Sample | Bad]]] = deque()
        try:
            for index in range(len(pictures)):
                waiting.append(pool.submit(pictures.__getitem__, index))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
