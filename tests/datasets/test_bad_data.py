"""Bad data in a run: what is left out is counted and listed, too much of it stops, and each fault is one line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.__main__ import shipped
from bench.config import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, build, compose_config, plain
from bench.runs.facts import Opener
from bench.runs.run import Outcome, run
from bench.runs.setup import prepare_run
from bench.types import InputSpec, Network, UserError


def network(classes: int = 1000) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
        module = nn.Sequential(*layers).eval().requires_grad_(False)
    spec = InputSpec(size=32, resize=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Network(name="toy", module=module, spec=spec, layers=["1"], weights="random", weights_hash=str(classes))


def go(out: Path, *words: str, classes: int = 1000) -> Outcome:
    always = ["method=[grad_cam,center]", "metric=[box_coverage]", "gallery.cases=0", "quiet=true", f"out={out}"]
    node = plain(compose_config([*always, *words]))
    methods, metrics = bind_all(node["method"], GIVEN_TO_METHOD), bind_all(node["metric"], GIVEN_TO_METRIC)
    opener = Opener(partial(network, classes), None)
    data = build("dataset", node["dataset"])
    config = {**node, "worker": ""}
    return run(config, opener, prepare_run(config, opener, data, methods, metrics, partial(shipped, node["seed"])))


def facts(outcome: Outcome) -> dict[str, Any]:
    assert outcome.folder
    return json.loads((outcome.folder.path / "_provenance.json").read_text())


def write(root: Path, pictures: int, box: tuple[int, int, int, int] = (5, 5, 20, 20)) -> list[Path]:
    """COCO's layout: one cat on each picture of noise."""
    (root / "toy").mkdir(parents=True)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    files, images, objects = [], [], []
    for i in range(1, pictures + 1):
        files.append(root / "toy" / f"{i}.jpg")
        Image.fromarray(rng.integers(0, 255, (40, 80, 3), dtype=np.uint8)).save(files[-1])
        images.append({"id": i, "file_name": files[-1].name, "width": 80, "height": 40})
        objects.append({"id": i, "image_id": i, "category_id": 17, "bbox": list(box), "iscrowd": 0})
    content = {"images": images, "annotations": objects, "categories": [{"id": 17, "name": "cat"}]}
    (root / "annotations" / "instances_toy.json").write_text(json.dumps(content))
    return files


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def toy_coco(root: Path, *more: str) -> list[str]:
    return ["dataset=coco", f"dataset.root={root}", "dataset.split=toy", *more]


def test_half_pictures_are_counted_and_listed(tmp_path: Path) -> None:
    files = write(tmp_path / "coco", 40)
    tear(files[3])
    tear(files[39])  # 2 of 40 are 5 %, not over
    outcome = go(tmp_path / "out", *toy_coco(tmp_path / "coco"))
    assert outcome.complete and outcome.computed == 40
    assert "left out, because the picture is bad: 2 cases (all in _provenance.json)" in outcome.notes
    rows = sorted(facts(outcome)["skipped"], key=lambda row: row["case_id"])
    assert [row["case_id"] for row in rows] == ["000000000004/cat", "000000000040/cat"]
    assert all("truncated" in row["reason"] and ".jpg" in row["reason"] for row in rows)
    again = go(tmp_path / "out", *toy_coco(tmp_path / "coco"))
    assert again.computed == 0 and again.notes == outcome.notes


def test_over_five_percent_half_pictures_stop_and_keep_what_is_finished(tmp_path: Path) -> None:
    files = write(tmp_path / "coco", 40)
    order = [int(case.split("/")[0]) - 1 for case in go(tmp_path / "whole", *toy_coco(tmp_path / "coco")).cases]
    for place in (3, 15, 20):  # two in the first chunk of 16 cases, one in the second
        tear(files[order[place]])
    for _ in range(2):  # the second time two are known from the finished chunk
        with pytest.raises(UserError, match=rf"3 of 40 pictures are bad, last {order[20] + 1:012d}/cat: .*allow_bad"):
            go(tmp_path / "out", *toy_coco(tmp_path / "coco"), "batch=4")
        assert len(list((tmp_path / "out").rglob("part-*.parquet"))) == 1
        (path,) = (tmp_path / "out").rglob("_provenance.json")
        assert len(json.loads(path.read_text())["skipped"]) == 2
    outcome = go(tmp_path / "out", *toy_coco(tmp_path / "coco", "dataset.allow_bad_records=true"))
    assert outcome.complete and outcome.computed == 24
    assert len(facts(outcome)["skipped"]) == 3


def test_missing_and_empty_pictures_reach_the_provenance(tmp_path: Path) -> None:
    files = write(tmp_path / "coco", 40)
    files[0].unlink()
    files[1].write_bytes(b"")
    outcome = go(tmp_path / "out", *toy_coco(tmp_path / "coco"))
    reasons = [row["reason"] for row in facts(outcome)["bad_records"]]
    assert reasons == ["the picture is not there", "the picture is an empty file"]
    assert any(note.startswith("bad records left out: 2, first image 1 (1.jpg)") for note in outcome.notes)


def test_boxes_cut_away_are_counted_and_listed(tmp_path: Path) -> None:
    write(tmp_path / "coco", 3, box=(0, 0, 22, 30))  # the middle square begins at x = 20: under a fifth is left
    outcome = go(tmp_path / "out", *toy_coco(tmp_path / "coco", "transform=center_crop"))
    note = "left out, because under 20 % of them is in the input: boxes of 3 cases, 3 in all (all in _provenance.json)"
    assert note in outcome.notes
    rows = sorted(facts(outcome)["dropped_boxes"], key=lambda row: row["case_id"])
    assert rows == [{"case_id": f"{i:012d}/cat", "boxes": 1} for i in (1, 2, 3)]
    whole = go(tmp_path / "out", *toy_coco(tmp_path / "coco"))  # stretch cuts nothing
    assert not [note for note in whole.notes if "20 %" in note] and facts(whole)["dropped_boxes"] == []


@pytest.mark.parametrize("target", ["predicted", "1"])
def test_metrics_of_boxes_are_left_out_where_another_class_is_explained(tmp_path: Path, target: str) -> None:
    write(tmp_path / "coco", 2)
    outcome = go(tmp_path / "out", *toy_coco(tmp_path / "coco", f"target={target}"))
    assert outcome.complete and outcome.computed == 2
    assert any("left out, because" in note and "no boxes: box_coverage" in note for note in outcome.notes)
    labelled = go(tmp_path / "out", *toy_coco(tmp_path / "coco", "target=281"))  # a tabby is a cat
    assert not any("no boxes" in note for note in labelled.notes)


def test_a_name_of_two_lines_stays_on_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file called so is taken for no message of a worker's."""
    (tmp_path / "pictures").mkdir()
    for name in ("x\nerror: y.png", "\x1b[2Jz.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "a.png")
        tear((tmp_path / "pictures" / "a.png").rename(tmp_path / "pictures" / name))
    Image.new("RGB", (40, 40)).save(tmp_path / "pictures" / "a.png")
    outcome = go(tmp_path / "out", "dataset=folder", f"dataset.root={tmp_path / 'pictures'}", "metric=[complexity]")
    messages = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert len(messages) == 2 and all(message.isprintable() for message in messages)
    assert any(message.startswith(r"x\nerror: y.png is left out") for message in messages)
    assert all(name.isprintable() for name in outcome.cases)
    assert all(text.isprintable() for row in facts(outcome)["skipped"] for text in row.values())


def test_a_mosaic_of_half_pictures_stops(tmp_path: Path) -> None:
    for name in ("ant", "bee", "cow", "dog"):
        for i in range(2):
            path = tmp_path / "source" / name / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (60 * i, 9, 9)).save(path)
            tear(path)
    source = f"dataset.source={{name: imagefolder, root: {tmp_path / 'source'}, class_map: sorted}}"
    mosaics = ["dataset=mosaic", source, "dataset.mosaics=8"]
    with pytest.raises(UserError, match="dataset=mosaic: 1 of 8 pictures are bad"):
        go(tmp_path / "out", *mosaics, classes=4)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="1 of 8 pictures are bad, first dog/1.jpg: the picture is an empty file"):
        go(tmp_path / "out", *mosaics, classes=4)


@pytest.mark.parametrize(
    ("more", "classes", "message"),
    [
        (["dataset.annotations=none.json"], 1000, "none.json does not exist; check dataset.annotations"),
        (["dataset.class_map=MAP"], 1000, r"000000000001/cat asks for output 5000, .* outputs 0 to 999; .*class_map"),
        (
            [],
            5,
            "mapped to networks with 1000 outputs, but this one has 5; name a map of your own with dataset",
        ),
    ],
)
def test_faults_of_the_whole_are_one_line(tmp_path: Path, more: list[str], classes: int, message: str) -> None:
    write(tmp_path / "coco", 1)
    (tmp_path / "map.csv").write_text("index,category\n5000,cat\n")
    more = [word.replace("MAP", str(tmp_path / "map.csv")) for word in more]
    with pytest.raises(UserError, match=message) as error:
        go(tmp_path / "out", *toy_coco(tmp_path / "coco", *more), classes=classes)
    assert "\n" not in str(error.value)
    # The predicted class is explained whatever the data set's classes mean.
    if classes == 5:
        assert go(tmp_path / "out", *toy_coco(tmp_path / "coco", "target=predicted"), classes=5).complete
