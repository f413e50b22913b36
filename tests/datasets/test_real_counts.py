"""Counts on real samples equal those counted straight from the annotation files, by code of its own."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.datasets.coco import coco
from bench.datasets.folder import imagefolder
from bench.datasets.imagenet import imagenet
from bench.datasets.voc import voc

CLASSES = Path(__file__).parents[2] / "bench" / "datasets" / "classes"


def strict(name: str) -> set[str]:
    with (CLASSES / f"imagenet_to_{name}.csv").open() as file:
        return {row["category"] for row in csv.DictReader(file) if row["match"] == "strict"}


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_correspondence_equals_the_one_made_by_others(shared_data: Path, name: str) -> None:
    def read(path: Path) -> set[tuple[str, ...]]:
        with path.open() as file:
            return {tuple(row[key] for key in ("index", "wnid", "category", "match")) for row in csv.DictReader(file)}

    assert read(CLASSES / f"imagenet_to_{name}.csv") == read(shared_data / f"imagenet_to_{name}.csv")


def test_coco(shared_data: Path) -> None:
    data = coco(root=shared_data / "coco", split="sample2017")
    content = json.loads((shared_data / "coco" / "annotations" / "instances_sample2017.json").read_text())
    names = {row["id"]: row["name"] for row in content["categories"]}
    pairs: Counter[tuple[int, str]] = Counter()
    crowds: Counter[tuple[int, str]] = Counter()
    for row in content["annotations"]:
        (crowds if row["iscrowd"] else pairs)[row["image_id"], names[row["category_id"]]] += 1
    known = strict("coco")
    expected = {f"{image:012d}/{name}": n for (image, name), n in pairs.items() if name in known}
    assert {case.id: len(case.boxes) for case in data.cases} == expected
    assert {case.id: len(case.ignore) for case in data.cases if len(case.ignore)} == {
        f"{image:012d}/{name}": n for (image, name), n in crowds.items() if f"{image:012d}/{name}" in expected
    }
    images = Counter(image for image, _ in pairs.elements())
    for case in data.cases:
        assert len(case.boxes) + len(case.other_boxes) == images[int(case.image_id)]
    assert sum(crowds.values()) == 11 and len(content["annotations"]) == 1308
    assert f"({sum(name not in known for _, name in pairs)} image-category pairs)" in data.notes[0]
    assert not data.bad_records


def test_coco_masks_fill_their_boxes_and_areas(shared_data: Path) -> None:
    content = json.loads((shared_data / "coco" / "annotations" / "instances_sample2017.json").read_text())
    areas = {(row["image_id"], tuple(row["bbox"])): row["area"] for row in content["annotations"]}
    cases = coco(root=shared_data / "coco", split="sample2017", min_area=2000).cases[::20]
    assert len(cases) > 8
    for case in cases:
        _, masks = case.load()
        for box, mask in zip(case.boxes.tolist(), masks, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            inner = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert all(abs(float(a) - b) <= 2 for a, b in zip(inner, box, strict=True))
            key = min(
                (k for k in areas if k[0] == int(case.image_id)),
                key=lambda k: sum(
                    abs(a - b) for a, b in zip((*k[1][:2], k[1][0] + k[1][2], k[1][1] + k[1][3]), box, strict=True)
                ),
            )
            assert abs(float(mask.sum()) - areas[key]) < 0.05 * areas[key] + 20


def test_voc(shared_data: Path) -> None:
    root = shared_data / "voc" / "VOCdevkit"
    data = voc(root=root, split="sample", years=[2007, 2012])
    pairs: Counter[str] = Counter()
    difficult: Counter[str] = Counter()
    corners = {}
    for year in (2007, 2012):
        for name in (root / f"VOC{year}" / "ImageSets" / "Main" / "sample.txt").read_text().split():
            text = (root / f"VOC{year}" / "Annotations" / f"{name}.xml").read_text()
            for node in re.findall(r"<object>.*?</object>", text, re.S):
                node = re.sub(r"<part>.*?</part>", "", node, flags=re.S)
                category = re.search(r"<name>(.*?)</name>", node)[1]
                pairs[f"{name}/{category}"] += 1
                difficult[f"{name}/{category}"] += "<difficult>1</difficult>" in node
                edges = [float(re.search(rf"<{side}>(.*?)<", node)[1]) for side in ("xmin", "ymin", "xmax", "ymax")]
                corners.setdefault(f"{name}/{category}", set()).add(tuple(edges))
    expected = {key: n for key, n in pairs.items() if key.split("/")[1] in strict("voc")}
    assert {case.id: len(case.boxes) for case in data.cases} == expected
    assert {case.id: int(case.difficult.sum()) for case in data.cases} == {key: difficult[key] for key in expected}
    assert sum(difficult.values()) > 0 and not data.bad_records
    for case in data.cases:  # one-based and inclusive in the files
        back = {(x0 + 1, y0 + 1, x1, y1) for x0, y0, x1, y1 in case.boxes.tolist()}
        assert all(
            min(max(abs(a - b) for a, b in zip(one, other, strict=True)) for other in corners[case.id]) < 1e-3
            for one in back
        )


def test_voc_one_year_and_selection(shared_data: Path) -> None:
    root = shared_data / "voc" / "VOCdevkit"
    both = voc(root=root, split="sample", years=[2007, 2012]).cases
    apart = [case.id for year in (2007, 2012) for case in voc(root=root, split="sample", years=year).cases]
    assert [case.id for case in both] == apart
    several = voc(root=root, split="sample", years=[2007, 2012], min_instances=2, exclude="person").cases
    assert [c.id for c in several] == [c.id for c in both if len(c.boxes) > 1 and c.class_name != "person"]
    assert len(several) > 10


def test_imagenet(shared_data: Path) -> None:
    root = shared_data / "imagenet_val"
    data = imagenet(root=root)
    expected = {}
    for line in (root / "LOC_val_solution.csv").read_text().splitlines()[1:]:
        name, prediction = line.split(",")
        expected[name] = len(re.findall(r"n\d{8}", prediction))
    assert {case.id: len(case.boxes) for case in data.cases} == expected and len(expected) == 450
    assert not data.bad_records and data.outputs == 1000
    case = data.cases[0]
    assert case.id == "ILSVRC2012_val_00000355" and case.class_name == "chow" and case.target == (260,)
    assert case.boxes[0].tolist() == pytest.approx([51.8, 61.3, 199.1, 214.7])


def test_imagefolder(shared_data: Path) -> None:
    data = imagefolder(root=shared_data / "imagenet_sample")
    files = {
        path.relative_to(shared_data / "imagenet_sample").as_posix()
        for path in shared_data.glob("imagenet_sample/*/*.jpg")
    }
    assert {case.id for case in data.cases} == files and len(files) == 304
