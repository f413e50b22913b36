"""Counts on real samples equal those counted straight from the annotation files, by code of its own."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from bench.datasets.coco import coco
from bench.datasets.folder import imagefolder
from bench.datasets.imagenet import imagenet
from bench.datasets.transforms import collate, prepare
from bench.datasets.voc import voc
from bench.types import InputSpec
from metrics.pointing import pointing_game

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


# From torchray 1.0.0.2's pointing_game_ebp_coco_difficult.txt (pip download torchray, 2026-11-27), of pictures that
# are in the sample and in COCO val2014: pairs that are not difficult, and difficult ones whose BOXES fill a quarter.
EASY = {
    "18575/dining table", "20992/person", "22192/bed", "41888/bird", "54718/elephant", "60932/person", "62554/bowl",
    "62554/broccoli", "62554/dining table", "84533/motorcycle", "92660/pizza", "99053/bowl", "99053/dining table",
    "101787/airplane", "128598/apple", "128598/orange", "151938/person", "160012/dining table", "160012/pizza",
    "174482/bicycle", "180232/orange", "188416/keyboard", "192699/person", "199681/microwave", "208901/airplane",
    "211891/train", "217285/person", "237517/dining table", "241668/person", "243204/person", "249346/bear",
    "253452/dining table", "311303/dining table", "331799/person", "349184/bench", "350679/person", "360960/person",
    "376322/dining table", "384513/horse", "385029/dining table", "403353/bed",
}  # fmt: skip
HARD = {
    "18575/bowl", "56344/tv", "92660/broccoli", "109313/person", "119828/cat", "119828/laptop", "126107/bird",
    "159269/umbrella", "172648/truck", "181666/sheep", "229358/person", "243204/oven", "311303/cup",
    "333956/parking meter", "343803/person", "346638/tv", "349184/person", "352257/person", "358427/broccoli",
    "376322/person", "406129/person",
}  # fmt: skip


def test_difficult_pairs_of_coco_are_torchray_s(shared_data: Path) -> None:
    """Masks, crowds among them, on under a quarter of the picture, and another category there: Zhang et al.'s list."""
    spec = InputSpec(size=32, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    pictures = {pair.split("/")[0] for pair in EASY | HARD}
    difficult = {}
    for case in coco(root=shared_data / "coco", split="sample2017", crowds="class").cases:
        if str(int(case.image_id)) in pictures:
            batch = collate([prepare(case, spec, "stretch")], spec, torch.device("cpu"))
            value = pointing_game(torch.eye(32)[None], batch)["hit_difficult"]
            difficult[f"{int(case.image_id)}/{case.class_name}"] = not bool(value.isnan())
    assert EASY | HARD <= difficult.keys() and len(difficult) > len(EASY | HARD)
    assert {pair for pair, hard in difficult.items() if not hard} == EASY


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
