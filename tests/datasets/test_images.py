"""JPEGs decoded by torchvision are what Pillow decodes, and everything else is left to Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.data import chelsea

from bench.datasets import images
from bench.datasets.images import read_image


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
