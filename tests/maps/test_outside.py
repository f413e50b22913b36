"""Maps of other programs: found by name, read with limits, and brought to the input as the picture was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets.transforms import GEOMETRIES, collate, prepare
from bench.maps.heatmaps import upsample
from bench.maps.outside import as_the_picture, find_map, load_map, outside_maps, read_map
from bench.types import Case, InputSpec
from methods.given import external

SPEC = InputSpec(size=32, resize=36, mean=(0.5,) * 3, std=(0.5,) * 3)


def case_of(height: int, width: int, name: str = "a/cat") -> Case:
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    return Case(name, "a", "cat", (0,), lambda: (pixels, None), boxes=torch.tensor([[0.0, 0, width, height]]))


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "tif"])
def test_every_format_gives_the_same_values(tmp_path: Path, kind: str) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        np.save(path, values)
    elif kind == "npz":
        np.savez(path, anything=values)
    else:
        Image.fromarray(values).save(path)
    read = read_map(path)
    assert read.dtype == np.float32 and np.array_equal(read, values)


def test_a_map_is_named_like_the_case_or_the_image_and_a_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "maps"
    (root / "a").mkdir(parents=True)
    np.save(tmp_path / "b.npy", np.ones((2, 2)))
    np.save(root / "a.npy", np.ones((2, 2)))
    assert find_map(str(root), "a/cat", "a") == root / "a.npy"
    np.save(root / "a" / "cat.npy", np.ones((2, 2)))
    assert find_map(str(root), "a/cat", "a") == root / "a" / "cat.npy"
    os.symlink(tmp_path / "b.npy", root / "link.npy")
    assert find_map(str(root), "link", "link") == root / "link.npy"
    for name in ("../b", str(tmp_path / "b"), "a/../../b", "missing"):
        assert find_map(str(root), name, name) is None


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: np.save(path, np.zeros((2, 3, 4))), "instead of a map"),
        (lambda path: np.save(path, np.zeros(4)), "instead of a map"),
        (lambda path: np.save(path, np.zeros((0, 4))), "instead of a map"),
        (lambda path: np.save(path, np.zeros((2, 2), complex)), "instead of a map"),
        (lambda path: np.save(path, np.array([[None]]), allow_pickle=True), "Python objects"),
        (lambda path: path.write_bytes(b""), "a.npy"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00junk"), "a.npy"),
        (lambda path: np.lib.format.open_memmap(path, "w+", np.uint8, (20_000, 20_000)), "instead of a map"),
    ],
)
def test_what_is_no_map_is_named(tmp_path: Path, write, says: str) -> None:
    write(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=says):
        load_map(str(tmp_path), "a/cat", "a")


def test_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(1, 2, 3, 1))
    assert read_map(tmp_path / "a.npy").shape == (2, 3)


def test_a_colour_picture_and_a_file_of_two_are_no_map(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    np.savez(tmp_path / "b.npz", first=np.ones((2, 2)), second=np.ones((2, 2)))
    grey = Image.new("L", (4, 4))
    grey.save(tmp_path / "c.tif", save_all=True, append_images=[grey])
    for name, says in (("a", "kind RGB"), ("b", "2 arrays"), ("c", "2 pictures")):
        with pytest.raises(ValueError, match=says):
            load_map(str(tmp_path), name, name)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 70), (90, 50), (20, 21)])
def test_a_map_of_the_picture_goes_the_pictures_own_way(geometry: str, height: int, width: int) -> None:
    """A smooth picture's grey values, read as a map, are the network's input."""
    y, x = np.mgrid[:height, :width]
    grey = np.round(127 + 120 * np.sin(x / width * 4) * np.cos(y / height * 3 + 1)).astype(np.uint8)
    pixels = torch.from_numpy(grey).expand(3, -1, -1).contiguous()
    case = Case("a", "a", "cat", (0,), lambda: (pixels, None))
    sample = prepare(case, SPEC, geometry)
    expected = (sample.image[0] * 0.5 + 0.5) * 255
    moved = as_the_picture(torch.from_numpy(grey).float(), sample.size, sample.to_input, (32, 32))
    inside = torch.ones(32, 32, dtype=torch.bool)
    if geometry == "pad":  # the picture's border is the mean colour, the map's is 0
        inside = moved != 0
        assert 0 < (~inside).sum() < 32 * 32 or height == width or (height, width) == (20, 21)
    assert (moved - expected)[inside].abs().max() < 1.01  # the picture is rounded to whole levels, once an axis


def test_mirrored_maps_are_mirrored() -> None:
    values = torch.rand(9, 13, generator=torch.Generator().manual_seed(0))
    sample = prepare(case_of(60, 60), SPEC, "stretch")
    moved = as_the_picture(values, sample.size, sample.to_input, (32, 32))
    mirrored = as_the_picture(values.flip(1), sample.size, sample.to_input, (32, 32))
    torch.testing.assert_close(mirrored, moved.flip(1))
    torch.testing.assert_close(moved, upsample(values[None], (32, 32))[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("old", [(3, 5, 4), (9, 20, 15), (6, 3, 30)])
def test_maps_of_volumes_voxel_by_voxel(old: tuple[int, ...]) -> None:
    """Stretched and cut: each voxel is the weighted mean of those within a position's width, written out."""
    values = torch.rand(*old, generator=torch.Generator().manual_seed(0))
    volume, size = (12, 20, 16), (8, 10, 9)
    to_input = (0.75, 0.5, 1.0, -1.0, 0.0, 2.0)  # x, y, z; two slices of border, one column cut away
    moved = as_the_picture(values, volume, to_input, size)
    assert moved.shape == size

    def shares(axis: int, place: int, scale: float, shift: float) -> list[tuple[int, float]] | None:
        new = round(volume[axis] * scale)
        if not 0 <= place - shift < new:
            return None
        step = old[axis] / new
        centre = (place - shift + 0.5) * step
        centre = min(max(centre, 0.5), old[axis] - 0.5) if step < 1 else centre
        each = [(i, max(0.0, 1 - abs(i + 0.5 - centre) / max(step, 1))) for i in range(old[axis])]
        whole = sum(share for _, share in each)
        return [(i, share / whole) for i, share in each if share]

    for place in np.ndindex(*size):
        each = [shares(axis, place[axis], to_input[2 - axis], to_input[5 - axis]) for axis in range(3)]
        expected = 0.0
        if None not in each:
            expected = sum(
                a * b * c * float(values[i, j, k]) for i, a in each[0] for j, b in each[1] for k, c in each[2]
            )
        assert float(moved[place]) == pytest.approx(expected, abs=1e-5), place
    assert (moved[:2] == 0).all() and (moved[2:] > 0).all()


def test_axes_of_a_volume_s_map(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 1, 2, 3, 1), np.float32))
    assert read_map(tmp_path / "a.npy", 3).shape == (2, 3, 1)
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"instead of a map \(depth, height, width\)"):
        load_map(str(tmp_path), "b", "b", 3)


def test_the_method_gives_maps_at_input_size_and_none_where_there_is_none(tmp_path: Path) -> None:
    batch = collate(
        [prepare(case_of(40, 60, name), SPEC, "stretch") for name in ("a/cat", "b", "c")], SPEC, torch.device("cpu")
    )
    batch.image_ids[:] = ["a", "b", "c"]
    np.save(tmp_path / "a.npy", np.full((5, 5), 2.0))
    np.save(tmp_path / "c.npy", np.array([[1.0, np.nan]]))
    for frame in ("original", "input"):
        maps = external(lambda root, frame: outside_maps(batch, root, frame), root=str(tmp_path), frame=frame)
        assert maps.shape == (3, 32, 32) and (maps[0] == 2).all() and maps[1:].isnan().all()
    with pytest.raises(ValueError, match="frame=other"):
        external(lambda root, frame: torch.zeros(1), root=str(tmp_path), frame="other")
