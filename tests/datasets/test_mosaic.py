"""Mosaics: cells, boxes, classes and the network's say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from bench.datasets.mosaic import mosaic
from bench.types import InputSpec, Network, UserError

COLOURS = {"ant": (200, 0, 0), "bee": (0, 200, 0), "cow": (0, 0, 200), "dog": (200, 200, 0), "eel": (0, 200, 200)}


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    """Three pictures of one colour for each class; the sides are white and must be cut away."""
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for i in range(3):
            picture = Image.new("RGB", (60, 40), "white")
            picture.paste(colour, (10, 0, 50, 40))
            picture.save(tmp_path / name / f"{i}.png")
    return {"name": "imagefolder", "root": str(tmp_path), "class_map": "sorted"}


@pytest.mark.parametrize(("grid", "targets"), [(2, 1), (2, 2), (3, 3)])
def test_boxes_are_the_cells_of_the_class(source: dict[str, Any], grid: int, targets: int) -> None:
    data = mosaic(source=source, mosaics=10, grid=grid, targets=targets, size=24 * grid)
    assert len(data.cases) == 10 and data.outputs == 5
    assert {case.class_name for case in data.cases[:5]} == set(COLOURS)  # classes take turns
    assert len({tuple(case.boxes.flatten().tolist()) for case in data.cases}) > 1
    for case in data.cases:
        image = case.load()[0].permute(1, 2, 0)
        assert image.shape == (24 * grid, 24 * grid, 3)
        assert (len(case.boxes), len(case.other_boxes)) == (targets, grid**2 - targets)
        covered = torch.zeros(image.shape[:2], dtype=torch.int)
        for boxes, mine in ((case.boxes, True), (case.other_boxes, False)):
            for x0, y0, x1, y1 in boxes.int().tolist():
                covered[y0:y1, x0:x1] += 1
                cell = image[y0:y1, x0:x1].reshape(-1, 3)
                assert (cell == cell[0]).all() and (tuple(cell[0].tolist()) == COLOURS[case.class_name]) == mine
        assert (covered == 1).all()


def test_other_cells_show_different_classes(source: dict[str, Any]) -> None:
    for case in mosaic(source=source, mosaics=5).cases:
        image = case.load()[0]
        assert len({tuple(image[:, int(y0), int(x0)].tolist()) for x0, y0, *_ in case.other_boxes.tolist()}) == 3


def test_mosaics_follow_from_number_and_seed(source: dict[str, Any]) -> None:
    few, many = mosaic(source=source, mosaics=4).cases, mosaic(source=source, mosaics=9).cases
    assert [case.id for case in few] == [case.id for case in many[:4]]
    assert torch.equal(few[3].load()[0], many[3].load()[0])
    other = mosaic(source=source, mosaics=4, seed=1).cases
    assert not {case.id for case in few} & {case.id for case in other}


class Reddish(nn.Module):
    """Gives class i a logit by colour; it does not know the cow."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        known = torch.tensor([[c != "cow" and v / 255 for v in COLOURS[c]] for c in COLOURS]).float()
        middle = images[:, :, 4, 4]
        return -100 * (middle[:, None] - known).square().sum(2)


def test_only_recognized_pictures(source: dict[str, Any]) -> None:
    module = Reddish()
    module.register_buffer("here", torch.zeros(1))
    network = Network("toy", module, InputSpec(8, 8, (0.0,) * 3, (1.0,) * 3), [], "random", "")
    data = mosaic(source=source, mosaics=8, min_probability=0.9, network=network)
    assert {case.class_name for case in data.cases} == {"ant", "bee", "dog", "eel"}
    for case in data.cases:
        assert not (case.load()[0].permute(1, 2, 0).reshape(-1, 3) == torch.tensor(COLOURS["cow"])).all(1).any()
    assert data.notes == ["mosaic: not used, under probability 0.9: 3 pictures"]
    with pytest.raises(UserError, match="too few pictures that the network gives probability 0.9 for 4 of 9 cells"):
        mosaic(source=source, grid=3, targets=4, min_probability=0.9, network=network)


def test_default_is_over_the_embedded_scenes() -> None:
    data = mosaic(source={"name": "collage", "scenes": 12}, mosaics=3)
    assert {case.class_name for case in data.cases} == {"cat", "cup", "space shuttle"}
    assert data.cases[0].load()[0].shape == (3, 224, 224) and data.outputs == 1000
    assert {case.class_name for case in mosaic(mosaics=3).cases} == {"cat", "cup", "space shuttle"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"grid": 1}, "dataset.grid=1 must be a whole number from 2"),
        ({"targets": 4}, "dataset.targets=4 must be a whole number from 1 to 3"),
        ({"min_probability": 0.5}, "needs a network"),
        ({"min_probability": 2}, "min_probability=2 must be a number from 0 to 1"),
        ({"source": "imagefolder"}, "must be a mapping: 'dataset.source={name: imagefolder, root: DIR}'"),
        ({"source": {"name": "imagefolders"}}, "there is no 'imagefolders'; there are imagefolder"),
        ({"source": {"name": "imagefolder"}}, "dataset.source=imagefolder needs root"),
        ({"source": {"name": "collage", "scene": 3}}, "there is no 'scene'; there are scenes"),
    ],
)
def test_user_errors(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mosaic(**{"source": {"name": "collage"}, **more})
