"""Volumes of the user's own, with label volumes, boxes and classes by folder."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.datasets.arrays.volumes import label_boxes, volumes
from bench.datasets.transforms import Unfit
from bench.types import Dataset, UserError

RNG = np.random.default_rng(0)
SHAPE = (5, 6, 7)
IMAGE = RNG.integers(0, 256, SHAPE, dtype=np.uint8)
LABELS = np.zeros(SHAPE, np.int16)
LABELS[1:3, 0:2, 4:7], LABELS[4, 5, 0:3], LABELS[3, 3, 3] = 7, 300, -2
BOXES = [[3, 3, 3, 4, 4, 4], [4, 0, 1, 7, 2, 3], [0, 5, 4, 3, 6, 5]]  # of -2, 7 and 300


def put(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez_compressed(path, values)
    else:
        np.save(path, values)


def test_labels_are_instances_with_masks_and_boxes(tmp_path: Path) -> None:
    put(tmp_path / "a" / "one.npy", IMAGE)
    put(tmp_path / "labels" / "a" / "one.npz", LABELS)
    put(tmp_path / "two.npz", IMAGE[None])
    data = volumes(root=tmp_path)
    assert [case.id for case in data.cases] == ["a/one.npy", "two.npz"] and not data.bad_records
    one, two = data.cases
    assert one.target == () and one.boxes.tolist() == BOXES and not one.difficult.any() and len(one.files) == 2
    assert two.boxes.shape == two.other_boxes.shape == two.ignore.shape == (0, 6) and len(two.files) == 1
    assert one.load_stored is not None
    for image, masks in (one.load_stored(1), one.load()):
        assert torch.equal(image, torch.from_numpy(IMAGE)[None]) and masks is not None
        assert torch.equal(masks, torch.stack([torch.from_numpy(LABELS == value) for value in (-2, 7, 300)]))
    assert two.load()[1] is None


def test_boxes_from_a_table(tmp_path: Path) -> None:
    put(tmp_path / "v.npy", IMAGE)
    lines = ["file,x0,y0,z0,x1,y1,z1", "v.npy,0,1,2,3.5,4,5", "v.npy,1,1,1,2,2,2"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    (case,) = volumes(root=tmp_path).cases
    assert case.boxes.tolist() == [[0, 1, 2, 3.5, 4, 5], [1, 1, 1, 2, 2, 2]] and case.load()[1] is None
    bad = ["w.npy,0,0,0,1,1,1", "v.npy,0,0,0,1,0,1", "v.npy,0,0,0,1,1", "v.npy,a,0,0,1,1,1", "v.npy,0,0,0,1,1,inf"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines + bad))
    with pytest.raises(UserError, match=r"5 of 1 records are bad, first boxes\.csv line 4: names no volume"):
        volumes(root=tmp_path)
    data = volumes(root=tmp_path, allow_bad_records=True)
    assert len(data.bad_records) == 5 and len(data.cases[0].boxes) == 2
    (tmp_path / "boxes.csv").write_text("file,x0,y0,x1,y1\n")
    with pytest.raises(UserError, match=r"boxes\.csv has no column z0; it needs file,x0,y0,z0,x1,y1,z1"):
        volumes(root=tmp_path)
    (tmp_path / "boxes.csv").write_text("\n".join([*lines, "v.npy,0,0,0,8,1,1"]))
    with pytest.raises(ValueError, match=r"v\.npy: a box reaches beyond its 5 x 6 x 7 voxels"):
        volumes(root=tmp_path).cases[0].load()


def test_classes_by_folder(tmp_path: Path) -> None:
    for name in ("cat/a.npy", "dog/b.npy", "c.npy"):
        put(tmp_path / name, IMAGE)
    data = volumes(root=tmp_path, class_map="sorted", allow_bad_records=True)
    assert [(case.class_name, case.target) for case in data.cases] == [("cat", (0,)), ("dog", (1,))]
    assert data.outputs == 2 and data.bad_records[0]["record"] == "c.npy"


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (LABELS[:4], "its labels have"),
        (LABELS + 0.5, "labels are whole numbers"),
        (LABELS[0], "labels are whole numbers"),
        (np.arange(504, dtype=np.int32).reshape(6, 7, 12), "at most 255 instances"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, labels: np.ndarray, reason: str) -> None:
    put(tmp_path / "v.npy", IMAGE)
    put(tmp_path / "labels" / "v.npy", labels)
    with pytest.raises((ValueError, UserError), match=reason):
        volumes(root=tmp_path).cases[0].load()


def test_boxes_around_labels_equal_a_loop() -> None:
    labels = RNG.integers(0, 4, (4, 5, 6)) * RNG.integers(0, 2, (4, 5, 6))
    for value, box in zip(np.unique(labels)[1:], label_boxes(labels).tolist(), strict=True):
        z, y, x = np.nonzero(labels == value)
        assert box == [x.min(), y.min(), z.min(), x.max() + 1, y.max() + 1, z.max() + 1]


def nifti(path: Path, values: np.ndarray, **header: Any) -> None:
    from nibabel.nifti1 import Nifti1Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Nifti1Image(values, np.eye(4), **header).to_filename(path)


def test_nifti(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    nifti(tmp_path / "a.nii.gz", IMAGE.T.astype(np.int16) - 100)
    nifti(tmp_path / "labels" / "a.nii", LABELS.T)
    (case,) = volumes(root=tmp_path, range=[-100, 155]).cases
    image, masks = case.load()
    torch.testing.assert_close(image, torch.from_numpy(IMAGE)[None] / 255)
    assert case.boxes.tolist() == BOXES and masks is not None and masks.shape == (3, *SHAPE)
    nifti(tmp_path / "b.nii", np.stack([IMAGE.T, IMAGE.T * 0], -1))
    several = volumes(root=tmp_path).cases[1].load_stored
    assert several is not None and several(2)[0].shape == (2, *SHAPE)
    (tmp_path / "c.nii.gz").write_bytes(b"\x1f\x8b nothing")
    with pytest.raises(OSError, match=r"c\.nii\.gz: cannot be read"):
        volumes(root=tmp_path).cases[2].load()


def test_nifti_without_nibabel_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("nibabel")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("nibabel"):
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "a.nii").write_bytes(b"x")
    with pytest.raises(UserError, match=r"NIfTI files need nibabel: pip install 'cam-bench\[volumes\]'"):
        volumes(root=tmp_path).cases[0].load()


def test_what_is_no_volume(tmp_path: Path) -> None:
    put(tmp_path / "labels" / "a.npy", LABELS)
    with pytest.raises(UserError, match="no volume in .* or below"):
        volumes(root=tmp_path)
    put(tmp_path / "a.npy", IMAGE[0])
    data: Dataset = volumes(root=tmp_path)
    with pytest.raises(Unfit, match="an array of 6 x 7 has 2 axes instead of 3"):
        data.cases[0].load()
