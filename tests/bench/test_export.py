"""Maps leave as files and come back as a method: the same numbers; mistakes are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bench
from bench.export import export_maps, main
from bench.maps.heatmaps import upsample
from bench.maps.outside import load_map
from bench.networks.own import custom_model
from bench.types import UserError

RUN = {"model": "resnet18", "model.weights": "random", "layer": "layer4", "limit": 5, "device": "cpu"}
METRICS = ["box_coverage", "energy_pointing_game", "pointing_game", "deletion"]


def values(out: Path, method: str) -> pd.DataFrame:
    table = bench.load_results(out)
    rows = table[table["method"] == method].set_index("case_id").sort_index()
    return rows[[name for name in rows if "." in str(name) and rows[name].dtype == float]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "results"
    bench.run(method=["grad_cam"], metric=METRICS, out=out, **RUN, **{"metric.deletion.steps": 3})
    return out


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_exported_maps_score_as_the_original_ones(out: Path, tmp_path: Path, kind: str) -> None:
    (folder, number), *others = export_maps(out, tmp_path / "maps", kind).items()
    assert number == 5 and not others and Path(folder).name == "grad_cam_layer4"
    there = {"method.external.root": folder, "method.external.frame": "input", "metric.deletion.steps": 3}
    bench.run(method=["external"], metric=METRICS, out=tmp_path / "again", **RUN, **there)
    again = values(tmp_path / "again", "external(root=grad_cam_layer4, frame=input)")
    own = values(out, "grad_cam")
    assert len(again) == 5 and list(again) == list(own)
    np.testing.assert_allclose(again, own, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def solids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of several sizes with boxes, as files."""
    root, generator = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    lines = ["file,x0,y0,z0,x1,y1,z1"]
    for i in range(3):
        np.save(root / f"{i}.npy", generator.integers(0, 256, (8 + i, 12, 16, 2), dtype=np.uint8))
        lines += [f"{i}.npy,{1 + i},2,1,{7 + i},9,5", f"{i}.npy,9,1,4,15,7,8"]
    (root / "boxes.csv").write_text("\n".join(lines))
    return root


def solid() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 6, 3, 2, 1), nn.ReLU(), nn.Conv3d(6, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip


SOLID = {
    "model": "custom", "model.target": f"{__name__}:solid", "model.mean": [0.5, 0.5], "model.std": [0.25, 0.25],
    "model.size": [8, 12, 16], "dataset": "volumes", "device": "cpu", "layer": "3",
}  # fmt: skip


def test_maps_of_volumes_score_as_the_original_ones(solids: Path, tmp_path: Path) -> None:
    """Exported at their layer's size, or brought to the volumes' own sizes by another program."""
    there = {**SOLID, "dataset.root": solids, "metric.deletion.steps": 3}
    bench.run(method=["layer_cam"], metric=METRICS, out=tmp_path / "own", **there)
    own = values(tmp_path / "own", "layer_cam")
    (folder,) = export_maps(tmp_path / "own", tmp_path / "maps")
    assert np.load(next(Path(folder).rglob("*.npy"))).shape == (4, 6, 8)
    bench.run(method=["external"], metric=METRICS, out=tmp_path / "again", **there,
              **{"method.external.root": folder, "method.external.frame": "input"})  # fmt: skip
    again = values(tmp_path / "again", f"external(root={Path(folder).name}, frame=input)")
    assert len(again) == 3 and list(again) == list(own) and (own["box_coverage.coverage"] > 0).all()
    np.testing.assert_allclose(again, own, rtol=0, atol=1e-6)
    # All volumes but the first are larger than the input along one axis: a map of their own size is averaged there.
    first = "0.npy"
    whole = tmp_path / "whole"
    for path in Path(folder).rglob("*.npy"):
        depth = np.load(solids / path.name.removesuffix(".npy")).shape[0]
        larger = upsample(torch.from_numpy(np.load(path))[None], (depth, 12, 16))[0].numpy()
        whole.mkdir(exist_ok=True)
        np.save(whole / path.name, larger)
    bench.run(
        method=["external"], metric=METRICS, out=tmp_path / "whole_out", **there, **{"method.external.root": whole}
    )
    full = values(tmp_path / "whole_out", "external(root=whole)")
    np.testing.assert_allclose(full.loc[first], own.loc[first], rtol=0, atol=1e-6)
    assert (full["box_coverage.coverage"] - own["box_coverage.coverage"]).abs().max() < 0.1


def test_a_volume_and_its_map_are_scored_alone_as_in_a_run(solids: Path, tmp_path: Path) -> None:
    """`score_map` with boxes of two corners of three numbers."""
    there = {**SOLID, "dataset.root": solids}
    names = ["box_coverage", "energy_pointing_game", "pointing_game"]
    bench.run(method=["layer_cam"], metric=names, out=tmp_path, **there)
    own, table = values(tmp_path, "layer_cam").loc["1.npy"], bench.load_results(tmp_path)
    row = table[(table["method"] == "layer_cam") & (table["case_id"] == "1.npy")].iloc[0]
    network = custom_model(
        name="custom", target=f"{__name__}:solid", size=[8, 12, 16], mean=[0.5] * 2, std=[0.25] * 2, layers=["3"]
    )
    volume, boxes = np.load(solids / "1.npy"), [(2, 2, 1, 8, 9, 5), (9, 1, 4, 15, 7, 8)]
    given = {"model": network, "target": tuple(row["target"])}
    scores = bench.score_map(row["map"], volume, names, boxes=boxes, **given)
    for name, value in own.items():
        assert scores[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
    masks = np.zeros((2, *volume.shape[:3]))
    for mask, (x0, y0, z0, x1, y1, z1) in zip(masks, boxes, strict=True):
        mask[z0:z1, y0:y1, x0:x1] = 1
    again = bench.score_map(row["map"], volume, names, masks=masks, **given)
    assert again["pointing_game.hit"] == own["pointing_game.hit"]
    with pytest.raises(UserError, match="boxes are rows of six numbers"):
        bench.score_map(row["map"], volume, names, boxes=[(1, 2, 3, 4)], **given)


def test_pictures_of_volumes_maps_are_refused(solids: Path, tmp_path: Path) -> None:
    bench.run(method=["layer_cam"], metric=[], out=tmp_path, **SOLID, **{"dataset.root": solids})
    with pytest.raises(UserError, match="--maps=png is for maps of pictures, not of volumes; take npy or npz"):
        export_maps(tmp_path, tmp_path / "maps", "png")


def test_pictures_keep_the_order_of_positions_but_for_rounding(out: Path, tmp_path: Path) -> None:
    (folder,) = export_maps(out, tmp_path / "maps", "png")
    there = {"method.external.root": folder, "method.external.frame": "input"}
    bench.run(method=["external"], metric=["energy_pointing_game"], out=tmp_path / "again", **RUN, **there)
    again = values(tmp_path / "again", "external(root=grad_cam_layer4, frame=input)")
    np.testing.assert_allclose(
        again["energy_pointing_game.energy"], values(out, "grad_cam")["energy_pointing_game.energy"], atol=1e-4
    )


def test_changed_maps_are_computed_anew_and_moved_ones_are_not(out: Path, tmp_path: Path) -> None:
    (folder,) = export_maps(out, tmp_path / "maps")

    def energy(root: str | Path) -> pd.Series:
        there = {"method.external.root": str(root), "method.external.frame": "input"}
        return bench.run(method=["external"], metric=["energy_pointing_game"], out=tmp_path / "r", **RUN, **there)[
            "mean"
        ]

    first = energy(folder)
    parts = sorted((tmp_path / "r").rglob("part-*"))
    moved = Path(folder).rename(tmp_path / "grad_cam_layer4")
    assert energy(moved).equals(first) and sorted((tmp_path / "r").rglob("part-*")) == parts
    for path in moved.rglob("*.npy"):
        np.save(path, np.load(path)[::-1])
    assert not energy(moved).equals(first)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "external needs root="),
        ({"method.external.root": "nowhere"}, "nowhere: no such folder"),
        ({"method.external.root": "."}, "has no map for 5 of 5 cases .*there is no file"),
        ({"method.external.root": ["a", "b/a"]}, "two folders of maps are called a"),
        ({"method.external.root": "maps", "method.external.frame": "native"}, "frame=native is unknown"),
    ],
)
def test_a_mistake_is_one_line(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, says: str
) -> None:
    (folder,) = export_maps(out, tmp_path / "exported")
    Path(folder).rename(tmp_path / "maps")
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b/a"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UserError, match=says):
        bench.run(method=["external"], metric=["energy_pointing_game"], out=tmp_path / "r", **RUN, **settings)


def test_one_missing_map_of_twenty_is_named_and_the_others_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = RUN | {"limit": 20}
    bench.run(method=["grad_cam"], metric=["energy_pointing_game"], out=tmp_path / "first", **settings)
    (folder,) = export_maps(tmp_path / "first", tmp_path / "maps")
    sorted(Path(folder).rglob("*.npy"))[0].unlink()
    there = {"method.external.root": folder, "method.external.frame": "input", "quiet": False}
    metrics = ["energy_pointing_game", "class_sensitivity"]
    bench.run(method=["external"], metric=metrics, out=tmp_path / "r", **settings, **there)
    said = capsys.readouterr().err
    assert "has no map for 1 of 20 cases" in said and "cannot be made again: class_sensitivity" in said
    table = bench.load_results(tmp_path / "r")
    assert list(table["degenerate"]).count("nonfinite") == 1 and not any("class_sensitivity" in name for name in table)


def test_maps_that_the_docs_script_saves_with_pytorch_grad_cam_are_scored_with_boxes_on_coco(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    pytest.importorskip("pytorch_grad_cam")
    text = (Path(__file__).parents[2] / "docs" / "external.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in script.splitlines() if line and "import" not in line]) <= 10
    pictures = tmp_path / "COCO" / "sample2017"
    pictures.mkdir(parents=True)
    for path in sorted((shared_data / "coco" / "sample2017").glob("*.jpg"))[:6]:
        (pictures / path.name).symlink_to(path)
    (tmp_path / "COCO" / "annotations").symlink_to(shared_data / "coco" / "annotations")
    (tmp_path / "images.txt").write_text("\n".join(path.stem for path in pictures.iterdir()))
    monkeypatch.chdir(tmp_path)
    exec(script, {"__name__": "script"})
    names = {path.stem for path in pictures.iterdir()}
    assert {path.stem for path in (tmp_path / "MAPS").iterdir()} == names
    coco = {"dataset": "coco", "dataset.root": "COCO", "dataset.split": "sample2017", "dataset.subset": "images.txt"}
    network = {"model": "resnet18", "model.weights": "random", "device": "cpu"}
    metrics = ["box_coverage", "pointing_game"]
    bench.score_maps("MAPS", metric=metrics, out=tmp_path / "r", **coco, **network)
    table = bench.load_results(tmp_path / "r")
    assert set(table["image_id"]) <= names and len(table) >= 4 and (table["degenerate"] == "").all()
    assert table["box_coverage.coverage"].dropna().between(0, 1).all() and table["n_instances"].min() >= 1


def test_arrays_by_id_are_scored_as_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = bench.load_results(bench_cases(tmp_path))["case_id"]
    maps = {name: rng.random((7, 7)) for name in cases}
    table = bench.score_maps(maps, metric=["energy_pointing_game"], method=["uniform"], out=tmp_path / "r", **RUN)
    assert set(table["method"]) == {"external(root=maps)", "uniform"}
    for name, says in (("../a", "no id of a case"), ("a", "no array of numbers")):
        with pytest.raises(UserError, match=says):
            bench.score_maps({name: [[None]]}, out=tmp_path / "r", **RUN)


def test_maps_that_changed_are_shown_and_not_those_of_the_same_name_before(tmp_path: Path) -> None:
    """One label, one folder of results, other maps: each call gives its own numbers, also where nothing is computed."""
    rng = np.random.default_rng(0)
    cases = bench.load_results(bench_cases(tmp_path))["case_id"]
    sets = [{name: rng.random((7, 7)) for name in cases} for _ in range(2)]
    apart = [scored(maps, tmp_path / f"{i}") for i, maps in enumerate(sets)]
    assert apart[0] != apart[1]
    assert [scored(sets[i], tmp_path / "one") for i in (0, 1, 0, 1)] == [apart[i] for i in (0, 1, 0, 1)]


def scored(maps: dict[str, np.ndarray], out: Path) -> float:
    table = bench.score_maps(maps, metric=["energy_pointing_game"], out=out, **RUN)
    return float(table["mean"].iloc[0])


def test_two_folders_of_the_same_maps_are_refused(out: Path, tmp_path: Path) -> None:
    first, second = (next(iter(export_maps(out, tmp_path / name, "npy"))) for name in ("one", "two"))
    roots = [str(first), str(Path(second).rename(tmp_path / "renamed"))]
    with pytest.raises(UserError, match="hold the same maps; name one of them"):
        bench.score_maps(roots, metric=["energy_pointing_game"], frame="input", out=tmp_path / "r", **RUN)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_a_damaged_map_is_a_map_that_is_missing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    values = np.random.default_rng(0).random((7, 7))
    np.savez_compressed(path, values) if kind == "npz" else np.save(path, values)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert load_map(str(tmp_path), "a", "a").shape
        except ValueError as error:
            refused += f"a.{kind}" in str(error)
    assert refused > 20


@pytest.mark.parametrize(
    ("maps", "words", "says"),
    [
        ({}, (), "the mapping is empty"),
        (None, (), "maps=None is no folder"),
        ({"x" * 300: np.ones((2, 2))}, (), "is no id of a case"),
        ({"a\0": np.ones((2, 2))}, (), "is no id of a case"),
        ({"a": np.ones((2, 2))}, ("method.external.frame=input",), "use its arguments maps, frame and method"),
        ({"a": np.ones((2, 2))}, ("method=random",), "use its arguments maps, frame and method"),
    ],
)
def test_arguments_that_score_maps_cannot_use_are_named(maps: Any, words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        bench.score_maps(maps, *words, metric=["energy_pointing_game"], **RUN)


def bench_cases(folder: Path) -> Path:
    bench.run(method=["uniform"], metric=["energy_pointing_game"], out=folder / "cases", **RUN)
    return folder / "cases"


def test_the_command_line_says_what_it_wrote(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out), "--out", str(tmp_path / "maps")]) == 0
    assert "5 maps in" in capsys.readouterr().out
    assert main([str(tmp_path), "--out", str(tmp_path / "maps")]) == 2
    assert capsys.readouterr().err.startswith("error: no results under")
