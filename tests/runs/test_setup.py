"""What makes results comparable: the protocol's key, and what is kept of a network."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from bench.datasets.coco import coco
from bench.datasets.collage import collage
from bench.datasets.folder import folder
from bench.datasets.mosaic import mosaic
from bench.runs.facts import known_facts, request_of
from bench.runs.plan import choose_cases
from bench.runs.setup import checks
from bench.runs.setup.protocol import fingerprint
from bench.store import files
from bench.store.folders import PROTOCOL
from bench.types import Case, UserError


def pictures(root: Path, seed: int) -> Path:
    root.mkdir()
    draw = np.random.default_rng(seed)
    for name in "abc":
        Image.fromarray(draw.integers(0, 255, (30 + seed, 40, 3), dtype=np.uint8)).save(root / f"{name}.png")
    return root


def test_other_pictures_behind_the_same_names_are_another_data_set(tmp_path: Path) -> None:
    first, second = (folder(root=str(pictures(tmp_path / name, seed))).cases for name, seed in (("one", 1), ("two", 2)))
    same = folder(root=str(pictures(tmp_path / "moved", 1))).cases
    assert [case.id for case in first] == [case.id for case in second]
    assert fingerprint(first) == fingerprint(same) != fingerprint(second)


def test_a_picture_of_the_same_size_and_time_is_another_by_its_content(tmp_path: Path) -> None:
    for name, value in (("one", 0), ("two", 255)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20), (value,) * 3).save(tmp_path / name / "a.bmp")
        os.utime(tmp_path / name / "a.bmp", (1e9, 1e9))
    first, second = (folder(root=tmp_path / name).cases for name in ("one", "two"))
    sizes = [Path(case.files[0]).stat().st_size for case in (*first, *second)]
    assert sizes[0] == sizes[1] and fingerprint(first) != fingerprint(second)
    os.utime(tmp_path / "one" / "a.bmp", (2e9, 2e9))  # copied without its time: the content is the same
    assert fingerprint(first) == fingerprint(folder(root=tmp_path / "one").cases)


def test_large_data_go_by_size_and_time_and_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HASHED", 0)
    cases = folder(root=pictures(tmp_path / "one", 1)).cases
    before = fingerprint(cases)
    shutil.copytree(tmp_path / "one", tmp_path / "moved")  # with times, as cp -a
    assert fingerprint(folder(root=tmp_path / "moved").cases) == before
    os.utime(tmp_path / "one" / "b.png", (1e9, 1e9))
    assert fingerprint(cases) != before
    (tmp_path / "one" / "b.png").unlink()
    assert fingerprint(cases) != before


def annotated(root: Path, **more: Any) -> Sequence[Case]:
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    Image.new("RGB", (40, 30)).save(root / "val2017" / "a.png")
    square = [[1, 1, 9, 1, 9, 9]]
    things = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 8], "segmentation": square} for i in range(2)
    ]
    things[1] |= more
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": things,
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return coco(root=root).cases


def test_masks_crowds_and_boxes_are_part_of_the_key(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"segmentation": [[1, 1, 9, 1, 9, 8]]}, {"segmentation": None}, {"iscrowd": 1}, {"bbox": [1, 1, 8, 7]},
    ]  # fmt: skip
    keys = [fingerprint(annotated(tmp_path / str(i), **change)) for i, change in enumerate(changes)]
    assert len(set(keys)) == len(changes) and fingerprint(annotated(tmp_path / "again")) == keys[0]


def test_difficult_flags_are_part_of_the_key() -> None:
    cases = collage(scenes=2)
    before = fingerprint(cases)
    cases[0].difficult[0] = True
    assert fingerprint(cases) != before


def test_a_mosaic_is_another_where_a_cell_is(tmp_path: Path) -> None:
    keys = []
    for value in (0, 1):
        for name in ("ant", "bee", "cow", "dog"):
            path = tmp_path / str(value) / name / "a.bmp"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (20, 20), (value if name == "cow" else 9,) * 3).save(path)
        source = {"name": "imagefolder", "root": str(tmp_path / str(value)), "class_map": "sorted"}
        cases = mosaic(source=source, mosaics=2).cases
        assert all(len(case.files) == 4 for case in cases)
        keys.append(fingerprint(cases))
    assert keys[0] != keys[1]


def test_two_cases_of_one_id_are_one_line(tmp_path: Path) -> None:
    """As two files are whose names are the same once they are on one line."""
    for name in ("a\nb.png", "a\\nb.png", "c.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"two cases of the data set have one id, a\\nb.png; give each its own name"):
        checks.check_cases(folder(root=tmp_path).cases)


def test_boxes_are_those_of_the_class_asked_about() -> None:
    cases = collage(scenes=4)
    group = cases[0].target
    assert len(cases[0].boxes) and len(group) > 1
    for target in ("predicted", 1):
        for case in choose_cases(cases, None, 0, target):
            assert case.target == (() if target == "predicted" else (1,))
            assert not len(case.boxes) and not len(case.other_boxes) and not len(case.difficult)
            image, masks = pickle.loads(pickle.dumps(case.load))()
            assert image.shape == (3, 224, 224) and masks is None
    # An output of the case's own class is a narrower name of it.
    chosen = {case.id: case for case in choose_cases(cases, None, 0, group[1])}
    for case in cases:
        kept = group[1] in case.target
        assert len(chosen[case.id].boxes) == (len(case.boxes) if kept else 0)
        assert chosen[case.id].target == (group[1],) and (chosen[case.id].load()[1] is not None) == kept


def test_the_order_of_cases_does_not_matter_and_their_ground_truth_does() -> None:
    cases = collage(scenes=4)
    whole = fingerprint(cases)
    assert fingerprint(cases[::-1]) == whole != fingerprint(cases[:3])
    cases[0].boxes[0, 0] += 1
    assert fingerprint(cases) != whole


def test_a_larger_limit_adds_cases_behind_the_smaller_ones() -> None:
    cases = collage(scenes=30)
    few, more = choose_cases(cases, 7, 0, "label"), choose_cases(cases, 20, 0, "label")
    assert [case.id for case in more[:7]] == [case.id for case in few]
    assert choose_cases(cases[::-1], 20, 0, "label")[0].id == more[0].id
    assert [case.id for case in choose_cases(cases, 7, 1, "label")] != [case.id for case in few]


def test_a_network_is_known_only_by_its_own_request_and_sound_facts(tmp_path: Path) -> None:
    node = {"name": "n", "weights": "random", "_target_": "bench.networks.sources.torchvision_model"}
    request = request_of(node, 0)
    assert request_of({**node, "target": "mine:net"}, 0) is None
    assert request_of(node, 1) != request and request_of({**node, "name": "m"}, 0) != request
    weights = tmp_path / "w.pth"
    torch.save({}, weights)
    with_file = request_of({**node, "weights": str(weights)}, 0)
    torch.save({"a": torch.zeros(3)}, weights)
    assert request_of({**node, "weights": str(weights)}, 0) != with_file
    assert known_facts(tmp_path, request, None) is None


def test_facts_with_a_changed_letter_are_not_used(tmp_path: Path) -> None:
    from bench.__main__ import compute
    from bench.config import compose_config, plain

    words = ["model=resnet18", "model.weights=random", "method=[grad_cam]", "metric=[]", "limit=1", "quiet=true"]
    settings = plain(compose_config([*words, f"out={tmp_path}"]))
    folder_path = compute(settings).folder.path
    request = request_of(settings["model"], settings["seed"])
    assert known_facts(tmp_path, request, None).layers == ("layer4",)
    assert known_facts(tmp_path, request, "layer3") is None
    path = folder_path / PROTOCOL
    text = path.read_text()
    path.write_text(text.replace("layer4", "layer3"))
    assert yaml.safe_load(path.read_text())["network"]["layers"] and known_facts(tmp_path, request, None) is None
