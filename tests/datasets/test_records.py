"""What data sets share: boxes, names on one line, files in any encoding."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.api import score_map
from bench.datasets.files import files_in, leads_out, need_file, need_folder, pictures_below, read_text
from bench.datasets.records import read_boxes, read_instances, sound_box
from bench.networks.sources import torchvision_model
from bench.types import UserError, printable


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([(5, 5, 2, 9)], "the box 5 5 2 9 has no or negative size"),
        ([(1, 1, 5, 5), (5, 9, 9, 2)], "the box 5 9 9 2 has no or negative size"),
        ([(1, 1, 1, 5)], "no or negative size"),
        ([(1, 1, 90, 5)], "lies outside the picture of 40 x 30"),
        ([(-9, 1, 5, 5)], "lies outside"),
        ([(1, math.nan, 5, 5)], "is not finite"),
        ([(1, 1, math.inf, 5)], "is not finite"),
        ("2222", "rows of four numbers"),
        (["2222"], "rows of four numbers"),
        ([(1, 2, 3)], "rows of four numbers"),
        (5, "rows of four numbers"),
        ([{}], "rows of four numbers"),
    ],
)
def test_boxes_of_the_users_own_are_checked(boxes: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        read_boxes(boxes, (30, 40))
    assert str(error.value).isprintable()


def test_sound_boxes_are_read() -> None:
    assert read_boxes([(1, 2, 3, 4)], (30, 40)).tolist() == [[1, 2, 3, 4]]
    assert read_boxes(np.array([[-0.5, 0, 40.5, 30]]), (30, 40)).tolist() == [[0, 0, 40, 30]]  # a rounding's width
    for none in ((), [], np.zeros((0, 4))):
        assert read_boxes(none, (30, 40)).shape == (0, 4)
    assert sound_box((1, 2, True, 4), 9, 9) == "the box (1, 2, True, 4) is not four numbers"


def test_boxes_and_masks_of_volumes() -> None:
    sides = (4, 5, 6)  # depth, height, width
    assert read_boxes([(1, 2, 0, 6, 5, 4)], sides).tolist() == [[1, 2, 0, 6, 5, 4]]
    assert read_boxes([], sides).shape == (0, 6)
    for box, says in (
        ((1, 2, 3, 4), r"rows of six numbers \(x0, y0, z0, x1, y1, z1\)"),
        ((0, 0, 0, 4, 5, 6), "lies outside the volume of 6 x 5 x 4; boxes are .* in voxels"),
        ((0, 3, 0, 4, 3, 2), "has no or negative size"),
    ):
        with pytest.raises(UserError, match=says):
            read_boxes([box], sides)
    masks = np.zeros((2, *sides))
    masks[0, 1:3, 2, 3:6] = masks[1, 3, 4, 5] = 1
    boxes, shapes = read_instances([], masks, sides)
    assert boxes.tolist() == [[3, 2, 1, 6, 3, 3], [5, 4, 3, 6, 5, 4]] and shapes.shape == (2, *sides)
    with pytest.raises(UserError, match=r"masks are \(instances, 4, 5, 6\) of numbers"):
        read_instances([], masks[0], sides)


def test_score_map_refuses_a_box_the_wrong_way_round() -> None:
    network = torchvision_model(name="resnet18", weights="random")
    with pytest.raises(UserError, match="the box 8 8 2 2 has no or negative size; boxes are"):
        score_map(np.eye(9), np.zeros((9, 9, 3), np.uint8), ["pointing_game"], model=network, boxes=[(8, 8, 2, 2)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x\nerror: y.png", r"x\nerror: y.png"),
        ("\x1b[2J\x07\r\0", r"\x1b[2J\x07\r\x00"),
        ("\x9b31m", r"\x9b31m"),  # the same in one byte
        ("\u202egnp.jpg", r"\u202egnp.jpg"),  # turns the direction of writing
        ("\u2028\udcff", r"\u2028\udcff"),
        ("größe 数据 … 🐈 a\\b 'c'", "größe 数据 … 🐈 a\\b 'c'"),
        (Path("a/b"), "a/b"),
    ],
)
def test_printable(text: object, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected and printable(text).isprintable()
    printable(text).encode()


@pytest.mark.parametrize(
    ("raw", "declared", "expected"),
    [
        ("猫".encode(), None, "猫"),
        ("猫".encode("utf-8-sig"), "gb2312", "猫"),
        ("猫".encode("utf-16"), None, "猫"),
        ("狗图".encode("gbk"), None, "狗图"),
        ("龍".encode("gbk"), "gb2312", "龍"),  # which gb2312 has not
        ("größe".encode("latin-1"), "ISO-8859-1", "größe"),
        ("猫".encode("cp932"), "Shift_JIS", "猫"),
        ("猫".encode(), "no-such-encoding", "猫"),
        ("猫".encode(), "zip", "猫"),
        ("猫".encode(), "utf-8", "猫"),
        (b"\xff", None, "ÿ"),
        (b"", "utf-16", ""),
        (b"\xff\xfea", None, "\ufffd"),  # half a character
    ],
)
def test_text_is_read_in_the_encoding_that_fits(
    tmp_path: Path, raw: bytes, declared: str | None, expected: str
) -> None:
    (tmp_path / "a.txt").write_bytes(raw)
    assert read_text(tmp_path / "a.txt", declared) == expected


def test_names_that_lead_out(tmp_path: Path) -> None:
    for path in ("in/deep/a.jpg", "a.jpg", "out/a.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    top = tmp_path / "in"
    (top / "link").symlink_to(tmp_path / "out")
    (top / "own").symlink_to(top / "deep")
    (top / "picture.jpg").symlink_to(tmp_path / "a.jpg")
    for name in ("/a.jpg", "../a.jpg", "deep/../../a.jpg", "..", "\\a.jpg", "C:a.jpg", "..\\a.jpg", "link/a.jpg"):
        assert leads_out(top, name), name
    for name in (
        "a.jpg",
        "deep/a.jpg",
        "own/a.jpg",
        "picture.jpg",
        "..a.jpg",
        "a..jpg",
        "deep/./a.jpg",
        "nowhere/a.jpg",
    ):
        assert not leads_out(top, name), name


@pytest.mark.parametrize("need", [need_file, need_folder])
def test_a_pipe_is_neither_file_nor_folder(tmp_path: Path, need: Any) -> None:
    os.mkfifo(tmp_path / "x\n")
    with pytest.raises(UserError, match=r"x\\n is a pipe or device; dataset.root must name a"):
        need(tmp_path / "x\n", "dataset.root")


@pytest.mark.parametrize("read", [files_in, pictures_below])
def test_a_folder_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .* \(Permission denied\): check its permissions"):
        read(tmp_path)
