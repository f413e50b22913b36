"""A user's own pictures, and the decoder that all data sets share."""

from __future__ import annotations

import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from orientations import SHOWN
from PIL import Image

from bench.datasets.folder import folder
from bench.datasets.images import read_image
from bench.types import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def decoded(path):
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
    return image.permute(1, 2, 0).numpy()


def write_png(path, samples, colour_type):
    """A 16-bit PNG by hand, (H, W) or (H, W, channels); Pillow writes no 16-bit colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decoded(tmp_path / "a.png"), SHOWN[orientation](COLOUR))


def test_exif_orientation_of_a_photograph(tmp_path):
    stored = np.zeros((32, 64, 3), dtype=np.uint8)
    stored[:, :16] = 255  # left side, which orientation 6 turns to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown = decoded(tmp_path / "a.jpg")
    assert shown.shape == (64, 32, 3)
    assert shown[:12].min() > 240 and shown[24:].max() < 15


def test_exif_orientation_of_16_bit_grey(tmp_path):
    grey = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257 * 40
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(decoded(tmp_path / "a.png")[..., 1], np.rot90(grey // 257, -1))


def test_grey_and_black_and_white(tmp_path):
    grey = COLOUR[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(decoded(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(grey > 128).save(tmp_path / "bit.png")
    assert np.array_equal(decoded(tmp_path / "bit.png")[..., 2], 255 * (grey > 128))


@pytest.mark.parametrize("writer", ["hand", "pillow", "tiff little", "tiff big"])
def test_16_bit_grey_is_divided_by_257(tmp_path, writer):
    grey = np.array([[0, 128, 129, 257], [300, 32767, 65406, 65535]], dtype=np.uint16)
    path = tmp_path / ("a.png" if writer in ("hand", "pillow") else "a.tif")
    if writer == "hand":
        write_png(path, grey, colour_type=0)
    elif writer == "tiff big":
        Image.frombytes("I;16B", grey.shape[::-1], grey.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(grey).save(path)
    expected = np.repeat(np.array([[0, 0, 1, 1], [1, 127, 254, 255]])[..., None], 3, -1)
    assert np.array_equal(decoded(path), expected)


def test_16_bit_colour(tmp_path):
    samples = RNG.integers(0, 65536, (4, 6, 3), dtype=np.uint16)
    write_png(tmp_path / "a.png", samples, colour_type=2)
    assert np.abs(decoded(tmp_path / "a.png") - samples / 257).max() <= 1  # Pillow cuts off the low byte


def test_palette_with_and_without_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    assert decoded(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [200, 100, 50]]]
    image.save(tmp_path / "clear.png", transparency=0)
    assert decoded(tmp_path / "clear.png").tolist() == [[[255, 255, 255], [200, 100, 50]]]
    image.save(tmp_path / "clear.gif", transparency=1)
    assert decoded(tmp_path / "clear.gif").tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    alpha = RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    alpha[0, :2, 0] = 0, 255
    layers = COLOUR if mode == "RGBA" else COLOUR[..., :1]
    Image.fromarray(np.concatenate([layers, alpha], -1), mode).save(tmp_path / "a.png")
    over = (layers.astype(float) * alpha + 255.0 * (255 - alpha.astype(float))) / 255
    result = decoded(tmp_path / "a.png")
    assert np.abs(result - over).max() <= 1
    assert (result[0, 0] == 255).all() and (result[0, 1] == layers[0, 1]).all()


def test_a_transparent_colour_of_a_png_without_alpha(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 8, 7))
    image.save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert decoded(tmp_path / "a.png").tolist() == [[[255, 255, 255], [9, 8, 7]]]


def test_cmyk(tmp_path):
    inks = np.concatenate([COLOUR, RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)], -1)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    paper = (255 - inks[..., :3].astype(float)) * (255 - inks[..., 3:].astype(float)) / 255
    assert np.abs(decoded(tmp_path / "a.tif") - paper).max() <= 2
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg")  # Adobe writes it inverted
    red, green, blue = decoded(tmp_path / "cyan.jpg")[8, 8]
    assert red < 10 and green > 245 and blue > 245


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (decoded(tmp_path / "a.gif") == [255, 0, 0]).all()


def test_a_truncated_picture_is_an_error_that_names_the_file(tmp_path):
    for name in ("whole.jpg", "whole.png"):
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        for length in (0, 20, len(data) // 2):
            cut = tmp_path / f"cut-{length}-{name}"
            cut.write_bytes(data[:length])
            with pytest.raises((OSError, ValueError), match=cut.name):
                read_image(cut)


def test_what_is_no_picture_or_missing_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    for name in ("text.jpg", "missing.jpg"):
        with pytest.raises(OSError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    "values", [np.array([[0.5]], np.float32), np.array([[70000]], np.int32), -np.eye(2, dtype="i4")]
)
def test_values_without_an_8_bit_meaning_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif.*8 or 16 bits"):
        read_image(tmp_path / "deep.tif")


@pytest.fixture
def pictures(tmp_path):
    top = tmp_path / "pictures"
    for name in ("b.png", "a.JPG", "sub/deep/c.webp", "sub/.hidden.png", ".secret/d.png", "B.png"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOUR).save(path)
    (top / "notes.txt").write_text("text")
    (top / "noextension").write_text("text")
    (top / "paper.pdf").write_text("text")
    (top / "folder.png").mkdir()
    return top


def test_lists_pictures_in_order_without_hidden_ones(pictures):
    cases = folder(root=str(pictures)).cases
    assert [case.id for case in cases] == ["B.png", "a.JPG", "b.png", "sub/deep/c.webp"]
    for case in cases:
        assert case.image_id == case.id and case.class_name == "" and case.target == ()
        assert case.boxes.shape == case.other_boxes.shape == (0, 4) and case.difficult.shape == (0,)


def test_load_is_picklable_and_survives_another_working_folder(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = next(case for case in folder(root="pictures").cases if case.id == "b.png")
    monkeypatch.chdir("/")
    image, masks = pickle.loads(pickle.dumps(case.load))()
    assert masks is None and np.array_equal(image.permute(1, 2, 0).numpy(), COLOUR)


def test_a_broken_picture_is_listed_and_fails_only_when_loaded(pictures):
    (pictures / "z.png").write_bytes(b"")
    broken = folder(root=pictures).cases[-1]
    with pytest.raises(OSError, match=r"z\.png"):
        broken.load()


def test_links_are_followed_once(pictures):
    (pictures / "again").symlink_to(pictures)  # a loop
    (pictures / "link.png").symlink_to(pictures / "b.png")
    (pictures / "dangling.png").symlink_to(pictures / "nothing.png")
    assert [case.id for case in folder(root=pictures).cases] == [
        "B.png",
        "a.JPG",
        "b.png",
        "link.png",
        "sub/deep/c.webp",
    ]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "no picture in"),
        (lambda path: path.write_text("x"), "is a file"),
    ],
)
def test_a_missing_empty_or_wrong_folder_is_explained_in_one_line(tmp_path, make, says):
    make(tmp_path / "mine")
    with pytest.raises(UserError) as error:
        folder(root=tmp_path / "mine")
    message = str(error.value)
    assert says in message and str(tmp_path / "mine") in message and "dataset.root" in message and "\n" not in message


@pytest.mark.parametrize("root", [None, ""])
def test_no_folder_given(root):
    with pytest.raises(UserError, match="dataset.root=DIR"):
        folder(root=root)
