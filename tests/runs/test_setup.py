"""What makes results comparable: the protocol's key, and what is kept of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from bench.datasets.collage import collage
from bench.datasets.folder import folder
from bench.runs.facts import known_facts, request_of
from bench.runs.plan import choose_cases
from bench.runs.setup import fingerprint
from bench.runs.store import PROTOCOL


def pictures(root: Path, seed: int) -> Path:
    root.mkdir()
    draw = np.random.default_rng(seed)
    for name in "abc":
        Image.fromarray(draw.integers(0, 255, (30 + seed, 40, 3), dtype=np.uint8)).save(root / f"{name}.png")
    return root


def test_other_pictures_behind_the_same_names_are_another_data_set(tmp_path: Path) -> None:
    first, second = (folder(root=str(pictures(tmp_path / name, seed))) for name, seed in (("one", 1), ("two", 2)))
    same = folder(root=str(pictures(tmp_path / "moved", 1)))
    assert [case.id for case in first] == [case.id for case in second]
    assert fingerprint(first) == fingerprint(same) != fingerprint(second)


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
