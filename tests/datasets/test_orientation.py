"""Pictures that EXIF data turn or mirror, and boxes that are about the stored or the shown pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from orientations import SHOWN
from PIL import Image
from torch import Tensor

from bench.datasets.coco import coco
from bench.datasets.folder import folder, imagefolder
from bench.datasets.imagenet import imagenet
from bench.datasets.images import read_image
from bench.datasets.voc import voc
from bench.types import Case

TENCH = "n01440764"


def stored(height: int, width: int) -> np.ndarray:
    """A red object at x 3 to 8, y 2 to 6 on grey."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    pixels[2:6, 3:8] = 255, 0, 0
    return pixels


def save(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, "PNG", exif=exif)
    return path


def red_box(pixels: np.ndarray) -> list[int]:
    """Tight box of the object, xyxy exclusive."""
    rows, columns = np.nonzero(pixels[..., 1] == 0)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def coco_case(root: Path, size: tuple[int, int], box: list[int], square: list[int]) -> Case:
    x0, y0, x1, y1 = box
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": size[0], "width": size[1]}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": [square]}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return coco(root=root).cases[0]


def corners(box: list[int]) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def on_object(case: Case) -> bool:
    """Whether the box holds the object and nothing else, and so does the mask."""
    image, masks = case.load()
    red = image[1] == 0
    expected = torch.zeros_like(red)
    x0, y0, x1, y1 = (int(value) for value in case.boxes[0].tolist())
    expected[y0:y1, x0:x1] = True
    return torch.equal(red, expected) and (masks is None or torch.equal(masks[0], red))


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("size", [(20, 30), (20, 20)])
def test_boxes_in_stored_pixels(tmp_path: Path, orientation: int, size: tuple[int, int]) -> None:
    pixels = stored(*size)
    box = red_box(pixels)
    save(tmp_path / "val2017" / "a.jpg", pixels, orientation)
    assert on_object(coco_case(tmp_path, size, box, corners(box)))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_in_shown_pixels_where_the_size_tells_them(tmp_path: Path, orientation: int) -> None:
    pixels = stored(20, 30)
    shown = SHOWN[orientation](pixels)
    box = red_box(shown)
    save(tmp_path / "val2017" / "a.jpg", pixels, orientation)
    case = coco_case(tmp_path, (30, 20), box, corners(box))
    assert on_object(case)
    assert np.array_equal(case.load()[0].permute(1, 2, 0), shown)


def test_neither_size_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "val2017" / "a.jpg", stored(20, 30), 6)
    case = coco_case(tmp_path, (20, 40), [3, 2, 8, 6], corners([3, 2, 8, 6]))
    with pytest.raises(ValueError, match="the picture is 20 x 30, its annotation says 40 x 20"):
        case.load()


def voc_case(root: Path) -> Case:
    thing = "<object><name>cat</name><bndbox><xmin>4</xmin><ymin>3</ymin><xmax>8</xmax><ymax>6</ymax></bndbox></object>"
    for name, text in (("Annotations/a.xml", f"<annotation>{thing}</annotation>"), ("ImageSets/Main/test.txt", "a")):
        path = root / "VOC2007" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return voc(root=root).cases[0]


def imagenet_case(root: Path) -> Case:
    (root / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\na,{TENCH} 3 2 7 5\n")
    return imagenet(root=root).cases[0]


@pytest.mark.parametrize("orientation", SHOWN)
def test_voc_and_imagenet_without_a_size_are_about_stored_pixels(tmp_path: Path, orientation: int) -> None:
    save(tmp_path / "VOC2007" / "JPEGImages" / "a.jpg", stored(20, 30), orientation)
    save(tmp_path / "val" / "a.jpg", stored(20, 30), orientation)
    assert on_object(voc_case(tmp_path)) and on_object(imagenet_case(tmp_path))


@pytest.mark.parametrize("orientation", SHOWN)
def test_pictures_without_boxes_are_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    pixels = stored(20, 30)
    path = save(tmp_path / TENCH / "a.png", pixels, orientation)
    expected = SHOWN[orientation](pixels)

    def shown(image: Tensor) -> bool:
        return np.array_equal(image.permute(1, 2, 0), expected)

    assert shown(folder(root=tmp_path).cases[0].load()[0]) and shown(imagefolder(root=tmp_path).cases[0].load()[0])
    assert shown(read_image(path)) and np.array_equal(read_image(path, upright=False).permute(1, 2, 0), pixels)
