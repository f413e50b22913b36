"""Runs: what is asked for together shares one pass, what is on disk is never computed again, and nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from counted_runs import Counted, contents, counted, rows_of

from bench.binding import check_settings
from bench.config import compose_config, plain
from bench.runs import run as running
from bench.runs.missing import Needs
from bench.store.files import read_json
from bench.store.folders import PROVENANCE, find_folders
from bench.store.parts import read_part
from bench.types import UserError

__all__ = ["counted"]
ALONE = ["gallery.cases=0", "save_maps=none"]


def test_methods_and_layers_share_one_pass(counted: Counted, tmp_path: Path) -> None:
    words = ["limit=4", "batch=2", "score_batch=2", f"out={tmp_path}", "layer=[layer3,layer4]", *ALONE]
    outcome = counted("method=[grad_cam,grad_entropy,hirescam,feature_entropy,center]", *words)
    assert outcome.computed == 4
    # Two batches; one forward pass more looks at the network before the start.
    assert (counted.forwards, counted.backwards) == (2 + 1, 2)
    assert counted("method=[grad_cam,hirescam]", *words).computed == 0
    assert (counted.forwards, counted.backwards, counted.loaded) == (0, 0, False)
    # A further method pays for its own pass only, and for none backward where it needs no gradient.
    assert counted("method=[grad_cam,activation_sum]", *words).computed == 4
    assert (counted.forwards, counted.backwards) == (2, 0)


def test_only_what_is_missing_is_computed(counted: Counted, tmp_path: Path) -> None:
    words = ["limit=4", "batch=4", "score_batch=4", f"out={tmp_path}", "gallery.cases=0", "metric.deletion.steps=3"]
    counted("method=[grad_cam,random]", "metric=[deletion]", "layer=layer4", *words)
    scored = 2 * 2 * 4 + 2 * 4  # two maps x two steps, and the clean and the empty picture, of four cases
    assert counted.images == 1 + 4 + scored
    before = contents(tmp_path)
    # A further layer: its own map's steps; the clean and the empty picture are scored again.
    counted("method=[grad_cam,random]", "metric=[deletion]", "layer=[layer3,layer4]", *words)
    assert counted.images == 1 + 4 + 2 * 4 + 2 * 4
    # A further method, at both layers.
    counted("method=[grad_cam,random,layer_cam]", "metric=[deletion]", "layer=[layer3,layer4]", *words)
    assert counted.images == 4 + 2 * 2 * 4 + 2 * 4
    # Twice as many cases: the new ones only.
    words[0] = "limit=8"
    counted("method=[grad_cam,random]", "metric=[deletion]", "layer=layer4", *words)
    assert counted.images == 4 + scored
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before and len(after) == 4
    frame = rows_of(tmp_path)
    assert frame.groupby(["method", "layer"]).size().to_dict() == {
        ("grad_cam", "layer3"): 4, ("grad_cam", "layer4"): 8, ("layer_cam", "layer3"): 4, ("layer_cam", "layer4"): 4,
        ("random", "-"): 8,
    }  # fmt: skip
    assert frame["deletion(steps=3).auc"].notna().all()


def test_a_later_metric_starts_from_kept_maps(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,hirescam,random]", "layer=[layer3,layer4]", "limit=5", "gallery.cases=0"]
    counted(*words, "metric=[box_coverage]", f"out={tmp_path / 'later'}")
    before = contents(tmp_path / "later")
    counted(*words, "metric=[box_coverage,pointing_game,energy_pointing_game]", f"out={tmp_path / 'later'}")
    assert (counted.forwards, counted.loaded) == (0, False)
    assert contents(tmp_path / "later").items() >= before.items()
    # A metric that scores images loads the network, but asks no method for its map again.
    more = ["metric=[box_coverage,pointing_game,energy_pointing_game,average_drop]", "batch=5", "score_batch=5"]
    counted(*words, *more, f"out={tmp_path / 'later'}")
    assert counted.loaded and counted.backwards == 0
    counted(*words, *more, f"out={tmp_path / 'once'}")
    later, once = rows_of(tmp_path / "later"), rows_of(tmp_path / "once")
    pd.testing.assert_frame_equal(later[once.columns.tolist()], once, rtol=1e-5, atol=1e-6)


def test_a_metric_that_asks_again_has_the_numbers_of_a_run_of_its_own(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,activation_sum]", "layer=layer4", "limit=2", "gallery.cases=0"]
    counted(*words, "metric=[box_coverage]", f"out={tmp_path / 'later'}")
    counted(*words, "metric=[box_coverage,class_sensitivity]", f"out={tmp_path / 'later'}")
    counted(*words, "metric=[box_coverage,class_sensitivity]", f"out={tmp_path / 'once'}")
    later, once = rows_of(tmp_path / "later"), rows_of(tmp_path / "once")
    pd.testing.assert_frame_equal(later[once.columns.tolist()], once, rtol=1e-5, atol=1e-6)
    for name, expected in (("later", ["00", "00", "11", "11"]), ("once", ["11", "11"])):  # each map is kept once
        (folder,) = find_folders(tmp_path / name)
        entries = [entry for path in folder.parts for entry in read_part(path, [])[1]["entries"]]
        assert sorted(entry["maps"] for entry in entries) == expected


def test_robustness_costs_one_shared_pass_a_perturbed_batch(counted: Counted, tmp_path: Path) -> None:
    """Ten methods at two layers, two metrics of the same three perturbations, one batch: four passes in all.

    One forward pass more is that of an empty picture which shows the layers' shapes.
    """
    methods = (
        "grad_cam,hirescam,xgrad_cam,grad_cam_pp,layer_cam,grad_entropy,feature_entropy,eigen_cam,fem,activation_sum"
    )
    words = [f"method=[{methods}]", "layer=[layer3,layer4]", "metric=[max_sensitivity,relative_stability]", "limit=2"]
    small = ["metric.max_sensitivity.samples=3", "metric.relative_stability.samples=3", "batch=2"]
    counted(*words, *small, f"out={tmp_path}", *ALONE)
    rows = rows_of(tmp_path)
    assert len(rows) == 10 * 2 * 2 and (counted.forwards, counted.backwards) == (5, 4)
    assert rows["max_sensitivity(samples=3).distance"].nunique() > 20


def test_metrics_know_the_native_map_and_the_prediction(counted: Counted, tmp_path: Path) -> None:
    """As well in the first run as from kept maps, without a network; the trained network is right of some pictures."""
    words = ["model=efficientnet_lite0", "model.weights=default", "layer=[bn2.act]", "method=[layer_cam]", "limit=10"]
    words += ["batch=3", "gallery.cases=0"]
    metrics = ["metric=[gt_known,max_box_acc,max_box_acc_bicubic]", "metric.gt_known.iou=0.1"]
    counted(*words, *metrics, f"out={tmp_path / 'once'}")
    counted(*words, f"out={tmp_path / 'later'}")
    counted(*words, *metrics, f"out={tmp_path / 'later'}")
    assert not counted.loaded
    rows, later = rows_of(tmp_path / "once"), rows_of(tmp_path / "later")
    pd.testing.assert_frame_equal(rows, later[rows.columns.tolist()], rtol=1e-4)
    right = np.array([p in group for p, group in zip(rows["predicted"], rows["target"], strict=True)])
    met, both = rows["gt_known(iou=0.1).gt_known"], rows["gt_known(iou=0.1).top_1_loc"]
    assert (both == met * right).all() and (met[right] == 1).any() and (met[~right] == 1).any()
    assert (rows["max_box_acc.best_iou"] != rows["max_box_acc_bicubic.best_iou"]).any()


def test_equal_maps_are_scored_once_and_the_values_are_the_same(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "limit=3",
        "layer=layer4",
        "metric=[deletion,insertion]",
        "metric.deletion.steps=5",
        "score_batch=4",
        *ALONE,
    ]
    methods = "method=[grad_cam,hirescam,respond_cam,grad_entropy,uniform,random]"
    outcome = counted(methods, *words, f"out={tmp_path / 'shared'}")
    # At the layer before global pooling the three are one map, and grad_entropy is zero: as good as uniform.
    assert outcome.saved == 3 * 3 * (4 + 27)
    monkeypatch.setattr("bench.runs.batch.map_ids", lambda native, seen: None)
    alone = counted(methods, *words, f"out={tmp_path / 'alone'}")
    assert alone.saved == 0 and alone.passes == outcome.passes + outcome.saved
    shared, apart = rows_of(tmp_path / "shared"), rows_of(tmp_path / "alone")
    curve = "insertion.curve"
    assert np.stack(shared.pop(curve)) == pytest.approx(np.stack(apart.pop(curve)), abs=1e-4)
    columns = ["deletion(steps=5).auc", "insertion.auc"]
    assert shared[columns].to_numpy() == pytest.approx(apart[columns].to_numpy(), abs=1e-4)


def test_small_maps_are_kept_unless_told_otherwise(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,center]", "limit=3", "layer=[layer3,layer4]", "gallery.cases=1"]
    for save_maps, kept in (
        ("auto", {7: 3, 14: 3, 224: 1}),
        ("all", {7: 3, 14: 3, 224: 3}),
        ("none", {7: 1, 14: 1, 224: 1}),
    ):
        counted(*words, f"save_maps={save_maps}", f"out={tmp_path / save_maps}")
        shapes = [tuple(shape) for shape in rows_of(tmp_path / save_maps)["map_shape"].dropna()]
        assert {side: shapes.count((side, side)) for side in (7, 14, 224)} == kept
    assert len(list((tmp_path / "auto").rglob("*.png"))) == 1


def test_maps_and_pictures_are_made_for_a_finished_run(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,center]", "limit=4", f"out={tmp_path}", "layer=[layer4]", "metric=[box_coverage]"]
    counted(*words, *ALONE)
    before = rows_of(tmp_path)
    name = before["case_id"][3]
    assert counted(*words, *ALONE, f"gallery.images=['{name}']").computed == 1
    after = rows_of(tmp_path)
    assert after.loc[after["map"].notna(), "case_id"].tolist() == [name] * 2
    pd.testing.assert_frame_equal(before.drop(columns=["map", "map_shape"]), after.drop(columns=["map", "map_shape"]))
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert counted(*words, *ALONE, f"gallery.images=['{name}']").computed == 0
    assert counted(*words, "gallery.cases=0", "save_maps=all").computed == 3
    assert rows_of(tmp_path)["map"].notna().all()
    next(tmp_path.rglob("*.png")).unlink()
    assert counted(*words, *ALONE, f"gallery.images=['{name}']").computed == 1 and counted.forwards == 0
    assert len(list(tmp_path.rglob("*.png"))) == 1
    with pytest.raises(UserError, match="no case or image is called 'nobody'"):
        counted(*words, "gallery.images=[nobody]")


def test_fused_maps(counted: Counted, tmp_path: Path) -> None:
    layers = "layer=[layer3,layer4]"
    counted("method=[grad_cam,center,refine_cam]", "limit=2", f"out={tmp_path}", layers, "fuse=max", "save_maps=all")
    assert counted.backwards == 1
    shapes = rows_of(tmp_path).groupby(["method", "layer"])["map_shape"].first().map(list).to_dict()
    assert shapes == {
        ("center", "-"): [224, 224], ("grad_cam", "fuse_max"): [224, 224], ("grad_cam", "layer3"): [14, 14],
        ("grad_cam", "layer4"): [7, 7], ("refine_cam", "fuse_product"): [224, 224],
    }  # fmt: skip
    with pytest.raises(UserError, match="refine_cam needs two layers or more"):
        counted("method=[refine_cam]", "limit=2", f"out={tmp_path}", "layer=layer4")


def test_batches_and_shards_do_not_change_the_rows(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,layer_cam,random]", "metric=[box_coverage,average_drop]", "limit=18", *ALONE]
    counted(*words, "batch=16", f"out={tmp_path / 'whole'}")
    whole = rows_of(tmp_path / "whole")
    # Rounding may swap two positions of nearly one value where the budget ends: one pixel, of the smallest instance,
    # which has some 3,600. All else holds to 1e-4.
    counted_pixels = [name for name in whole if name.startswith("box_coverage")]
    for batch in (1, 7):
        counted(*words, f"batch={batch}", f"out={tmp_path / str(batch)}")
        rows = rows_of(tmp_path / str(batch))
        exact = whole.columns.difference(counted_pixels)
        pd.testing.assert_frame_equal(rows[exact], whole[exact], rtol=1e-4, atol=1e-4)
        pd.testing.assert_frame_equal(rows[counted_pixels], whole[counted_pixels], rtol=0, atol=3e-4)
    for shard in (1, 0):
        outcome = counted(*words, "batch=16", "shards=2", f"shard={shard}", f"out={tmp_path / 'shards'}")
        assert outcome.complete == (shard == 0)
    pd.testing.assert_frame_equal(rows_of(tmp_path / "shards"), whole)


def test_a_damaged_part_is_named_set_aside_and_computed_again(
    counted: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["method=[grad_cam,random]", "metric=[box_coverage]", "limit=18", f"out={tmp_path}", *ALONE]
    counted(*words)
    before = rows_of(tmp_path)
    victim = min(tmp_path.rglob("part-*.parquet"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(bytes(data))
    assert counted(*words).computed == 16
    assert victim.name in caplog.text and victim.with_name(victim.name + ".damaged").is_file()
    pd.testing.assert_frame_equal(rows_of(tmp_path), before)
    assert counted(*words).computed == 0


def test_too_little_memory_halves_the_batch(counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["method=[grad_cam,random]", "metric=[box_coverage]", "limit=7", "batch=4", "score_batch=2", *ALONE]
    counted(*words, f"out={tmp_path / 'whole'}")
    true, sizes = running.compute_batch, []

    def tight(setting: object, samples: list, *more: Any) -> object:
        sizes.append(len(samples))
        if len(samples) > 2:
            raise torch.OutOfMemoryError("a test's")
        return true(setting, samples, *more)

    monkeypatch.setattr(running, "compute_batch", tight)
    counted(*words, f"out={tmp_path / 'torn'}")
    assert sizes.count(4) == 1  # what memory did not hold once is not tried again
    whole, torn = rows_of(tmp_path / "whole"), rows_of(tmp_path / "torn")
    pd.testing.assert_frame_equal(whole, torn, rtol=1e-4, atol=1e-5)
    (folder,) = find_folders(tmp_path / "torn")
    notes = [read_part(path, [])[1] for path in folder.parts]
    assert read_json(folder.path / PROVENANCE)["batch"] == 4
    assert min(note["batch"] for note in notes) == 2


def test_one_case_that_does_not_fit_shrinks_the_scorers_batch(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, tried = running.compute_batch, []

    def tight(setting: object, samples: list, about: object, needs: Needs, speed: Any, *more: Any) -> object:
        tried.append((len(samples), speed.score_batch))
        if len(samples) > 1 or speed.score_batch > 2:
            raise torch.OutOfMemoryError("a test's")
        return true(setting, samples, about, needs, speed, *more)

    monkeypatch.setattr(running, "compute_batch", tight)
    counted("method=grad_cam", "limit=2", "batch=2", "score_batch=8", *ALONE, f"out={tmp_path}")
    assert tried == [(2, 8), (1, 8), (1, 4), (1, 2), (1, 2)]
    assert len(rows_of(tmp_path)) == 2
    monkeypatch.setattr(running, "compute_batch", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("always")))
    with pytest.raises(torch.OutOfMemoryError):
        counted("method=layer_cam", "limit=1", "batch=1", "score_batch=1", *ALONE, f"out={tmp_path}")


def test_a_folder_keeps_the_batch_sizes_that_it_was_begun_with(counted: Counted, tmp_path: Path) -> None:
    words = ["method=grad_cam", "limit=18", "shards=2", f"out={tmp_path}", *ALONE]
    counted(*words, "shard=0", "batch=1", "score_batch=3")
    counted(*words, "shard=1", "batch=2", "score_batch=5")
    (folder,) = find_folders(tmp_path)
    known = read_json(folder.path / PROVENANCE)
    assert (known["batch"], known["score_batch"]) == (1, 3)
    notes = [read_part(path, [])[1] for path in folder.parts]
    assert {(note["batch"], note["score_batch"]) for note in notes} == {(1, 3)}


def test_what_makes_rows_incomparable_parts_the_folders(counted: Counted, tmp_path: Path) -> None:
    words = ["method=grad_cam", "limit=2", "batch=2", "score_batch=2", f"out={tmp_path}", *ALONE]
    first = counted(*words).folder
    same = ["limit=3", "batch=1", "metric=[box_coverage]", "method=[random]", "layer=layer3", "shards=2"]
    for word in same:
        assert counted(*words, word).folder.path == first.path, word
    other = ["precision=bfloat16", "seed=1", "target=predicted", "transform=pad", "dataset.scenes=12"]
    folders = {counted(*words, word).folder.path for word in other}
    assert len(folders) == len(other) and first.path not in folders


def test_parts_can_be_read_without_this_program(counted: Counted, tmp_path: Path) -> None:
    words = ["method=[grad_cam,random]", "limit=3", f"out={tmp_path}", "layer=layer4", *ALONE]
    folder = counted(*words, "metric=[pointing_game]").folder.path
    counted(*words, "metric=[pointing_game,box_coverage]")
    frame = pd.read_parquet(folder)
    assert len(frame) == 2 * 2 * 3
    assert frame["box_coverage.coverage"].notna().sum() == frame["pointing_game.hit"].notna().sum() == 2 * 3
    duckdb = pytest.importorskip("duckdb")
    query = f"select method, avg(\"box_coverage.coverage\") from read_parquet('{folder}/*.parquet', union_by_name=true)"
    means = dict(duckdb.sql(f"{query} group by method").fetchall())
    assert means == pytest.approx(frame.groupby("method")["box_coverage.coverage"].mean().to_dict())


def test_gallery_settings_are_checked() -> None:
    node = plain(compose_config([]))
    for wrong in (8, {"cases": -1, "images": []}, {"cases": 1, "images": "one"}):
        with pytest.raises(UserError, match="gallery"):
            check_settings({**node, "gallery": wrong})
