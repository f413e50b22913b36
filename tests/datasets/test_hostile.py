"""Hostile annotations and pictures: each is left out and named, or one line, and nothing else of the data is lost.

Every entry of the tables puts one bad thing beside a sound case and says how many cases can still be computed and what
is said of the bad one.
"""

from __future__ import annotations

import inspect
import io
import json
import math
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from bench.datasets.coco import coco
from bench.datasets.folder import folder, imagefolder
from bench.datasets.imagenet import imagenet
from bench.datasets.transforms import prepare
from bench.datasets.voc import voc
from bench.types import Dataset, InputSpec, UserError

SPEC = InputSpec(8, 8, (0.0,) * 3, (1.0,) * 3)
TENCH, SHARK = "n01440764", "n01484850"
WIDTH, HEIGHT = 40, 30
PIXELS = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(kind: str = "PNG", pixels: np.ndarray = PIXELS, **more: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **more)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PNG, JPEG = encoded(), encoded("JPEG")


class Outcome(NamedTuple):
    """How many cases a data set gives that can be computed, and all that is said of the others."""

    good: int
    said: str


def outcome(make: Callable[[], Any]) -> Outcome:
    """List a data set and load every case; anything but an outcome is a traceback, which fails the test."""
    try:
        data = make()
    except UserError as error:
        assert str(error).isprintable(), "a message that is no plain line"
        return Outcome(0, f"error: {error}")
    data = data if isinstance(data, Dataset) else Dataset(data)
    assert len({case.id for case in data.cases}) == len(data.cases)
    texts = [text for record in data.bad_records for text in record.values()] + data.notes
    good = 0
    for case in data.cases:
        texts += [case.id, case.image_id, case.class_name]
        try:
            sample = prepare(case, SPEC, "center_crop")
        except (OSError, ValueError) as error:  # what bench.datasets.loading leaves out and names
            texts.append(f"{case.id}: {' '.join(str(error).split())}")
            continue
        assert sample.image.isfinite().all() and sample.boxes.isfinite().all()
        good += 1
    assert all(text.isprintable() for text in texts)
    assert not data.bad_records or any("bad records left out" in note for note in data.notes)
    return Outcome(good, "\n".join(texts))


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- pictures, in every data set that has some ------------------------------------------------------------------------

NO_PICTURE = "cannot be decoded as a picture"
PICTURES: dict[str, tuple[bytes, str]] = {
    "half a jpeg": (JPEG[: len(JPEG) // 2], NO_PICTURE),
    "half a png": (PNG[: len(PNG) // 2], NO_PICTURE),
    "the first bytes of a jpeg": (JPEG[:3], NO_PICTURE),
    "text": (b"not a picture", NO_PICTURE),
    "zeros": (bytes(1000), NO_PICTURE),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\nshowpage\n%%EOF\n", NO_PICTURE),
    "pdf": (b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", NO_PICTURE),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"/>', NO_PICTURE),
    "icon": (encoded("ICO"), NO_PICTURE),
    "targa": (encoded("TGA"), NO_PICTURE),
    "photoshop": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30, 40, 8, 3) + bytes(40), NO_PICTURE),
    "100 million pixels": (png_of_size(10_000, 10_000), "10000 x 10000 pixels, more than 89 million"),
    "a trillion pixels": (png_of_size(10**6, 10**6), NO_PICTURE),
    "no width": (png_of_size(0, 30), NO_PICTURE),
    "no pixels behind the header": (png_of_size(40, 30), NO_PICTURE),
    "floats": (encoded("TIFF", PIXELS[..., 0].astype(np.float32)), "floating point pixels"),
    "deep integers": (encoded("TIFF", PIXELS[..., 0].astype(np.int32) * 1000), "integer pixels outside"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_left_out(tmp_path: Path, name: str) -> None:
    content, reason = PICTURES[name]
    write(tmp_path / TENCH / "bad.png", content)
    write(tmp_path / TENCH / "good.png", PNG)
    for make in (folder, imagefolder):
        good, said = outcome(lambda make=make: make(root=tmp_path))
        assert good == 1 and reason in said and "bad.png" in said


@pytest.mark.parametrize("name", ["half a jpeg", "eps", "100 million pixels", "text"])
def test_picture_of_an_annotated_data_set_is_left_out(tmp_path: Path, name: str) -> None:
    content, reason = PICTURES[name]
    coco_root(tmp_path / "coco", picture=content)
    voc_root(tmp_path / "voc", picture=content)
    imagenet_root(tmp_path / "imagenet", picture=content)
    for make, root in ((coco, "coco"), (voc, "voc"), (imagenet, "imagenet")):
        good, said = outcome(lambda make=make, root=root: make(root=tmp_path / root))
        assert good == 1 and reason in said and "b.jpg" in said, root


# --- COCO -------------------------------------------------------------------------------------------------------------

CATEGORIES = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]


def coco_root(
    root: Path,
    image: dict[str, Any] | None = None,
    thing: dict[str, Any] | None = None,
    raw: bytes | None = None,
    picture: bytes = JPEG,
    **content: Any,
) -> Path:
    """Two images with a cat each, in the second of which `image` and `thing` replace fields of the json."""
    write(root / "val2017" / "a.jpg", JPEG)
    write(root / "val2017" / "b.jpg", picture)
    write(root / "outside.jpg", JPEG)
    images = [
        {"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in ((1, "a.jpg"), (2, "b.jpg"))
    ]
    things = [
        {"id": i, "image_id": i, "category_id": 17, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0,
         "segmentation": SQUARE} for i in (1, 2)
    ]  # fmt: skip
    images[1] |= image or {}
    things[1] |= thing or {}
    whole = {"images": images, "annotations": things, "categories": CATEGORIES, **content}
    write(root / "annotations" / "instances_val2017.json", json.dumps(whole) if raw is None else raw)
    return root


LEADS_OUT, NO_SIZE, NO_BOX, NO_CODE = (
    "leads out of the folder",
    "are no size",
    "is not four numbers",
    "cannot be decoded",
)
DEEP = json.loads("[" * 500 + "]" * 500)
RUNS = {"size": [HEIGHT, WIDTH]}
COCO: dict[str, tuple[dict[str, Any], int, str]] = {
    # files
    "an absolute path": ({"image": {"file_name": "/etc/hostname"}}, 1, LEADS_OUT),
    "a path upward": ({"image": {"file_name": "../outside.jpg"}}, 1, LEADS_OUT),
    "a path up and down": ({"image": {"file_name": "x/../../outside.jpg"}}, 1, LEADS_OUT),
    "a path of Windows": ({"image": {"file_name": "..\\outside.jpg"}}, 1, LEADS_OUT),
    "a drive": ({"image": {"file_name": "C:\\b.jpg"}}, 1, LEADS_OUT),
    "a null in the name": ({"image": {"file_name": "b.jpg\0.png"}}, 1, "is no name"),
    "a number as name": ({"image": {"file_name": 5}}, 1, "is no name"),
    "a list as name": ({"image": {"file_name": ["b.jpg"]}}, 1, "is no name"),
    "null as name": ({"image": {"file_name": None}}, 1, "is no name"),
    "no name at all": ({"image": {"file_name": ""}}, 1, "is not there"),
    "the folder itself": ({"image": {"file_name": "."}}, 1, "is not there"),
    "a name of 5,000 letters": ({"image": {"file_name": "x" * 5000}}, 1, "is not there"),
    "a path of 5,000 letters": ({"image": {"file_name": "x" * 5000 + "/b.jpg"}}, 1, "is not there"),
    "half a character": ({"image": {"file_name": "\ud83d.jpg"}}, 1, "is not there"),
    "a name of two lines": ({"image": {"file_name": "b\nerror: c.jpg"}}, 1, r"b\nerror: c.jpg"),
    "a name that clears the screen": ({"image": {"file_name": "\x1b[2Jb.jpg"}}, 1, r"\x1b[2Jb.jpg"),
    "one picture for two images": ({"image": {"file_name": "a.jpg"}}, 2, "000000000002/cat"),
    # ids
    "an id twice": ({"image": {"id": 1}, "thing": {"image_id": 1}}, 1, "two images have this id"),
    "an id as number and text": ({"image": {"id": "000000000001"}, "thing": {"image_id": 1}}, 1, "have this id"),
    "a list as id": ({"image": {"id": [2]}}, 1, "no whole number and no name"),
    "a dict as id": ({"image": {"id": {}}}, 1, "no whole number and no name"),
    "null as id": ({"image": {"id": None}}, 1, "no whole number and no name"),
    "true as id": ({"image": {"id": True}}, 1, "no whole number and no name"),
    "half an id": ({"image": {"id": 2.5}}, 1, "no whole number and no name"),
    "NaN as id": ({"image": {"id": math.nan}}, 1, "no whole number and no name"),
    "a huge id": ({"image": {"id": 10**40}}, 1, "no whole number and no name"),
    "an id with a line end": ({"image": {"id": "2\n"}, "thing": {"image_id": "2\n"}}, 2, r"2\n"),
    "2.0 as id": ({"image": {"id": 2.0}}, 2, "000000000002/cat"),
    "a list as image_id": ({"thing": {"image_id": [2]}}, 1, "no image with this id"),
    "null as image_id": ({"thing": {"image_id": None}}, 1, "no image with this id"),
    "a list as category_id": ({"thing": {"category_id": [17]}}, 1, "there is no category [17]"),
    "no such category": ({"thing": {"category_id": 99}}, 1, "there is no category 99"),
    "a category of text": ({"thing": {"category_id": "17"}}, 1, "there is no category 17"),
    "a list as id of an annotation": ({"thing": {"id": [2], "bbox": []}}, 1, "annotation [2] of image 2"),
    "a category id that is a list": ({"categories": [{"id": [17], "name": "cat"}]}, 0, "the id [17] of a category"),
    "two categories of one name": ({"categories": [*CATEGORIES, {"id": 0, "name": "cat"}]}, 2, "000000000002/cat"),
    "a category's name of two lines": (
        {"categories": [*CATEGORIES, {"id": 0, "name": "x\ny"}], "thing": {"category_id": 0}}, 1, "no class means"),
    "own classes": ({"categories": [{"id": 17, "name": "helmet"}]}, 0, "dataset.class_map=FILE (index,category)"),
    # sizes
    "NaN as height": ({"image": {"height": math.nan}}, 1, NO_SIZE),
    "an infinite width": ({"image": {"width": math.inf}}, 1, NO_SIZE),
    "a negative height": ({"image": {"height": -30}}, 1, NO_SIZE),
    "half a pixel of height": ({"image": {"height": 30.5}}, 1, NO_SIZE),
    "a text as height": ({"image": {"height": "30"}}, 1, NO_SIZE),
    "a list as height": ({"image": {"height": [30]}}, 1, NO_SIZE),
    "a width of 10 ** 400": ({"image": {"width": 10**400}}, 1, NO_SIZE),
    "no width but a height": ({"image": {"width": None}}, 1, NO_SIZE),
    "neither": ({"image": {"width": None, "height": None}}, 2, "000000000002/cat"),
    "another size": ({"image": {"width": 50}}, 1, "the picture is 40 x 30, its annotation says 50 x 30"),
    "30.0 as height": ({"image": {"height": 30.0}}, 2, "000000000002/cat"),
    # boxes
    "a text as box": ({"thing": {"bbox": "2222"}}, 1, NO_BOX),
    "texts in a box": ({"thing": {"bbox": ["5", "5", "9", "9"]}}, 1, NO_BOX),
    "truths in a box": ({"thing": {"bbox": [True, True, True, True]}}, 1, NO_BOX),
    "three numbers": ({"thing": {"bbox": [5, 5, 9]}}, 1, NO_BOX),
    "no box": ({"thing": {"bbox": None}}, 1, NO_BOX),
    "a dict as box": ({"thing": {"bbox": {"x": 5}}}, 1, NO_BOX),
    "a nested box": ({"thing": {"bbox": [[5, 5, 9, 9]]}}, 1, NO_BOX),
    "NaN in a box": ({"thing": {"bbox": [5, math.nan, 9, 9]}}, 1, "is not finite"),
    "infinity in a box": ({"thing": {"bbox": [5, 5, math.inf, 9]}}, 1, "is not finite"),
    "10 ** 400 in a box": ({"thing": {"bbox": [5, 5, 10**400, 9]}}, 1, NO_BOX),
    "a box of the largest numbers": ({"thing": {"bbox": [1e308, 5, 1e308, 9]}}, 1, "is not finite"),
    "the wrong way round": ({"thing": {"bbox": [15, 15, -10, -10]}}, 1, "no or negative size"),
    "no area": ({"thing": {"bbox": [5, 5, 0, 0]}}, 1, "no or negative size"),
    "outside": ({"thing": {"bbox": [50, 5, 9, 9]}}, 1, "lies outside the picture"),
    "a list as area": ({"thing": {"area": [1]}}, 1, "is no number of pixels"),
    "a text as area": ({"thing": {"area": "100"}}, 1, "is no number of pixels"),
    "NaN as area": ({"thing": {"area": math.nan}}, 1, "is no number of pixels"),
    "a negative area": ({"thing": {"area": -1}}, 1, "is no number of pixels"),
    'iscrowd: "0"': ({"thing": {"iscrowd": "0"}}, 2, "000000000002/cat"),
    "iscrowd: []": ({"thing": {"iscrowd": []}}, 1, "is neither 0 nor 1"),
    "iscrowd: 2": ({"thing": {"iscrowd": 2}}, 1, "is neither 0 nor 1"),
    'iscrowd: "no"': ({"thing": {"iscrowd": "no"}}, 1, "is neither 0 nor 1"),
    "an annotation twice": (
        {"annotations": [{"id": 1, "image_id": 1, "category_id": 17, "bbox": [5, 5, 9, 9]}] * 3}, 1,
        "stands there twice"),
    "two annotations of one id": (
        {"annotations": [{"id": 1, "image_id": i, "category_id": 17, "bbox": [5, 5, 9, 9]} for i in (1, 2)]}, 2,
        "000000000002/cat"),
    # masks
    "an outline beside its box": (
        {"thing": {"segmentation": [[25, 20, 35, 20, 35, 28]]}}, 1, "outside its box 5 5 15 15"),
    "an outline at the edge of its box": (
        {"thing": {"segmentation": [[15.5, 5, 17, 5, 17, 15, 15.5, 15]]}}, 2, "000000000002/cat"),
    "a text as outline": ({"thing": {"segmentation": "x"}}, 1, NO_CODE),
    "a number as outline": ({"thing": {"segmentation": 5}}, 1, NO_CODE),
    "a flat outline": ({"thing": {"segmentation": SQUARE[0]}}, 1, NO_CODE),
    "an odd number of coordinates": ({"thing": {"segmentation": [[5, 5, 15, 5, 15, 15, 5]]}}, 1, NO_CODE),
    "texts in an outline": ({"thing": {"segmentation": [["5"] * 8]}}, 1, NO_CODE),
    "NaN in an outline": ({"thing": {"segmentation": [[5, 5, 15, math.nan, 15, 15]]}}, 1, "far outside"),
    "an outline of a billion pixels": ({"thing": {"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}}, 1, "far outside"),
    "a deep outline": ({"thing": {"segmentation": DEEP}}, 1, NO_CODE),
    "a code without size": ({"thing": {"segmentation": {"counts": [1200]}}}, 1, NO_CODE),
    "a code of another size": ({"thing": {"segmentation": {"size": [9, 9], "counts": [81]}}}, 1, "made for 9 x 9"),
    "a code without runs": ({"thing": {"segmentation": RUNS}}, 1, NO_CODE),
    "too few runs": ({"thing": {"segmentation": {**RUNS, "counts": [5, 5]}}}, 1, "add up to 10 and not to 1200"),
    "too many runs": ({"thing": {"segmentation": {**RUNS, "counts": [5, 2000]}}}, 1, "add up to 2005"),
    "negative runs": ({"thing": {"segmentation": {**RUNS, "counts": [1300, -100]}}}, 1, NO_CODE),
    "texts as runs": ({"thing": {"segmentation": {**RUNS, "counts": ["5"]}}}, 1, NO_CODE),
    "too short a text of runs": ({"thing": {"segmentation": {**RUNS, "counts": "0l1"}}}, 1, "and not to 1200"),
    "an empty text of runs": ({"thing": {"segmentation": {**RUNS, "counts": ""}}}, 1, "add up to 0"),
    "foreign letters in a text of runs": ({"thing": {"segmentation": {**RUNS, "counts": "größe"}}}, 1, "COCO's code"),
    "a number without end": ({"thing": {"segmentation": {**RUNS, "counts": "o" * 5000}}}, 1, "COCO's code"),
    "a zigzag of a million pixels": ({"thing": {"segmentation": [[0, 0, 40, 30] * 20_000]}}, 1, "pixels long"),
    "1,000 polygons of one corner": ({"thing": {"segmentation": [[5, 5]] * 1000}}, 2, "000000000002/cat"),
    "a size of floats": ({"thing": {"segmentation": {"size": [30.0, 40.0], "counts": [1200]}}}, 2, "000000000002/cat"),
    "runs of floats": ({"thing": {"segmentation": {**RUNS, "counts": [1200.0]}}}, 1, NO_CODE),
    "a run of 2 ** 32": ({"thing": {"segmentation": {**RUNS, "counts": [2**32 + 1200]}}}, 1, "add up to"),
    # the file
    "an empty file": ({"raw": b""}, 0, "cannot be read as json"),
    "half a file": ({"raw": b'{"images": [{"id": 1'}, 0, "cannot be read as json"),
    "a deep file": ({"raw": b"[" * 100_000 + b"]" * 100_000}, 0, "cannot be read as json"),
    "a list": ({"raw": b"[]"}, 0, "has no list 'images'"),
    "null": ({"raw": b"null"}, 0, "has no list 'images'"),
    "a picture": ({"raw": PNG}, 0, "cannot be read as json"),
    "images that are a dict": ({"images": {}}, 0, "has no list 'images'"),
    "images that are lists": ({"images": [[]]}, 0, "has no id or file_name"),
    "annotations without an image": ({"annotations": [{}]}, 0, "has no image_id"),
    "categories without names": ({"categories": [{"id": 1}]}, 0, "has no id or name"),
    "a byte order mark": ({"raw": b"\xef\xbb\xbf" + b"{}"}, 0, "has no list 'images'"),
    "utf-16": ({"raw": "{}".encode("utf-16")}, 0, "has no list 'images'"),
    "utf-32": ({"raw": "{}".encode("utf-32")}, 0, "cannot be read as json"),
    "a key twice": ({"raw": b'{"images": [], "annotations": [], "images": 5}'}, 0, "has no list 'images'"),
    "nothing in any list": ({"images": [], "annotations": [], "categories": []}, 0, "means any of its 0 categories"),
    "ids that are one on a line": (
        {"image": {"id": "a\nb"}, "thing": {"image_id": "a\nb"}, "images": [
            {"id": "a\nb", "file_name": "a.jpg"}, {"id": r"a\nb", "file_name": "b.jpg"}],
         "annotations": [{"image_id": name, "category_id": 17, "bbox": [5, 5, 9, 9]} for name in ("a\nb", r"a\nb")]},
        1, "two images have this id"),
    "an integer of 10,000 digits": ({"raw": b'{"images": ' + b"9" * 10_000 + b"}"}, 0, "cannot be read as json"),
}  # fmt: skip


@pytest.mark.parametrize("name", COCO)
def test_coco(tmp_path: Path, name: str) -> None:
    parts, good, said = COCO[name]
    root = coco_root(tmp_path, **parts)
    result = outcome(lambda: coco(root=root, allow_bad_records=True))
    assert result.good == good and said in result.said, result


# --- VOC --------------------------------------------------------------------------------------------------------------


def voc_xml(
    name: str = "cat", box: Any = (6, 6, 20, 20), size: Any = (WIDTH, HEIGHT), head: str = '<?xml version="1.0"?>',
    extra: str = "",
) -> str:  # fmt: skip
    edges = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    thing = f"<object><name>{name}</name>{extra}<bndbox>{edges}</bndbox></object>"
    return f"{head}<annotation>{sides}{thing}</annotation>"


def voc_root(
    root: Path, xml: bytes | str | None = None, names: bytes = b"a\nb\n", picture: bytes = JPEG, file: str = "b.jpg"
) -> Path:
    """Two images with a cat each; `xml` is the second one's annotation, `names` the image set."""
    top = root / "VOC2007"
    write(top / "JPEGImages" / "a.jpg", JPEG)
    write(top / "JPEGImages" / file, picture)
    write(top / "Annotations" / "a.xml", voc_xml())
    write(top / "Annotations" / f"{file[:-4]}.xml", voc_xml() if xml is None else xml)
    write(top / "ImageSets" / "Main" / "test.txt", names)
    return root


UNREAD, SAYS = "its annotation cannot be read", "<?xml version='1.0' encoding="
LAUGHS = "<!DOCTYPE x [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {b} '{f'&{a};' * 10}'>" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
) + "]>"  # fmt: skip
VOC: dict[str, tuple[dict[str, Any], int, str]] = {
    "an empty annotation": ({"xml": b""}, 1, UNREAD),
    "half an annotation": ({"xml": voc_xml()[:60]}, 1, UNREAD),
    "text": ({"xml": b"hello"}, 1, UNREAD),
    "a picture as annotation": ({"xml": PNG}, 1, UNREAD),
    "html": ({"xml": b"<html><body>404"}, 1, UNREAD),
    "a billion laughs": ({"xml": voc_xml(head=LAUGHS, name="&j;")}, 1, UNREAD),
    "an entity from a file": (
        {"xml": voc_xml(head='<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>', name="&f;")}, 1, UNREAD),
    "a deep annotation": ({"xml": b"<a>" * 50_000 + b"</a>" * 50_000}, 1, "a/cat"),
    "a web page": ({"xml": b"<html><object><name>cat</name></object></html>"}, 1, "<html> and not <annotation>"),
    "a namespace": ({"xml": voc_xml().replace("<annotation>", "<annotation xmlns='urn:x'>")}, 1, "not <annotation>"),
    "utf-32": ({"xml": voc_xml().encode("utf-32")}, 1, UNREAD),
    "objects in an object": ({"xml": voc_xml(extra="<object><name>dog</name></object>")}, 2, "b/cat"),
    "rotated boxes": ({"xml": voc_xml().replace("bndbox", "robndbox")}, 1, "no box of four numbers"),
    "gb2312": ({"xml": voc_xml(head=f"{SAYS}'gb2312'?><!-- 猫 -->").encode("gb2312")}, 2, "b/cat"),
    "gb2312 that is GBK": (
        {"xml": voc_xml(head=f"{SAYS}'gb2312'?><!-- 龍镕 -->").encode("gbk")}, 2, "b/cat"),
    "utf-16": ({"xml": voc_xml(head='<?xml version="1.0" encoding="utf-16"?>').encode("utf-16")}, 2, "b/cat"),
    "utf-16 without a mark": ({"xml": voc_xml().encode("utf-16-le")}, 2, "b/cat"),
    "utf-8 with a mark": ({"xml": b"\xef\xbb\xbf" + voc_xml().encode()}, 2, "b/cat"),
    "an unknown encoding": ({"xml": voc_xml(head='<?xml version="1.0" encoding="utf8mb4"?>')}, 2, "b/cat"),
    "an encoding that is none of text": ({"xml": voc_xml(head='<?xml version="1.0" encoding="zip"?>')}, 2, "b/cat"),
    "latin 1 that says utf-8": (
        {"xml": voc_xml(head=f"{SAYS}'utf-8'?><!-- gr\xf6\xdfe -->").encode("latin-1")}, 2, "b/cat"),
    "Shift JIS": ({"xml": voc_xml(head=f"{SAYS}'Shift_JIS'?><!-- 猫 -->").encode("cp932")}, 2, "b/cat"),
    "NaN as height": ({"xml": voc_xml(size=(40, "NaN"))}, 1, "40 x NaN, is none"),
    "an infinite width": ({"xml": voc_xml(size=("inf", 30))}, 1, "inf x 30, is none"),
    "a negative width": ({"xml": voc_xml(size=(-40, 30))}, 1, "-40 x 30, is none"),
    "a height of words": ({"xml": voc_xml(size=(40, "thirty"))}, 1, "40 x thirty, is none"),
    "a size of zeros": ({"xml": voc_xml(size=(0, 0))}, 2, "b/cat"),
    "no size": ({"xml": voc_xml(size=())}, 2, "b/cat"),
    "another size": ({"xml": voc_xml(size=(50, 30))}, 1, "the picture is 40 x 30, its annotation says 50 x 30"),
    "the wrong way round": ({"xml": voc_xml(box=(20, 20, 6, 6))}, 1, "no or negative size"),
    "NaN in a box": ({"xml": voc_xml(box=("nan", 6, 20, 20))}, 1, "no box of four numbers"),
    "infinity in a box": ({"xml": voc_xml(box=(6, 6, "inf", 20))}, 1, "is not finite"),
    "1e999 in a box": ({"xml": voc_xml(box=(6, 6, "1e999", 20))}, 1, "is not finite"),
    "1_0 in a box": ({"xml": voc_xml(box=(6, 6, "2_0", 20))}, 1, "no box of four numbers"),
    "an empty edge": ({"xml": voc_xml(box=(6, 6, "", 20))}, 1, "no box of four numbers"),
    "three edges": ({"xml": voc_xml(box=(6, 6, 20))}, 1, "no box of four numbers"),
    "outside": ({"xml": voc_xml(box=(6, 6, 90, 20))}, 1, "lies outside the picture"),
    "outside without a size": ({"xml": voc_xml(box=(6, 6, 90, 20), size=())}, 1, "lies outside the picture"),
    "a class of its own": ({"xml": voc_xml("helmet")}, 1, "dataset.class_map=FILE names classes of your own"),
    "a class of two lines": ({"xml": voc_xml("cat\nerror: dog")}, 1, r"cat\nerror: dog"),
    "no class": ({"xml": voc_xml("")}, 1, "there is no class ''"),
    "difficult: maybe": ({"xml": voc_xml(extra="<difficult>maybe</difficult>")}, 2, "b/cat"),
    "a name of the set upward": ({"names": b"a\n../../VOC2007/JPEGImages/b\n"}, 1, "the picture is not there"),
    "an absolute name of the set": ({"names": b"a\n/etc/hostname\n"}, 1, "the picture is not there"),
    "a set with nulls": ({"names": b"a\n\0\0\n"}, 1, "the picture is not there"),
    "an escape in the set": ({"names": b"a\n\x1b[2J\n"}, 1, r"\x1b[2J"),
    "an empty set": ({"names": b"\n\n"}, 0, "leaves no case"),
    "a set of Windows": ({"names": b"\xef\xbb\xbfa\r\nb\r\n"}, 2, "b/cat"),
    "a set in utf-16": ({"names": "a\nb\n".encode("utf-16")}, 2, "b/cat"),
    "a set in GBK": ({"names": "a\n狗图\n".encode("gbk"), "file": "狗图.jpg"}, 2, "狗图/cat"),
    "a set in latin 1": ({"names": "a\ngröße\xff\n".encode("latin-1")}, 1, "the picture is not there"),
    "a name twice": ({"names": b"a\na\n"}, 1, "counted once"),
    "spaces": ({"names": b"a\nmy cat 1\n", "file": "my cat 1.jpg"}, 2, "my cat 1/cat"),
    ".JPG": ({"file": "b.JPG"}, 2, "b/cat"),
    ".png": ({"file": "b.png", "picture": PNG}, 2, "b/cat"),
    "no picture's extension": ({"file": "b.txt"}, 1, "the picture is not there"),
    "an empty picture": ({"picture": b""}, 1, "the picture is an empty file"),
}  # fmt: skip


@pytest.mark.parametrize("name", VOC)
def test_voc(tmp_path: Path, name: str) -> None:
    parts, good, said = VOC[name]
    root = voc_root(tmp_path, **parts)
    result = outcome(lambda: voc(root=root, allow_bad_records=True))
    assert result.good == good and said in result.said, result


# --- ImageNet ---------------------------------------------------------------------------------------------------------


def imagenet_root(
    root: Path, line: str | bytes = f"b,{TENCH} 5 5 20 20", head: bytes = b"", picture: bytes = JPEG, xml: bytes = b""
) -> Path:
    """Two pictures with a tench each; `line` is the second one's in the csv, or `xml` its annotation."""
    write(root / "val" / "a.jpg", JPEG)
    write(root / "val" / "b.jpg", picture)
    raw = line if isinstance(line, bytes) else line.encode()
    if xml:
        write(root / "Annotations" / "CLS-LOC" / "val" / "a.xml", voc_xml(TENCH))
        write(root / "Annotations" / "CLS-LOC" / "val" / "b.xml", xml)
    else:
        start = f"ImageId,PredictionString\na,{TENCH} 5 5 20 20\n".encode()
        write(root / "LOC_val_solution.csv", head + start + raw + b"\n")
    return root


NO_LINE = "it has no annotation, or one that cannot be read"
IMAGENET: dict[str, tuple[dict[str, Any], int, str]] = {
    "three numbers": ({"line": f"b,{TENCH} 5 5 20"}, 1, NO_LINE),
    "words": ({"line": f"b,{TENCH} 5 5 20 x"}, 1, NO_LINE),
    "NaN": ({"line": f"b,{TENCH} 5 nan 20 20"}, 1, "is not finite"),
    "infinity": ({"line": f"b,{TENCH} 5 5 inf 20"}, 1, "is not finite"),
    "the wrong way round": ({"line": f"b,{TENCH} 20 20 5 5"}, 1, "no or negative size"),
    "outside": ({"line": f"b,{TENCH} 5 5 90 20"}, 1, "lies outside the picture"),
    "an unknown class": ({"line": "b,n00000000 5 5 20 20"}, 1, "there is no class 'n00000000'"),
    "an escape as class": ({"line": "b,\x1b[2J 5 5 20 20"}, 1, "among ImageNet's 1,000"),
    "an empty line": ({"line": "b,"}, 1, NO_LINE),
    "no prediction": ({"line": "b"}, 1, NO_LINE),
    "a line twice": ({"line": f"b,{TENCH} 5 5 20 20\nb,{SHARK} 5 5 20 20"}, 1, NO_LINE),
    "an annotation without picture": ({"line": f"b,{TENCH} 5 5 20 20\n../c,{TENCH} 5 5 20 20"}, 2, "not there"),
    "a quote without end": ({"line": '"b,x'}, 1, NO_LINE),
    "a field of a megabyte": ({"line": '"' + "x" * 2**20}, 0, "cannot be read as csv"),
    "utf-8 with a mark": ({"head": b"\xef\xbb\xbf"}, 2, ""),
    "GBK": ({"line": f"b,{TENCH} 5 5 20 20\n狗,{TENCH} 5 5 20 20".encode("gbk")}, 2, "狗"),
    "nulls": ({"line": b"b,\0\0"}, 1, ""),
    "another csv": ({"head": b"x,y\n"}, 0, "is not Kaggle's csv"),
    "an empty annotation": ({"xml": b" "}, 1, NO_LINE),
    "an unknown encoding": (
        {"xml": voc_xml(TENCH, head='<?xml version="1.0" encoding="utf8mb4"?>').encode()}, 2, ""),
    "one bad box of two": (
        {"xml": voc_xml(TENCH, extra="</object><object>").encode()}, 1, NO_LINE),
    "NaN as height": ({"xml": voc_xml(TENCH, size=(40, "NaN")).encode()}, 1, NO_LINE),
    "an empty picture": ({"picture": b""}, 1, "the picture is an empty file"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet(tmp_path: Path, name: str) -> None:
    parts, good, said = IMAGENET[name]
    root = imagenet_root(tmp_path, **parts)
    result = outcome(lambda: imagenet(root=root, allow_bad_records=True))
    assert result.good == good and said in result.said, result


# --- folders of pictures ----------------------------------------------------------------------------------------------


WRONG = (
    None,
    True,
    -1,
    0.5,
    "x\n",
    "",
    [],
    {},
    [None],
    [[1]],
    math.inf,
    math.nan,
    10**40,
    "~nobody/x",
    "a\0b",
    "/dev/zero",
)


@pytest.mark.parametrize("make", [coco, voc, imagenet, imagefolder, folder])
def test_wrong_settings_are_one_line_or_work(tmp_path: Path, make: Callable[..., Any]) -> None:
    root = {coco: coco_root, voc: voc_root, imagenet: imagenet_root}.get(make, lambda root: root)(tmp_path)
    write(tmp_path / TENCH / "a.jpg", JPEG)
    for setting in inspect.signature(make).parameters:
        for value in WRONG:
            outcome(lambda setting=setting, value=value: make(**{"root": root, setting: value}))


def linked(path: Path, to: Path | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)


FOLDERS: dict[str, tuple[Callable[[Path], Any], int, str]] = {
    "checkpoints of a notebook": (lambda top: write(top / ".ipynb_checkpoints" / "b.jpg", JPEG), 1, "a.jpg"),
    "macOS's files": (lambda top: write(top / "._a.jpg", b"\0\5\26\7"), 1, "a.jpg"),
    "thumbnails of Windows": (lambda top: write(top / "Thumbs.db", b"\xd0\xcf"), 1, "a.jpg"),
    "a link to nothing": (lambda top: linked(top / "b.jpg", "/nowhere/b.jpg"), 1, "a.jpg"),
    "a link to itself": (lambda top: linked(top / "b.jpg", "b.jpg"), 1, "a.jpg"),
    "a folder in itself": (lambda top: linked(top / "deep", top), 1, "a.jpg"),
    "a link to a device": (lambda top: linked(top / "b.jpg", "/dev/zero"), 1, "a.jpg"),
    "a pipe": (lambda top: os.mkfifo(top / "b.jpg"), 1, "a.jpg"),
    "a folder called as a picture": (lambda top: (top / "b.jpg").mkdir(), 1, "a.jpg"),
    "an empty picture": (lambda top: write(top / "b.jpg", b""), 1, "b.jpg"),
    "a document": (lambda top: write(top / "b.eps", b"%!PS-Adobe-3.0 EPSF-3.0"), 1, "a.jpg"),
    "a name of two lines": (lambda top: write(top / "x\nerror: y.jpg", JPEG), 2, r"x\nerror: y.jpg"),
    "a name that clears the screen": (lambda top: write(top / "\x1b[2J.jpg", JPEG), 2, r"\x1b[2J.jpg"),
    "a name written backwards": (lambda top: write(top / "\u202egpj.jpg", JPEG), 2, r"\u202egpj.jpg"),
    "a name that is not utf-8": (lambda top: write(top / os.fsdecode(b"gr\xf6n.jpg"), JPEG), 2, r"gr\udcf6n.jpg"),
    "a picture that is not utf-8": (lambda top: write(top / os.fsdecode(b"\xf6.png"), PNG), 2, r"\udcf6.png"),
    "a bad picture that is not utf-8": (lambda top: write(top / os.fsdecode(b"\xf6.png"), b"x"), 1, NO_PICTURE),
    ".JPG with spaces": (lambda top: write(top / "my cat (1).JPG", JPEG), 2, "my cat (1).JPG"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(tmp_path: Path, name: str) -> None:
    make, good, said = FOLDERS[name]
    write(tmp_path / TENCH / "a.jpg", JPEG)
    make(tmp_path / TENCH)
    for data in (folder, imagefolder):
        more = {} if data is folder else {"allow_bad_records": True}
        result = outcome(lambda data=data, more=more: data(root=tmp_path, **more))
        assert result.good == good and said in result.said, result


def test_a_folder_that_links_to_a_stranger(tmp_path: Path) -> None:
    """A name in the json may go through folders of the data set, not through a link that leads out of it."""
    root = coco_root(tmp_path / "data", image={"file_name": "part/b.jpg"})
    write(tmp_path / "elsewhere" / "b.jpg", JPEG)
    linked(root / "val2017" / "part", tmp_path / "elsewhere")
    result = outcome(lambda: coco(root=root, allow_bad_records=True))
    assert result.good == 1 and LEADS_OUT in result.said
    (root / "val2017" / "part").unlink()
    # The picture itself, and the folder of all pictures, may be links: the user's own.
    linked(root / "val2017" / "part" / "b.jpg", tmp_path / "elsewhere" / "b.jpg")
    (root / "val2017").rename(tmp_path / "pictures")
    linked(root / "val2017", tmp_path / "pictures")
    assert outcome(lambda: coco(root=root)).good == 2


def test_the_tables_hold_enough() -> None:
    assert len(PICTURES) + len(COCO) + len(VOC) + len(IMAGENET) + len(FOLDERS) >= 105
