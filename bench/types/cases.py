"""What is asked: cases, data sets of them, and batches as the network sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import, and a mistyped name or --help needs none of it
    from torch import Tensor


def _no_boxes() -> Tensor:
    import torch

    return torch.zeros(0, 4)


def _no_flags() -> Tensor:
    import torch

    return torch.zeros(0, dtype=torch.bool)


def _no_values() -> Tensor:
    import torch

    return torch.zeros(0)


@dataclass(frozen=True, eq=False)
class Case:
    """One question: where in this image is the evidence for this class.

    Attributes
    ----------
    id : str
        Unique within the data set and stable between runs, e.g. ``"000012/cat"``.
    image_id : str
        Cases with the same image share it; the bootstrap resamples images. Where they follow one another the image
        is decoded and transformed once.
    class_name : str
        Name of the class asked about, ``""`` where only the prediction is known.
    target : tuple of int
        Output indices that together are the class; ``()`` asks for the predicted class.
    load : callable
        ``load() -> (image, masks)``: tensor (C, *spatial) in original pixels, uint8 or float32 where black is 0 and
        white is 1, and bool tensor (M, *spatial), one mask per box, or None. Raises OSError or ValueError for a bad
        picture. Picklable.
    boxes : Tensor, shape (M, 2 * rank)
        Instances of the class, float32 xyxy in original pixels; x1, y1 exclusive (x1 - x0 = width). In a volume x, y, z
        first and last.
    other_boxes : Tensor, shape (L, 4)
        Objects of other classes, same coordinates.
    difficult : Tensor, shape (M,), bool
        VOC's flag per box.
    ignore : Tensor, shape (R, 4)
        Regions where the class may or may not be (COCO's crowds), same coordinates.
    other_difficult : Tensor, shape (L,), bool
        VOC's flag per box of `other_boxes`; empty where the data set has none.
    files : tuple of str
        Files that `load` reads: others of the same name make other results.
    outlines : str
        Hash of what the masks are drawn from, where that is no file.
    parts : Tensor, shape (P, 2 * rank)
        What was planted in the picture where the truth is known, as `boxes`; x, y, z first and last in a volume.
    values : Tensor, shape (P,)
        What each part is worth to the network: its Shapley value in the class's score.
    load_stored : callable, optional
        ``load_stored(channels) -> (image, masks)``: as `load`, with the channels that the file holds, for networks that
        take another number than three. None where `load` gives all there is.
    """

    id: str
    image_id: str
    class_name: str
    target: tuple[int, ...]
    load: Callable[[], tuple[Tensor, Tensor | None]]
    boxes: Tensor = field(default_factory=_no_boxes)
    other_boxes: Tensor = field(default_factory=_no_boxes)
    difficult: Tensor = field(default_factory=_no_flags)
    ignore: Tensor = field(default_factory=_no_boxes)
    other_difficult: Tensor = field(default_factory=_no_flags)
    files: tuple[str, ...] = ()
    outlines: str = ""
    parts: Tensor = field(default_factory=_no_boxes)
    values: Tensor = field(default_factory=_no_values)
    load_stored: Callable[[int], tuple[Tensor, Tensor | None]] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a data set function returns where a plain list of cases does not say enough.

    Attributes
    ----------
    cases : list of Case
    bad_records : list of dict
        Records that were left out because something is wrong with them: ``record`` names it, ``reason`` says why.
    notes : list of str
        One line each, for the user: what was left out on purpose, and how much.
    outputs : int or None
        Number of outputs of the networks that the cases' targets are meant for; None where not known.
    most_bad : float
        Share of the run's pictures that may turn out to be bad before the run stops.
    offers : tuple of str
        What some metrics need beside boxes: ``mosaic``, each picture is a grid of pictures of one class each.
    show : tuple of int
        Channels of the network's input that are looked at, as red, green and blue or as grey; empty: the first three,
        or the first where there are fewer.
    """

    cases: list[Case]
    bad_records: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outputs: int | None = None
    most_bad: float = 1.0
    offers: tuple[str, ...] = ()
    show: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Batch:
    """Cases as the network sees them; all lists have one entry per case.

    Attributes
    ----------
    images : Tensor, shape (N, C, *spatial)
        Normalized network input.
    ids, image_ids, class_names : list of str
        As in `Case`.
    targets : list of tuple of int
        Output indices of the asked class; never empty here (the prediction is filled in).
    boxes, other_boxes : list of Tensor, shape (M, 2 * rank)
        float32 xyxy in INPUT pixels, not rounded; as in `Case`.
    masks : list of (Tensor or None), shape (M, *spatial)
        Instance masks in input pixels, bool.
    original_boxes, original_masks : list
        The same in ORIGINAL pixels.
    difficult : list of Tensor, shape (M,)
        VOC's flag per box of `original_boxes`, also of those that the input cuts away.
    sizes : list of tuple of int
        Original (height, width), or (depth, height, width).
    black : Tensor, shape (C,)
        Black in normalized space.
    ignore : list of Tensor, shape (R, 2 * rank)
        Regions that count neither as the class nor as something else, INPUT pixels.
    to_input : list of tuple of float
        (sx, sy, tx, ty), or (sx, sy, sz, tx, ty, tz): x_input = sx * x_original + tx and the others likewise, on
        continuous coordinates where pixel i covers [i, i + 1).
    distractors : list of bool
        Whether the original image shows an object of another class that is not ``difficult``.
    parts, values : list of Tensor, shapes (P, 2 * rank) and (P,)
        Of `Case`, parts in INPUT pixels; empty where the truth is not known.
    predicted : list of (int or None)
        Output index of the most probable class; empty where the network was not asked, None where it knows no classes.
    explains : callable or None
        A user's function ``(output, cases) -> scores (n,)`` of what the network returned for the pictures of `cases`, a
        Batch: explained instead of a class. All targets are then (0,).
    show : tuple of int
        As in `Dataset`.
    """

    images: Tensor
    ids: list[str]
    image_ids: list[str]
    class_names: list[str]
    targets: list[tuple[int, ...]]
    boxes: list[Tensor]
    other_boxes: list[Tensor]
    masks: list[Tensor | None]
    original_boxes: list[Tensor]
    original_masks: list[Tensor | None]
    difficult: list[Tensor]
    sizes: list[tuple[int, ...]]
    to_input: list[tuple[float, ...]]
    black: Tensor
    ignore: list[Tensor] = field(default_factory=list)
    distractors: list[bool] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    predicted: list[int | None] = field(default_factory=list)
    explains: Callable[[Any, Batch], Tensor] | None = None
    show: tuple[int, ...] = ()

    @property
    def shown(self) -> list[int]:
        """Channels of the images that are looked at, one or three."""
        return list(self.show) or ([0, 1, 2] if self.images.shape[1] >= 3 else [0])
