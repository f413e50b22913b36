"""Pictures with the channels and the levels that their files hold."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from bench.datasets.arrays import stored
from bench.datasets.arrays.stored import check_span, load_picture, shown_channels, stored_picture, stored_volume
from bench.datasets.folder import folder
from bench.datasets.transforms import Unfit, collate, fit_channels, prepare
from bench.types import InputSpec, UserError

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 2**16, (4, 6, 7), dtype=np.uint16)  # (C, H, W)


def saved(path: Path, values: np.ndarray) -> str:
    np.save(path, values)
    return str(path)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_of_grey_are_kept(tmp_path: Path, name: str) -> None:
    Image.fromarray(DEEP[0]).save(tmp_path / name)
    image, masks = stored_picture(str(tmp_path / name), None, 1)
    assert masks is None and image.dtype == torch.float32 and image.shape == (1, 6, 7)
    np.testing.assert_array_equal(image[0].numpy(), (DEEP[0] / np.float32(65535)).astype(np.float32))
    scaled, _ = stored_picture(str(tmp_path / name), [100, 4195], 1)  # 12 bits with an offset
    np.testing.assert_allclose(scaled[0], (DEEP[0].astype(float) - 100) / 4095, rtol=1e-6)
    viewer, _ = load_picture(str(tmp_path / name), None)
    assert viewer.dtype == torch.uint8 and viewer.shape == (
        3,
        6,
        7,
    )  # a network of three channels sees what a viewer shows


@pytest.mark.parametrize(
    ("name", "values", "options"),
    [
        ("pixels", DEEP.transpose(1, 2, 0), {"photometric": "minisblack", "planarconfig": "contig"}),
        ("planes", DEEP, {"photometric": "minisblack", "planarconfig": "separate"}),
        ("pages", DEEP, {"photometric": "minisblack"}),
        ("imagej", DEEP, {"imagej": True, "metadata": {"axes": "CYX"}}),
        ("alpha", DEEP.transpose(1, 2, 0), {"photometric": "rgb"}),
        (
            "eight",
            (DEEP // 257).astype(np.uint8).transpose(1, 2, 0),
            {"photometric": "rgb", "extrasamples": ["unspecified"]},
        ),
    ],
)
def test_a_tiff_of_four_channels_is_read_however_it_is_written(
    tmp_path: Path, name: str, values: np.ndarray, options: dict
) -> None:
    path = str(tmp_path / f"{name}.tif")
    tifffile.imwrite(path, values, **options)
    image, _ = stored_picture(path, None, 4)
    expected = DEEP // 257 if values.dtype == np.uint8 else DEEP / np.float32(65535)
    np.testing.assert_allclose(image.numpy(), expected, rtol=1e-6)


def test_pages_that_are_no_channels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "z.tif", DEEP, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(Unfit, match="axes ZYX; save one picture a file"):
        stored_picture(str(tmp_path / "z.tif"), None, 4)
    tifffile.imwrite(tmp_path / "q.tif", DEEP, photometric="minisblack")
    with pytest.raises(Unfit, match="4 x 6 x 7 neither the first nor the last axis is the network's 2 channels"):
        stored_picture(str(tmp_path / "q.tif"), None, 2)


def test_the_axis_of_channels_is_the_one_with_their_number(tmp_path: Path) -> None:
    first, last = saved(tmp_path / "f.npy", DEEP), saved(tmp_path / "l.npy", DEEP.transpose(1, 2, 0))
    assert torch.equal(stored_picture(first, None, 4)[0], stored_picture(last, None, 4)[0])
    assert stored_picture(saved(tmp_path / "g.npy", DEEP[0]), None, 1)[0].shape == (1, 6, 7)
    both = saved(tmp_path / "b.npy", np.zeros((4, 6, 4), np.uint8))
    with pytest.raises(Unfit, match="b.npy: in an array of 4 x 6 x 4 the 4 channels may be the first or the last axis"):
        stored_picture(both, None, 4)
    with pytest.raises(Unfit, match="neither the first nor the last axis is the network's 5 channels"):
        stored_picture(first, None, 5)
    with pytest.raises(Unfit, match="has 4 axes instead of 2"):
        stored_picture(saved(tmp_path / "4.npy", np.zeros((2, 2, 2, 2), np.uint8)), None, 2)


def test_bands_of_a_picture_are_channels_where_the_network_takes_so_many(tmp_path: Path) -> None:
    eight = (DEEP // 257).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(eight).save(tmp_path / "rgba.png")
    Image.fromarray(eight[..., :3]).save(tmp_path / "rgb.png")
    assert np.array_equal(stored_picture(str(tmp_path / "rgba.png"), None, 4)[0].permute(1, 2, 0), eight)
    over_white = np.asarray(load_picture(str(tmp_path / "rgba.png"), None)[0])
    assert np.array_equal(stored_picture(str(tmp_path / "rgba.png"), None, 1)[0], over_white)
    with pytest.raises(Unfit, match="the picture has 3 channels, and the network takes 4"):
        spec = InputSpec((6, 7), 6, (0.5,) * 4, (0.5,) * 4)
        fit_channels(stored_picture(str(tmp_path / "rgb.png"), None, 4)[0], spec)
    Image.fromarray(eight).convert("CMYK").save(tmp_path / "inks.jpg")
    assert len(stored_picture(str(tmp_path / "inks.jpg"), None, 4)[0]) == 3  # inks are no channels


@pytest.mark.parametrize("kind", ["float32", "float64", "int16", "int32", "uint32"])
def test_values_whose_range_is_not_known_need_one(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "a.npy", np.arange(12).reshape(3, 4).astype(kind))
    with pytest.raises(Unfit, match=rf"a\.npy: values of type {kind}; say .* dataset\.range=\[LOW,HIGH\]"):
        stored_picture(path, None, 1)
    image, _ = stored_picture(path, [1, 11], 1)
    torch.testing.assert_close(image, (torch.arange(12.0).view(1, 3, 4) - 1) / 10)


def test_nothing_hostile_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "o.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    with pytest.raises(OSError, match="Python objects in dtype"):
        stored_picture(str(tmp_path / "o.npy"), None, 1)
    with pytest.raises(OSError, match="NaN or infinite"):
        stored_picture(saved(tmp_path / "n.npy", np.full((2, 2), np.nan)), [0, 1], 1)
    for name, content in (
        ("e.npy", b""),
        ("t.tif", b"II*\0"),
        ("p.png", b"\x89PNG\r\n"),
        ("x.npy", b"\x93NUMPY\x01\0"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=name):
            stored_picture(str(tmp_path / name), None, 1)
    monkeypatch.setattr(stored, "MOST_VALUES", 40)
    monkeypatch.setattr(np, "array", None)  # no values are read of what is too large
    with pytest.raises(OSError, match="6 x 7 values, more than"):
        stored_picture(saved(tmp_path / "large.npy", DEEP[0]), None, 1)


def test_an_archive_says_how_large_it_is_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    header = b"\x93NUMPY\x01\0\x76\0" + f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(4096,) * 3}, }}".encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.ljust(127) + b"\n")
    monkeypatch.setattr(stored.npy, "read_array", lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(OSError, match="bomb.npz: .* 4096 x 4096 x 4096 values, more than"):
        stored_volume(str(path), None, 1)


def test_rgb_for_one_channel_is_pillows_grey_and_grey_for_three_is_repeated() -> None:
    rgb = RNG.integers(0, 256, (3, 40, 50), dtype=np.uint8)
    one, three = (InputSpec((8, 8), 8, (0.5,) * n, (0.5,) * n) for n in (1, 3))
    grey = fit_channels(torch.from_numpy(rgb), one)
    expected = np.asarray(Image.fromarray(rgb.transpose(1, 2, 0)).convert("L"))
    assert grey.dtype == torch.uint8 and np.abs(grey[0].numpy().astype(int) - expected).max() <= 1  # Pillow's rounding
    same = torch.full((3, 4, 4), 77, dtype=torch.uint8)
    assert torch.equal(fit_channels(same, one), same[:1])
    assert torch.equal(fit_channels(same[:1], three), same)
    with pytest.raises(Unfit, match="2 channels, and the network takes 3"):
        fit_channels(same[:2], three)
    with pytest.raises(Unfit, match="an image of 2 axes, but the network's input has 3"):
        fit_channels(same, InputSpec((8, 8, 8), 8, (0.5,), (0.5,)))


def test_channels_are_normalized_each_by_its_own_mean(tmp_path: Path) -> None:
    saved(tmp_path / "a.npy", (np.arange(4)[:, None, None] * np.ones((4, 8, 9))).astype(np.float32))
    case = folder(root=tmp_path, range=[0, 10]).cases[0]
    spec = InputSpec((8, 9), 8, (0.1, 0.2, 0.3, 0.4), (1.0, 0.5, 0.25, 0.125))
    sample = prepare(case, spec, "stretch")
    expected = [(0 - 0.1) / 1, (0.1 - 0.2) / 0.5, (0.2 - 0.3) / 0.25, (0.3 - 0.4) / 0.125]
    torch.testing.assert_close(sample.image, torch.tensor(expected)[:, None, None].expand(4, 8, 9))
    batch = collate([sample], spec, torch.device("cpu"), (3, 1, 0))
    torch.testing.assert_close(batch.black, torch.tensor([-0.1, -0.4, -1.2, -3.2]))
    assert batch.shown == [3, 1, 0]
    assert collate([sample], spec, torch.device("cpu")).shown == [0, 1, 2]


def test_settings_that_make_no_sense() -> None:
    for span in ([0], [1, 1], [2, 1], [0, 1, 2], [0, float("nan")]):
        with pytest.raises(UserError, match=r"dataset\.range=.* must be the values that are black and white"):
            check_span("dataset.range", span)
    assert shown_channels(2) == (2,) and shown_channels([2, 1, 0]) == (2, 1, 0) and shown_channels(None) == ()
    with pytest.raises(UserError, match=r"dataset\.show=\[0, 1\] must be one channel, or three"):
        shown_channels([0, 1])
