"""VOC's layout, made by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench.datasets.voc import voc
from bench.types import UserError


def thing(name: str, edges: tuple[Any, ...], difficult: str | None = "0", extra: str = "") -> str:
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{flag}<bndbox>{sides}</bndbox>{extra}</object>"


def write(root: Path, year: int, name: str, *things: str, split: str = "test") -> Path:
    folder = root / f"VOC{year}"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40)).save(folder / "JPEGImages" / f"{name}.jpg")
    size = "<size><width>50</width><height>40</height><depth>3</depth></size>"
    (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{''.join(things)}</annotation>")
    with (folder / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")
    return root


def test_boxes_are_zero_based_and_exclusive(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    write(
        tmp_path, 2007, "000001",
        thing("dog", (1, 1, 50, 40), extra=part), thing("dog", ("11.5", 5, 20, 10), "1"),
        thing("cat", (3, 3, 6, 6), None),
    )  # fmt: skip
    data = voc(root=tmp_path)
    assert [case.id for case in data.cases] == ["000001/cat", "000001/dog"]
    cat, dog = data.cases
    assert dog.boxes.tolist() == [[0, 0, 50, 40], [10.5, 4, 20, 10]]  # the whole picture is the whole picture
    assert dog.difficult.tolist() == [False, True] and cat.difficult.tolist() == [False]
    assert dog.other_boxes.tolist() == cat.boxes.tolist() == [[2, 2, 6, 6]]
    assert dog.other_difficult.tolist() == [False] and cat.other_difficult.tolist() == [False, True]
    assert len(dog.target) == 118 and data.outputs == 1000 and not data.bad_records
    image, masks = pickle.loads(pickle.dumps(dog.load))()
    assert image.shape == (3, 40, 50) and masks is None and image.dtype == torch.uint8


def test_years_together_and_an_image_in_two_counts_once(tmp_path: Path) -> None:
    write(tmp_path, 2007, "000001", thing("dog", (1, 1, 5, 5)))
    for year in (2010, 2012):
        write(tmp_path, year, "2008_000002", thing("cat", (1, 1, 5, 5)))
    data = voc(root=tmp_path, years=[2007, 2010, 2012])
    assert [case.id for case in data.cases] == ["000001/dog", "2008_000002/cat"]
    assert "1 image named more than once" in data.notes[0]
    assert [case.id for case in voc(root=tmp_path, years=2012).cases] == ["2008_000002/cat"]


def test_image_set_of_a_class(tmp_path: Path) -> None:
    for name in ("000001", "000002", "000003"):
        write(tmp_path, 2007, name, thing("dog", (1, 1, 5, 5)))
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "dog_test.txt").write_text("000001  1\n000002 -1\n000003  0\n")
    assert [case.image_id for case in voc(root=tmp_path, split="dog_test").cases] == ["000001", "000003"]


def test_classes_of_ones_own_take_a_class_map(tmp_path: Path) -> None:
    write(tmp_path, 2007, "000001", thing("helmet", (1, 1, 5, 5)), thing("dog", (6, 6, 9, 9)))
    with pytest.raises(UserError, match="there is no class 'helmet'; dataset.class_map=FILE names classes of your own"):
        voc(root=tmp_path)
    (tmp_path / "map.csv").write_text("index,category\n3,helmet\n")
    data = voc(root=tmp_path, class_map=str(tmp_path / "map.csv"))
    assert [(case.id, case.target) for case in data.cases] == [("000001/helmet", (3,))]
    assert data.cases[0].other_boxes.tolist() == [[5, 5, 9, 9]] and data.outputs is None


def test_a_jpg_goes_before_other_pictures_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, 2007, "000001", thing("dog", (1, 1, 5, 5)))
    Image.new("RGB", (9, 9)).save(tmp_path / "VOC2007" / "JPEGImages" / "000001.png")
    assert voc(root=tmp_path).cases[0].load()[0].shape == (3, 40, 50)


def test_a_class_without_outputs_is_counted(tmp_path: Path) -> None:
    write(tmp_path, 2007, "000001", thing("pottedplant", (1, 1, 5, 5)), thing("dog", (1, 1, 5, 5)))
    data = voc(root=tmp_path)
    assert [case.class_name for case in data.cases] == ["dog"]
    assert "pottedplant (1 image-class pairs)" in data.notes[0]
    loose = voc(root=tmp_path, match="loose")
    assert [case.class_name for case in loose.cases] == ["dog", "pottedplant"] and not loose.notes


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (thing("dog", (30, 3, 20, 9)), "no or negative size"),
        (thing("dog", (3, 3, 90, 9)), "outside the picture of 50 x 40"),
        (thing("dgo", (3, 3, 9, 9)), "there is no class 'dgo'"),
        (thing("dog", (3, 3, "x", 9)), "no box of four numbers"),
        ("<object><name>dog</name></object>", "no box of four numbers"),
    ],
)
def test_bad_objects(tmp_path: Path, wrong: str, reason: str) -> None:
    good = [thing("cat", (1, 1, 5, 5)) for _ in range(19)]
    data = voc(root=write(tmp_path / "a", 2007, "000001", *good, wrong))
    assert [row["record"] for row in data.bad_records] == ["VOC2007/000001"] and reason in data.bad_records[0]["reason"]
    assert len(data.cases[0].boxes) == 19
    root = write(tmp_path / "b", 2007, "000001", *good[1:], wrong)
    with pytest.raises(UserError, match="1 of 19 objects are bad"):
        voc(root=root)
    assert len(voc(root=root, allow_bad_records=True).cases) == 1


def test_bad_images(tmp_path: Path) -> None:
    for i in range(60):
        write(tmp_path, 2007, f"{i:06d}", thing("dog", (1, 1, 5, 5)))
    folder = tmp_path / "VOC2007"
    (folder / "JPEGImages" / "000003.jpg").unlink()
    (folder / "Annotations" / "000004.xml").unlink()
    (folder / "Annotations" / "000005.xml").write_text("<annotation><obj")
    data = voc(root=tmp_path)
    assert [row["record"][-2:] for row in data.bad_records] == ["03", "04", "05"] and len(data.cases) == 57
    (folder / "JPEGImages" / "000006.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="4 of 60 images are bad, first VOC2007/000003: the picture is not there"):
        voc(root=tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"years": 2011}, "VOC2011 does not exist; check dataset.root and dataset.years"),
        ({"years": []}, "dataset.years is empty"),
        ({"split": "tset"}, "dataset.split: there is no 'tset'; there are test"),
        ({"categories": "dgo"}, "there is no 'dgo'; there are dog"),
        ({"min_instances": 2}, "leaves no case"),
        ({"root": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_user_errors(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    write(tmp_path, 2007, "000001", thing("dog", (1, 1, 5, 5)))
    with pytest.raises(UserError, match=message):
        voc(**{"root": tmp_path, **more})
