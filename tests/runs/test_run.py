"""The shared pass: what is asked together is paid once, and what is there is not paid again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from bench.analysis.merged import MERGED, read_merged
from bench.analysis.reading import read_rows
from bench.config import CONF, GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, build, plain
from bench.maps.scorer import Scorer
from bench.runs.execution import Speed
from bench.runs.progress import Progress
from bench.runs.run import Outcome, run
from bench.runs.setup import check
from bench.runs.store import find_runs
from bench.types import UserError


class Counted:
    """A run in this process with its forward and backward passes counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.forwards = self.backwards = 0
        grad = torch.autograd.grad

        def counted(*arguments: object, **options: object) -> object:
            self.backwards += 1
            return grad(*arguments, **options)

        monkeypatch.setattr(torch.autograd, "grad", counted)

    def __call__(self, *overrides: str) -> Outcome:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = compose("config", overrides=["model=resnet18", "model.weights=random", "metric=[]", *overrides])
        network = build("model", node.model)
        self.forwards = self.backwards = 0
        network.module.register_forward_hook(lambda *_: setattr(self, "forwards", self.forwards + 1))
        methods, metrics = bind_all(node.method, GIVEN_TO_METHOD), bind_all(node.metric, GIVEN_TO_METRIC)
        return run(plain(node), network, build("dataset", node.dataset), methods, metrics)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_methods_and_layers_share_one_pass(counted: Counted, tmp_path: Path) -> None:
    asked = ["limit=4", "batch=2", "score_batch=2", f"out={tmp_path}", "layer=[layer3,layer4]", "gallery.cases=0"]
    outcome = counted("method=[grad_cam,grad_entropy,hirescam,feature_entropy,center]", *asked)
    assert outcome.computed == 4 * 2 + 1
    # two batches; one forward pass more looks at the network before the start
    assert (counted.forwards, counted.backwards) == (2 + 1, 2)
    counted("method=[grad_cam,hirescam]", *asked)
    assert (counted.forwards, counted.backwards) == (1, 0)
    # a method more pays its own pass only, and none backward where it needs no gradient
    outcome = counted("method=[grad_cam,activation_sum]", *asked)
    assert outcome.computed == 2
    assert (counted.forwards, counted.backwards) == (2 + 1, 0)


def test_one_queue_for_all_methods_layers_and_metrics(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, told, now = [], [], [0.0]
    forward = Scorer._forward

    def noted(self: Scorer, images: Tensor) -> Tensor:
        sizes.append(len(images))
        now[0] += len(images)  # so that an image takes a second, and all else none
        return forward(self, images)

    monkeypatch.setattr(Scorer, "_forward", noted)
    monkeypatch.setattr("bench.maps.scorer.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Progress, "advance", lambda self, cases: told.append(cases))
    methods = ["method=[rise,grad_cam,center]", "method.rise.masks=5"]
    metrics = ["metric=[deletion,pointing_game,insertion]", "metric.deletion.steps=6", "metric.insertion.steps=8"]
    asked = [*methods, *metrics, "limit=4", "batch=4", "layer=[layer3,layer4]", "gallery.cases=0"]
    counted(*asked, "score_batch=32", f"out={tmp_path / 'queue'}")
    # The clean, zero and blurred images of the 4 cases do not wait, and take along what does: masks of the first two
    # cases, deletion's 20 of the first map. No map's 20 or 28 images would fill a batch of 32.
    assert sizes == [4 + 5, 4, 4 + 20 + 5] + [32] * 5 + [22]
    assert sum(sizes) == 4 * (3 + 4 * 12 + 5)
    assert sum(told) == pytest.approx(4)
    runs = find_runs(tmp_path / "queue")
    spent = {run.config["method"]: run.provenance["seconds"] for run in runs if run.config["layer"] != "layer3"}
    assert spent["rise"]["method"] == 4 * 5 and spent["grad_cam"]["method"] == spent["center"]["method"] == 0
    assert spent["rise"]["metrics"] == spent["center"]["metrics"] == 4 * 12
    assert sum(run.provenance["seconds"]["metrics"] for run in runs) == 4 * (3 + 4 * 12)
    counted(*asked, "score_batch=4", f"out={tmp_path / 'alone'}")
    for one, other in zip(runs, find_runs(tmp_path / "alone"), strict=True):
        pd.testing.assert_frame_equal(read_rows(one), read_rows(other), rtol=1e-4, atol=1e-6)
        columns = read_rows(one).columns.tolist()
        assert columns == read_rows(other).columns.tolist()
        assert columns.index("deletion.auc") < columns.index("pointing_game.hit") < columns.index("insertion.auc")


def test_fused_maps_and_saved_maps(counted: Counted, tmp_path: Path) -> None:
    layers = "layer=[layer3,layer4]"
    counted("method=[grad_cam,center]", "limit=3", f"out={tmp_path}", layers, "fuse=max", "save_maps=true")
    rows = {(r.config["method"], r.config["layer"]): read_rows(r) for r in find_runs(tmp_path)}
    assert set(rows) == {("grad_cam", "layer3"), ("grad_cam", "layer4"), ("grad_cam", "fuse_max"), ("center", "-")}
    assert list(rows["grad_cam", "layer3"].map_shape[0]) == [14, 14]
    assert list(rows["grad_cam", "fuse_max"].map_shape[0]) == [224, 224]
    assert all(max(values) == 1 for values in rows["grad_cam", "layer4"]["map"])  # kept divided by its maximum


def test_a_method_over_several_layers_has_one_map(counted: Counted, tmp_path: Path) -> None:
    asked = ["method=[refine_cam,grad_cam]", "limit=2", f"out={tmp_path}", "save_maps=true"]
    counted(*asked, "layer=[layer3,layer4]")
    assert counted.backwards == 1
    rows = {(r.config["method"], r.config["layer"]): r for r in find_runs(tmp_path)}
    assert set(rows) == {("grad_cam", "layer3"), ("grad_cam", "layer4"), ("refine_cam", "fuse_product")}
    assert rows["refine_cam", "fuse_product"].config["layers"] == ["layer3", "layer4"]
    with pytest.raises(UserError, match="refine_cam needs two layers or more"):
        counted(*asked, "layer=layer4")


def test_named_pictures_are_kept_also_by_a_run_that_is_there_already(counted: Counted, tmp_path: Path) -> None:
    asked = ["method=[grad_cam]", "limit=4", "chunk=2", f"out={tmp_path}", "layer=[layer4]", "gallery.cases=0"]
    counted(*asked)
    (one,) = find_runs(tmp_path)
    before = read_rows(one)
    name = before["case_id"][3]
    # Two chunks: only that of the named case is computed again, and its numbers are the same.
    assert counted(*asked, f"gallery.images=['{name}']").computed == 1
    after = read_rows(one)
    assert [values is not None for values in after["map"]] == [False, False, False, True]
    assert after["probability"].tolist() == before["probability"].tolist()
    assert len(list(tmp_path.rglob("*.png"))) == 1
    assert counted(*asked, f"gallery.images=['{name}']").computed == 0
    with pytest.raises(UserError, match="no case or image is called 'nobody'"):
        counted(*asked, "gallery.images=[nobody]")


def test_the_last_shard_merges_what_all_have_made(counted: Counted, tmp_path: Path) -> None:
    asked = ["method=[grad_cam,center]", "limit=5", "chunk=2", "shards=2", f"out={tmp_path}", "layer=[layer4]"]
    counted(*asked, "shard=0")
    assert not list(tmp_path.rglob(MERGED))
    counted(*asked, "shard=1")
    runs = find_runs(tmp_path)
    assert len(runs) == len(list(tmp_path.rglob(MERGED))) == 2
    for one in runs:
        columns = ["case_id", "probability", "boxes", "degenerate"]
        merged = read_merged(one, columns)
        assert merged is not None and merged["chunk"].to_pylist() == [0, 0, 1, 1, 2]
        expected = read_rows(one)[columns]  # all columns: from the chunks
        pd.testing.assert_frame_equal(merged.drop_columns("chunk").to_pandas(), expected)


def test_gallery_settings_are_checked() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = plain(compose("config"))
    for wrong in (8, {"cases": -1, "images": []}, {"cases": 1, "images": "one"}):
        with pytest.raises(UserError, match="gallery"):
            check({**node, "gallery": wrong}, [object()])


def test_a_shared_pass_that_runs_out_of_memory_goes_on_in_halves(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.runs import batch as compute

    told: list[float] = []
    monkeypatch.setattr(Progress, "advance", lambda self, cases: told.append(cases))
    asked = ["method=[grad_cam,random]", "limit=7", "chunk=4", "batch=4", "score_batch=2", "gallery.cases=0"]
    counted(*asked, f"out={tmp_path / 'whole'}")
    assert sum(told) == pytest.approx(7)
    told.clear()
    sizes: list[int] = []
    true = compute.compute_batch

    def tight(setting: object, samples: list, *more: object) -> object:
        sizes.append(len(samples))
        result = true(setting, samples, *more)  # done for nothing, so that what was told has to be taken back
        if len(samples) > 2:
            raise torch.OutOfMemoryError("a test's")
        return result

    monkeypatch.setattr(compute, "compute_batch", tight)
    counted(*asked, f"out={tmp_path / 'torn'}")
    assert sizes == [4, 2, 2, 2, 1]  # what memory did not hold once is not tried again
    assert sum(told) == pytest.approx(7) and min(told) == -4
    for whole, torn in zip(find_runs(tmp_path / "whole"), find_runs(tmp_path / "torn"), strict=True):
        before, after = read_rows(whole), read_rows(torn)
        assert before["case_id"].tolist() == after["case_id"].tolist()
        assert before["probability"].tolist() == pytest.approx(after["probability"].tolist(), abs=1e-5)
        assert (torn.provenance["batch"], torn.provenance["smallest"]) == (4, {"batch": 2, "score_batch": 2})


def test_one_case_that_runs_out_of_memory_shrinks_the_scorers_batch(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.runs import batch as compute

    true, asked = compute.compute_batch, []

    def tight(setting: object, samples: list, jobs: object, speed: Speed, *more: object) -> object:
        asked.append((len(samples), speed.score_batch))
        if len(samples) > 1 or speed.score_batch > 2:
            raise torch.OutOfMemoryError("a test's")
        return true(setting, samples, jobs, speed, *more)

    monkeypatch.setattr(compute, "compute_batch", tight)
    counted("method=grad_cam", "limit=2", "batch=2", "score_batch=8", "gallery.cases=0", f"out={tmp_path}")
    assert asked == [(2, 8), (1, 8), (1, 4), (1, 2), (1, 2)]
    (one,) = find_runs(tmp_path)
    assert len(read_rows(one)) == 2 and one.provenance["smallest"] == {"batch": 1, "score_batch": 2}


def test_of_shards_that_begin_together_the_first_ones_speed_counts(counted: Counted, tmp_path: Path) -> None:
    asked = ["method=grad_cam", "limit=2", "chunk=1", "shards=2", "gallery.cases=0", f"out={tmp_path}"]
    counted(*asked, "shard=0", "batch=1", "score_batch=3")
    counted(*asked, "shard=1", "batch=2", "score_batch=5")
    (one,) = find_runs(tmp_path)
    assert (one.provenance["batch"], one.provenance["score_batch"]) == (1, 3)
    assert one.provenance["smallest"] == {"batch": 1, "score_batch": 3}


def test_precision_stands_in_every_row_and_parts_results(counted: Counted, tmp_path: Path) -> None:
    asked = ["method=grad_cam", "limit=2", "batch=2", "score_batch=2", f"out={tmp_path}", "gallery.cases=0"]
    counted(*asked)
    counted(*asked, "precision=bfloat16")
    first, second = find_runs(tmp_path)
    assert first.config["protocol"] != second.config["protocol"]
    assert sorted(set(read_rows(first)["precision"]) | set(read_rows(second)["precision"])) == ["bfloat16", "float32"]
