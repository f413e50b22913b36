"""Scores to explain where a class is not the question: named as ``target=package.module:function``.

Such a function takes what the network returned for n pictures, as ``model.output`` selects it, and their `cases`, a
`bench.types.Batch`, and returns a score (n,) for each. Those with parameters are named through a user's module:
``dog = functools.partial(bench.maps.targets.region, index=12)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from bench.types import Batch, UserError


def value(output: Tensor, cases: Batch, *, index: int = 0) -> Tensor:
    """Value of a regression network: output `index` of (n, C), or the only one of (n,)."""
    return output if output.ndim == 1 else output.flatten(1)[:, index]


def similarity(output: Tensor, cases: Batch, *, reference: Tensor) -> Tensor:
    """Cosine similarity, -1 to 1, of embeddings (n, D) to that of a reference picture, `reference` (D,)."""
    return cosine_similarity(output.flatten(1), reference.to(output).flatten()[None])


def region(output: Tensor, cases: Batch, *, index: int, over: str = "predicted") -> Tensor:
    """Sum of a class's logits over a region of a segmentation network's output (n, C, h, w).

    Seg-Grad-CAM's score (Vinogradova, Dibrov and Myers, AAAI 2020, arXiv:2002.11434). torchvision's
    networks need ``model.output=out``.

    Parameters
    ----------
    output : Tensor, shape (n, C, h, w)
    cases : Batch
    index : int
        The class.
    over : {"predicted", "objects", "all"}
        Pixels where the class has the highest logit, which may be none, and others in a changed picture; the case's
        masks or, without them, its boxes; every pixel.
    """
    logits = output[:, index]
    if over == "all":
        return logits.flatten(1).sum(1)
    if over == "predicted":
        inside = output.argmax(1) == index
    elif over == "objects":
        outlines = torch.stack([_outline(cases, i) for i in range(len(output))])
        inside = interpolate(outlines[:, None].to(logits), logits.shape[1:])[:, 0] > 0
    else:
        raise UserError(f"over={over} is unknown; it takes predicted, objects, all")
    return (logits * inside).flatten(1).sum(1)


def _outline(cases: Batch, i: int) -> Tensor:
    """Where a case's instances are: bool (H, W) in input pixels."""
    masks = cases.masks[i]
    if masks is not None and len(masks):
        return masks.any(0)
    inside = torch.zeros(cases.images.shape[2:], dtype=torch.bool, device=cases.images.device)
    for x0, y0, x1, y1 in cases.boxes[i].round().long().clamp(min=0).tolist():
        inside[y0:y1, x0:x1] = True
    return inside


def detections(output: Sequence[dict[str, Tensor]], cases: Batch, *, label: int) -> Tensor:
    """Sum of the scores of a detector's boxes of one class, 0 without any.

    `output` is that of torchvision's detectors: for each picture a dict with ``labels`` and ``scores``.
    """
    return torch.stack([one["scores"][one["labels"] == label].sum() for one in output])
