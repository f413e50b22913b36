"""JPEGs decoded by torchvision are what Pillow decodes, and everything else is left to Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.data import chelsea

from bench.datasets import images
from bench.datasets.annotations import segmentations
from bench.datasets.images import read_image
from bench.types import UserError


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that torchvision decoded."""
    seen: list[str] = []

    def counted(path: str) -> torch.Tensor:
        seen.append(path)
        return torch.from_numpy(np.fromfile(path, np.uint8))

    monkeypatch.setattr(images, "read_file", counted)
    return seen


KINDS = {
    "rgb": ({}, True),
    "every pixel its colour": ({"subsampling": 0}, True),
    "progressive": ({"progressive": True}, True),
    "rgb inside": ({"keep_rgb": True}, True),
    "grey": ({}, True),
    "cmyk": ({}, False),
    "turned": ({}, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels(tmp_path: Path, opened: list[str], kind: str) -> None:
    options, by_torchvision = KINDS[kind]
    path = tmp_path / "a.jpg"
    picture = Image.fromarray(chelsea()[:, :301])
    if kind in ("grey", "cmyk"):
        picture = picture.convert({"grey": "L", "cmyk": "CMYK"}[kind])
    if kind == "turned":
        picture.getexif()[0x0112] = 8
        options = {"exif": picture.getexif()}
    picture.save(path, quality=80, **options)
    with Image.open(path) as file:
        expected = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    found = read_image(path)
    assert np.array_equal(found.permute(1, 2, 0), expected)
    assert opened == [str(path)] * by_torchvision
    found.zero_()  # what one case does with its picture, another does not see
    assert np.array_equal(read_image(path).permute(1, 2, 0), expected)


def test_a_jpeg_by_another_name_and_a_png_that_says_jpg(tmp_path: Path, opened: list[str]) -> None:
    Image.fromarray(chelsea()).save(tmp_path / "a.png", "JPEG")
    Image.fromarray(chelsea()).save(tmp_path / "b.jpg", "PNG")
    assert read_image(tmp_path / "a.png").shape == read_image(tmp_path / "b.jpg").shape == (3, 300, 451)
    assert opened == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("left", [0, 3, 400, -2000, -3])
def test_a_torn_jpeg_is_an_error(tmp_path: Path, left: int) -> None:
    Image.fromarray(chelsea()).save(tmp_path / "whole.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:left])
    with pytest.raises(OSError, match=r"torn\.jpg"):
        read_image(tmp_path / "torn.jpg")


def test_metadata_that_pillow_trips_over_are_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(_picture: Image.Image) -> Image.Image:
        raise TypeError("bad operand type for abs(): 'str'")  # seen with a damaged WebP

    monkeypatch.setattr(ImageOps, "exif_transpose", trip)
    Image.fromarray(chelsea()).save(tmp_path / "a.webp")
    with pytest.raises(OSError, match=r"a\.webp: cannot be decoded as a picture"):
        read_image(tmp_path / "a.webp")


@pytest.mark.parametrize("kind", ["P", "L", "1", "RGBA", "LA", "CMYK", "I;16"])
def test_a_picture_that_pillow_opened_is_what_its_file_is(tmp_path: Path, kind: str) -> None:
    """A palette's numbers are no grey values."""
    picture = Image.fromarray(chelsea()[:40, :60])
    if kind == "I;16":
        picture = Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27)
    elif kind != "CMYK":
        picture = picture.convert("P", palette=Image.Palette.ADAPTIVE) if kind == "P" else picture.convert(kind)
    else:
        picture = picture.convert("CMYK")
    path = tmp_path / f"a.{'tif' if kind == 'CMYK' else 'png'}"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    with Image.open(path) as file:
        assert torch.equal(images.read_pixels(file), read_image(path))
    assert torch.equal(images.read_pixels(path), read_image(path))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (Image.fromarray(np.zeros((2, 2), np.float32)), "floating point pixels"),
        (np.zeros((0, 5, 3), np.uint8), "has no pixels"),
        (np.zeros((5, 5, 4), np.uint8), r"uint8 array .* \(5, 5, 4\)"),
        ("\x1b[2J.png", r"\\x1b\[2J.png cannot be read"),
    ],
)
def test_no_picture_is_one_line(image: images.Picture, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        images.read_pixels(image)
    assert str(error.value).isprintable()


def test_the_format_is_told_by_the_content_and_named_formats_are_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ghostscript, which runs programs, is never started."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"
    started: list[object] = []
    monkeypatch.setattr("subprocess.check_call", lambda *given, **more: started.append(given))
    monkeypatch.setattr("subprocess.Popen", lambda *given, **more: started.append(given))
    for name in ("a.jpg", "a.eps", "a.png"):
        (tmp_path / name).write_bytes(eps)
        with pytest.raises(OSError, match="cannot be decoded"):
            read_image(tmp_path / name)
    assert not started
    assert {".eps", ".pdf", ".ps", ".psd", ".ico", ".fits"}.isdisjoint(images.picture_extensions())
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"} <= images.picture_extensions()
    for kind in ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF"):
        Image.fromarray(chelsea()[:20, :30]).save(tmp_path / "any.jpg", kind)
        assert read_image(tmp_path / "any.jpg").shape == (3, 20, 30)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(chelsea()).save(tmp_path / "a.png")
    Image.fromarray(chelsea()).save(tmp_path / "a.jpg")
    monkeypatch.setattr(images, "MOST_PIXELS", 300 * 451)
    assert read_image(tmp_path / "a.png").shape == (3, 300, 451)
    images._decode.cache_clear()
    monkeypatch.setattr(images, "MOST_PIXELS", 300 * 451 - 1)
    monkeypatch.setattr(images, "to_rgb", None)  # must not be called
    monkeypatch.setattr(images, "decode_jpeg", None)
    for name in ("a.png", "a.jpg"):
        with pytest.raises(ValueError, match=rf"{name}: the picture has 451 x 300 pixels, more than"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_of_text_are_pycocotools(seed: int) -> None:
    from pycocotools import mask as mask_utils

    draw = np.random.default_rng(seed)
    for height, width in ((30, 40), (7, 300), (1, 1)):
        masks = [draw.random((height, width)) < share for share in (0, 0.02, 0.5, 0.98, 1)]
        masks.append(np.kron(draw.random((height, 1)) < 0.5, np.ones((1, width))) > 0)
        for mask in masks:
            code = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
            for counts in (code["counts"], code["counts"].decode()):
                (decoded,) = segmentations.decode_masks([{"size": [height, width], "counts": counts}], height, width)
                assert np.array_equal(decoded, mask)


def test_masks_of_gigabytes_are_refused() -> None:
    outline = [[0, 0, 9, 0, 9, 9]]
    with pytest.raises(ValueError, match="30 masks of 9000 x 9000 pixels take over 2 GiB"):
        segmentations.decode_masks([outline] * 30, 9000, 9000)


def test_too_little_memory_is_no_fault_of_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be left out as a bad record, and the run would go on with other pictures than another machine's."""
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    monkeypatch.setattr("bench.datasets.images.ImageOps.exif_transpose", raise_memory_error)
    with pytest.raises(MemoryError):
        read_image(str(path))


def raise_memory_error(*_: object) -> None:
    raise MemoryError
