"""ILSVRC's layouts, made by hand; folders of labelled pictures."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image

from bench.datasets.folder import imagefolder
from bench.datasets.imagenet import imagenet
from bench.types import UserError

TENCH, SHARK = "n01440764", "n01484850"


def picture(path: Path, width: int = 50, height: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path, "JPEG")


def table(root: Path, *lines: str) -> Path:
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *lines]) + "\n")
    return root


def xml(path: Path, *things: tuple[str, int, int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in things
    )
    path.write_text(f"<annotation><size><width>50</width><height>40</height></size>{rows}</annotation>")


def test_flat_folder_with_kaggles_csv(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.JPEG")
    picture(tmp_path / "val" / "b.JPEG")
    table(tmp_path, f"b,{TENCH} 0 0 49 39 {TENCH} 1 2 3 4 {SHARK} 5 5 6 6 ", f"a,{SHARK} 5 5 20 20")
    data = imagenet(root=tmp_path)
    assert [case.id for case in data.cases] == ["a", "b"] and data.outputs == 1000
    case = data.cases[1]
    # the whole picture is 0 0 49 39: counted from 0, the last pixel belongs to the box
    assert case.boxes.tolist() == [[0, 0, 50, 40], [1, 2, 4, 5]] and case.other_boxes.tolist() == [[5, 5, 7, 7]]
    assert (case.class_name, case.target) == ("tench", (0,))
    assert pickle.loads(pickle.dumps(case.load))()[0].shape == (3, 40, 50)


def test_fractions_are_taken_as_they_are(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.JPEG")
    table(tmp_path, f"a,{TENCH} 0.5 1.0 49.5 40.0")
    assert imagenet(root=tmp_path).cases[0].boxes.tolist() == [[0.5, 1, 49.5, 40]]


@pytest.mark.parametrize("above", ["", "ILSVRC/"])
def test_kaggles_and_the_official_layout_with_xml(tmp_path: Path, above: str) -> None:
    picture(tmp_path / f"{above}Data/CLS-LOC/train" / TENCH / "x_1.JPEG")
    picture(
        tmp_path / f"{above}Data/CLS-LOC/train" / TENCH / "x_2.JPEG"
    )  # no boxes, as half of ILSVRC's training images
    xml(
        tmp_path / f"{above}Annotations/CLS-LOC/train" / TENCH / "x_1.xml",
        (TENCH, 1, 2, 10, 20),
        (TENCH, 20, 20, 49, 39),
    )
    data = imagenet(root=tmp_path, split="train")
    assert [case.id for case in data.cases] == ["x_1"] and not data.bad_records
    assert data.cases[0].boxes.tolist() == [[1, 2, 11, 21], [20, 20, 50, 40]]
    assert data.notes == ["imagenet: left out, because they have no boxes: 1 image"]


def test_bad_records(tmp_path: Path) -> None:
    lines = []
    for i in range(120):
        picture(tmp_path / "val" / f"p{i:03d}.JPEG")
        lines.append(f"p{i:03d},{TENCH} 1 1 20 20")
    lines[0] = f"p000,{TENCH} 20 1 1 20"
    lines[1] = "p001,n99999999 1 1 20 20"
    lines[2] = f"p002,{TENCH} 1 1 20"
    lines[3] = f"nothing,{TENCH} 1 1 20 20"  # and p003 has no line
    (tmp_path / "val" / "p004.JPEG").write_bytes(b"")
    data = imagenet(root=table(tmp_path, *lines))
    reasons = {row["record"]: row["reason"] for row in data.bad_records}
    assert "negative size" in reasons["p000"] and "no class 'n99999999'" in reasons["p001"]
    assert "cannot be read" in reasons["p002"] and "no annotation" in reasons["p003"]
    assert "empty file" in reasons["p004"] and "picture is not there" in reasons["nothing"]
    assert len(data.cases) == 115 and len(reasons) == 6  # 6 of 121 is 4.96 %
    (tmp_path / "val" / "p005.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match="7 of 121 images are bad"):
        imagenet(root=tmp_path)
    assert len(imagenet(root=tmp_path, allow_bad_records=True).cases) == 114


def test_a_box_outside_shows_on_loading(tmp_path: Path) -> None:
    picture(tmp_path / "val" / "a.JPEG")
    table(tmp_path, f"a,{TENCH} 1 1 80 20")
    with pytest.raises(ValueError, match="a.JPEG: the box 1 1 81 21 lies outside the picture of 50 x 40"):
        imagenet(root=tmp_path).cases[0].load()


def test_folder_and_annotation_must_agree(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "val" / (SHARK if i == 7 else TENCH) / f"p{i}.JPEG")
    table(tmp_path, *(f"p{i},{TENCH} 1 1 20 20" for i in range(20)))
    data = imagenet(root=tmp_path)
    assert data.bad_records == [
        {"record": "p7", "reason": f"it lies in the folder of {SHARK}, but its annotation says {TENCH}"}
    ]


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no folder val/"):
        imagenet(root=tmp_path)
    picture(tmp_path / "val" / "a.JPEG")
    with pytest.raises(UserError, match="dataset.annotations=PATH, or use dataset=imagefolder"):
        imagenet(root=tmp_path)
    with pytest.raises(UserError, match="nowhere.csv does not exist"):
        imagenet(root=tmp_path, annotations="nowhere.csv")
    (tmp_path / "LOC_val_solution.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not Kaggle's csv"):
        imagenet(root=tmp_path)


def test_imagefolder(tmp_path: Path) -> None:
    for name in (f"{TENCH}/x.JPEG", f"{SHARK}/deep/y.JPEG", f"{SHARK}/.hidden.txt"):
        picture(tmp_path / name)
    data = imagefolder(root=tmp_path)
    assert [(c.id, c.target, c.class_name) for c in data.cases] == [
        (f"{TENCH}/x.JPEG", (0,), "tench"), (f"{SHARK}/deep/y.JPEG", (2,), "great white shark"),
    ]  # fmt: skip
    assert all(len(case.boxes) == 0 for case in data.cases) and data.outputs == 1000


def test_imagefolder_with_classes_of_its_own(tmp_path: Path) -> None:
    for name in ("frog/x.jpg", "ant/y.jpg"):
        picture(tmp_path / "data" / name)
    with pytest.raises(UserError, match="no class is known by the name 'ant'; .*class_map=sorted"):
        imagefolder(root=tmp_path / "data")
    data = imagefolder(root=tmp_path / "data", class_map="sorted")
    assert [(c.class_name, c.target) for c in data.cases] == [("ant", (0,)), ("frog", (1,))] and data.outputs == 2
    (tmp_path / "mine.csv").write_text("index,category\n7,ant\n4,frog\n")
    data = imagefolder(root=tmp_path / "data", class_map=str(tmp_path / "mine.csv"))
    assert [(c.class_name, c.target) for c in data.cases] == [("ant", (7,)), ("frog", (4,))]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no folders"):
        imagefolder(root=tmp_path / "empty")
