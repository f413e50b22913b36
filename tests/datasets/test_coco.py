"""COCO's format, made by hand: geometry, selections, what is wrong with files and records."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets.annotations.segmentations import decode_masks
from bench.datasets.classes.class_map import read_class_map
from bench.datasets.coco import coco
from bench.types import UserError

CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 13, "name": "stop sign"}]


def thing(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0,
        "segmentation": polygon, **more,
    }  # fmt: skip


def write(root: Path, annotations: list[dict[str, Any]], images: int = 2, **more: Any) -> Path:
    (root / "toy").mkdir(exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    rows = []
    for number in range(1, images + 1):
        name = f"{number:012d}.png"
        Image.fromarray(np.full((30, 40, 3), number, np.uint8)).save(root / "toy" / name)
        rows.append({"id": number, "file_name": name, "width": 40, "height": 30})
    content = {"images": rows, "annotations": annotations, "categories": CATEGORIES, **more}
    (root / "annotations" / "instances_toy.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    code = {"size": [30, 40], "counts": [0, 60, 1140]}  # column by column: the first two columns
    return write(
        tmp_path,
        [
            thing(1, 1, 17, [4, 5, 10, 20]),
            thing(2, 1, 17, [20, 5, 10, 10]),
            thing(3, 1, 17, [0, 0, 2, 30], iscrowd=1, segmentation=code),
            thing(4, 1, 18, [30, 20, 5, 5]),
            thing(5, 1, 13, [1, 1, 3, 3]),
            thing(6, 2, 18, [0, 0, 40, 30]),
            thing(7, 2, 17, [0, 5, 9, 9], iscrowd=1, segmentation=code),
        ],
    )


def ids(root: Path, **more: Any) -> list[str]:
    return [case.id for case in coco(root=root, split="toy", **more).cases]


def test_cases_boxes_masks_and_crowds(toy: Path) -> None:
    data = coco(root=toy, split="toy")
    assert ids(toy) == ["000000000001/cat", "000000000001/dog", "000000000002/dog"]
    cat = data.cases[0]
    assert cat.boxes.tolist() == [[4, 5, 14, 25], [20, 5, 30, 15]]
    assert cat.ignore.tolist() == [[0, 0, 2, 30]]
    assert sorted(cat.other_boxes.tolist()) == [[1, 1, 4, 4], [30, 20, 35, 25]]
    assert 281 in cat.target and len(cat.target) == 5 and data.outputs == 1000
    image, masks = pickle.loads(pickle.dumps(cat.load))()
    assert image.shape == (3, 30, 40) and masks.shape == (2, 30, 40) and masks.dtype == torch.bool
    assert masks[0].sum() == 200 and masks[0, 5:25, 4:14].all() and masks[1, 5:15, 20:30].all()
    assert "no class means them: 1 (1 image-category pairs)" in data.notes[0] and not data.bad_records


def test_crowds_count_as_the_class_where_asked_for(toy: Path) -> None:
    """As in TorchRay, whose masks of a class hold all its annotations."""
    data = coco(root=toy, split="toy", crowds="class")
    assert [case.id for case in data.cases] == [*ids(toy)[:2], "000000000002/cat", "000000000002/dog"]
    cat, crowd = data.cases[0], data.cases[2]
    assert cat.boxes.tolist() == [[4, 5, 14, 25], [20, 5, 30, 15], [0, 0, 2, 30]] and len(cat.ignore) == 0
    masks = cat.load()[1]
    assert masks is not None and masks[2, :, :2].all() and masks[2].sum() == 60
    assert crowd.boxes.tolist() == [[0, 5, 9, 14]] and crowd.load()[1].sum() == 60
    assert data.cases[3].other_boxes.tolist() == crowd.boxes.tolist()
    assert len(coco(root=toy, split="toy").cases[2].other_boxes) == 0
    assert ids(toy, crowds="class", min_instances=3) == ["000000000001/cat"]


@pytest.mark.parametrize(("flag", "ignored"), [("0", 0), ("1", 1), (0, 0), (1, 1), (True, 1), (False, 0), (None, 0)])
def test_iscrowd_in_every_writing(tmp_path: Path, flag: Any, ignored: int) -> None:
    root = write(tmp_path, [thing(1, 1, 17, [4, 5, 10, 20]), thing(2, 1, 17, [20, 5, 10, 10], iscrowd=flag)])
    case = coco(root=root, split="toy").cases[0]
    assert (len(case.boxes), len(case.ignore)) == (2 - ignored, ignored)


def test_categories_of_one_name_are_one(tmp_path: Path) -> None:
    """Roboflow's exports begin with a category that is called as the project."""
    twice = [{"id": 0, "name": "cat"}, {"id": 17, "name": "cat"}]
    root = write(tmp_path, [thing(1, 1, 17, [4, 5, 10, 20]), thing(2, 1, 0, [20, 5, 10, 10])], categories=twice)
    data = coco(root=root, split="toy")
    assert [case.id for case in data.cases] == ["000000000001/cat"] and len(data.cases[0].boxes) == 2


def test_own_categories_need_a_class_map(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, 1, 1, [4, 5, 10, 20])], categories=[{"id": 1, "name": "helmet"}])
    with pytest.raises(UserError, match=r"means any of its 1 categories \(helmet\).*dataset.class_map=FILE"):
        coco(root=root, split="toy")
    (tmp_path / "map.csv").write_text("index,category\n3,helmet\n")
    assert coco(root=root, split="toy", class_map=str(tmp_path / "map.csv")).cases[0].target == (3,)


def test_every_kind_of_segmentation() -> None:
    from pycocotools import mask as mask_utils

    expected = np.zeros((30, 40), dtype=bool)
    expected[:, :2] = True
    plain = {"size": [30, 40], "counts": [0, 60, 1140]}
    compressed = mask_utils.frPyObjects(plain, 30, 40)
    two = [[0, 0, 1, 0, 1, 30, 0, 30], [1, 0, 2, 0, 2, 30, 1, 30]]
    masks = decode_masks([plain, compressed, [[0, 0, 2, 0, 2, 30, 0, 30]], two, [[1, 1, 2, 2]]], 30, 40)
    assert masks.shape == (5, 30, 40) and masks.dtype == torch.bool
    assert all(np.array_equal(mask, expected) for mask in masks[:4]) and not masks[4].any()
    with pytest.raises(ValueError, match="40 x 30 pixels"):
        decode_masks([plain], 31, 40)


def test_selections(toy: Path, tmp_path: Path) -> None:
    assert ids(toy, categories="dog") == ["000000000001/dog", "000000000002/dog"]
    assert ids(toy, exclude=["dog"]) == ["000000000001/cat"]
    assert ids(toy, min_instances=2) == ["000000000001/cat"]
    assert ids(toy, max_instances=1) == ["000000000001/dog", "000000000002/dog"]
    assert ids(toy, min_area=100) == ["000000000001/cat", "000000000002/dog"]
    assert ids(toy, min_area=101) == ["000000000002/dog"]
    (tmp_path / "some.txt").write_text("2\n")
    assert ids(toy, subset=str(tmp_path / "some.txt")) == ["000000000002/dog"]
    (tmp_path / "mine.csv").write_text("index,category\n3,dog\n1,dog\n")
    data = coco(root=toy, split="toy", class_map=str(tmp_path / "mine.csv"))
    assert {case.target for case in data.cases} == {(1, 3)} and data.outputs is None


def test_order_of_the_file_changes_nothing(toy: Path) -> None:
    before = coco(root=toy, split="toy").cases
    path = toy / "annotations" / "instances_toy.json"
    content = json.loads(path.read_text())
    content["images"].reverse()
    content["annotations"].reverse()
    path.write_text(json.dumps(content))
    after = coco(root=toy, split="toy").cases
    assert [c.id for c in before] == [c.id for c in after]
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"split": "val2017"}, "instances_val2017.json does not exist; check dataset.root and dataset.split"),
        ({"categories": ["cta"]}, "there is no 'cta'; there are cat"),
        ({"exclude": "zebra"}, "there is no 'zebra'"),
        ({"categories": ["stop sign"]}, "no class of the class map means 'stop sign'"),
        ({"min_instances": 0}, "min_instances=0 must be a whole number from 1"),
        ({"min_instances": 2, "max_instances": 1}, "max_instances=1 must be a whole number from 2"),
        ({"min_instances": 9}, "leaves no case"),
        ({"subset": "nowhere.txt"}, "nowhere.txt does not exist"),
        ({"class_map": "nowhere.csv"}, "nowhere.csv does not exist"),
        ({"match": "some"}, "takes strict or loose"),
        ({"crowds": "count"}, "dataset.crowds=count is unknown; it takes ignore or class"),
    ],
)
def test_user_errors(toy: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        coco(**{"root": toy, "split": "toy", **more})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index;category\n1;cat\n", "has no column 'index'"),
        ("index,category\n-1,cat\n", "'-1' is no output index"),
        ("index,category\nx,cat\n", "'x' is no output index"),
        ("index,category\n", "holds no rows"),
    ],
)
def test_bad_class_maps(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_class_map("coco", str(tmp_path / "mine.csv"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"images": []}', '{"images": [{}], "annotations": [], "categories": []}']
)
def test_foreign_annotation_file(toy: Path, text: str) -> None:
    (toy / "annotations" / "instances_toy.json").write_text(text)
    with pytest.raises(UserError, match="instances_toy.json"):
        coco(root=toy, split="toy")


BAD = [
    (thing(9, 1, 18, [0, 0, 0, 5]), "has no or negative size"),
    (thing(9, 1, 18, [9, 9, -3, 5]), "has no or negative size"),
    (thing(9, 1, 18, [30, 5, 20, 5]), "lies outside the picture of 40 x 30"),
    (thing(9, 1, 18, [-5, 5, 10, 5]), "lies outside the picture"),
    (thing(9, 1, 99, [1, 1, 5, 5]), "there is no category 99"),
    (thing(9, 77, 18, [1, 1, 5, 5]), "there is no image with this id"),
    ({**thing(9, 1, 18, [1, 1, 5, 5]), "bbox": [1, 2]}, "not four numbers"),
    ({**thing(9, 1, 18, [1, 1, 5, 5]), "bbox": [1, 2, "a", 3]}, "not four numbers"),
]


@pytest.mark.parametrize(("wrong", "reason"), BAD)
def test_bad_annotations_are_listed_and_five_percent_stop(tmp_path: Path, wrong: dict, reason: str) -> None:
    good = [thing(100 + i, 1, 17, [i, 5, 4, 4]) for i in range(19)]
    data = coco(root=write(tmp_path, [*good, wrong]), split="toy")  # 1 of 20 is 5 %, not over
    assert len(data.bad_records) == 1 and reason in data.bad_records[0]["reason"]
    assert "9" in data.bad_records[0]["record"] and "bad records left out: 1, first annotation 9" in data.notes[-1]
    assert [len(case.boxes) for case in data.cases] == [19]
    root = write(tmp_path, [*good[1:], wrong])
    with pytest.raises(UserError, match="1 of 19 annotations are bad, first annotation 9 .*allow_bad_records=true"):
        coco(root=root, split="toy")
    assert len(coco(root=root, split="toy", allow_bad_records=True).bad_records) == 1


def test_missing_and_empty_pictures(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(i, i, 17, [1, 1, 9, 9]) for i in range(1, 41)], images=40)
    (root / "toy" / "000000000003.png").unlink()
    (root / "toy" / "000000000004.png").write_bytes(b"")
    data = coco(root=root, split="toy")
    assert len(data.cases) == 38
    assert [row["reason"] for row in data.bad_records] == ["the picture is not there", "the picture is an empty file"]
    (root / "toy" / "000000000005.png").unlink()
    with pytest.raises(UserError, match="3 of 40 pictures are bad"):
        coco(root=root, split="toy")


def test_another_picture_than_annotated_is_refused_on_loading(toy: Path) -> None:
    case = coco(root=toy, split="toy").cases[0]
    Image.new("RGB", (30, 40)).save(toy / "toy" / "000000000001.png")
    with pytest.raises(ValueError, match="the picture is 30 x 40, its annotation says 40 x 30"):
        case.load()
    path = toy / "toy" / "000000000001.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(OSError, match="000000000001.png"):
        case.load()
