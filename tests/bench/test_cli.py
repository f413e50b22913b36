"""The command line as a user meets it: a subprocess in an empty folder."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from bench import __main__ as command_line
from bench.cli import FLAGS, LISTS, VALUED, answer, options_first
from bench.options import docstring, entries, names
from bench.types import UserError

ROOT = Path(__file__).parents[2]
FAST = ["metric.deletion.steps=2", "metric.insertion.steps=2", "gallery.cases=2"]
TINY = ["model=resnet18", "model.weights=random", "limit=6", "metric=[box_coverage,pointing_game]", "gallery.cases=1"]


def bench(
    *arguments: str, folder: Path, module: str = "bench", wait: bool = True
) -> subprocess.CompletedProcess | subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", module, *arguments]
    if wait:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def succeed(*arguments: str, folder: Path, module: str = "bench") -> str:
    done = bench(*arguments, folder=folder, module=module)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_one_method_end_to_end_and_nothing_twice(tmp_path: Path) -> None:
    said = succeed("method=[grad_cam,grad_entropy,center]", "limit=4", *FAST, folder=tmp_path)
    assert "mean target probability" in said
    assert "deletion(steps=2): 2 steps (default 28)" in said
    summary = pd.read_csv(tmp_path / "results" / "summary.csv")
    assert list(summary.columns)[:16] == [
        "dataset", "model", "layer", "method", "metric", "mean", "ci_low", "ci_high", "n", "n_images", "degenerate",
        "reference", "difference", "difference_low", "difference_high", "p",
    ]  # fmt: skip
    assert set(summary.method) == {"grad_cam", "grad_entropy", "center"}
    assert {"deletion(steps=2).auc", "insertion(steps=2).auc", "pointing_game.hit"} <= set(summary.metric)
    assert set(summary[summary.method == "center"].layer) == {"-"}
    known = summary[summary.n > 1]  # one value has no interval
    assert (known.ci_low <= known["mean"]).all() and (known["mean"] <= known.ci_high).all()
    figures = {path.name for path in (tmp_path / "results" / "figures").rglob("*.*g")}
    # Of the methods one is the reference and the other says nothing; random was not run: there is nothing to compare.
    assert figures == {"curves.svg", "depth.svg", "gallery-blocks.6.0.bn2.act.png", "gallery-bn2.act.png"}
    # histogram entropy of a constant gradient is 0: named, not hidden
    assert "grad_entropy@bn2.act is degenerate in 100 %" in said.replace("\n", " ")

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "collage").rglob("*") if path.is_file()}
    text = (tmp_path / "results" / "summary.csv").read_bytes()
    said = succeed("method=[grad_cam,grad_entropy,center]", "limit=4", *FAST, folder=tmp_path)
    assert "nothing was computed" in said
    assert before == {path: path.stat().st_mtime_ns for path in before}
    (tmp_path / "results" / "summary.csv").unlink()
    succeed("results", folder=tmp_path, module="bench.report")
    assert (tmp_path / "results" / "summary.csv").read_bytes() == text


def test_sweep_equals_one_pass(tmp_path: Path) -> None:
    succeed("-m", "method=grad_cam,grad_entropy", *TINY, folder=tmp_path)
    swept = (tmp_path / "results" / "summary.csv").read_bytes()
    succeed("method=[grad_cam,grad_entropy]", "out=together", *TINY, folder=tmp_path)
    assert (tmp_path / "together" / "summary.csv").read_bytes() == swept


def wait_for_a_part(folder: Path) -> None:
    for _ in range(12000):  # ten minutes: a busy machine takes two
        if list(folder.rglob("part-*.parquet")):
            return
        time.sleep(0.05)
    pytest.fail("no part was written")


def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path) -> None:
    words = ["method=[grad_cam,grad_entropy,random]", "limit=40", "metric=[box_coverage,pointing_game]"]
    succeed(*words, "out=whole", folder=tmp_path)
    process = bench(*words, "out=torn", folder=tmp_path, wait=False)
    try:
        wait_for_a_part(tmp_path / "torn")
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    # A finished part is damaged, and the batch is another one.
    part = sorted((tmp_path / "torn").rglob("part-*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-100])
    succeed(*words, "out=torn", "batch=5", folder=tmp_path)
    assert (tmp_path / "torn" / "summary.csv").read_bytes() == (tmp_path / "whole" / "summary.csv").read_bytes()
    assert [path.name for path in part.parent.glob("*.damaged")] == [f"{part.name}.damaged"]


def test_interrupt_keeps_parts_and_says_how_to_continue(tmp_path: Path) -> None:
    process = bench("method=[grad_cam,random]", "limit=48", folder=tmp_path, wait=False)
    try:
        wait_for_a_part(tmp_path / "results")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the same command continues" in said
    assert "Traceback" not in said
    assert list((tmp_path / "results").rglob("part-*.parquet"))
    assert not [path for path in (tmp_path / "results" / "collage").rglob(".*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=grad_cm"], "did you mean grad_cam"),
        (["method=[grad_cam,grad_entropi]"], "did you mean grad_entropy"),
        (["metric=[delet]"], "did you mean deletion"),
        (["model=vgg61"], "vgg16?"),
        (["dataset=colage"], "did you mean collage"),
        (["experiment=dmo"], "did you mean demo"),
        (["model=[vgg16,resnet18]"], "takes one name"),
        (["method=grad_cam,hirescam"], "'method=[grad_cam,hirescam]'"),
        (["metod=grad_cam"], "did you mean method"),
        (["method.grad_entropy.bin=3"], "did you mean bins"),
        (["+method.grad_cam.bins=3"], "no parameter 'bins'"),
        (["metric.deletion.steps=0", "limit=1"], "steps must be at least 1"),
        (["metric.deletion.steps=abc", "limit=1"], "deletion.steps=abc must be a whole number"),
        (["metric=[road]", "metric.road.shares=.5", "limit=1"], "road.shares=0.5 must be a list of numbers"),
        (["experiment=demo", "metric=[pointing_game]", "+metric.delation.steps=3"], "did you mean deletion"),
        (["layer=bn2.atc"], "nearest: bn2.act"),
        (["limit=0"], "limit=0"),
        (["seed=x"], "seed=x"),
        (["shards=2", "shard=2"], "shard=2"),
        (["target=9999"], "outputs 0 to 999"),
        (["transform=squeeze"], "center_crop"),
        (["reference=grad_can"], "did you mean grad_cam"),
        (["loader_workers=-1"], "loader_workers=-1"),
        (["model=torchvision"], "add model.name=VALUE"),
        (["device=cuda:77"], "device=cuda:77 cannot be used"),
        (["dataset=folder"], "dataset.root"),
        (["dataset=folder", "dataset.root=missing"], "missing"),
        (["dataset=folder", "dataset.root=."], "dataset.root"),
        (["model=resnet18", "model.weights=missing.pth"], "no such file"),
        (["out=taken/below"], "out=DIR"),
        (["+method.x._target_=os.system"], "refused"),
        (["dataset._target_=bench.runs.workers.os.system"], "refused"),
        (["+hydra.callbacks.x._target_=os.system"], "refused"),
        (["hydra.launcher._target_=os.system"], "refused"),
        (["=3"], "needs a name"),
    ],
)
def test_bad_input_gets_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "taken").write_text("a file")
    done = bench(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from skimage.data import astronaut, chelsea

    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(chelsea()).save(folder / "cat.png")
    Image.fromarray(astronaut()[:300]).save(folder / "woman.jpg")
    (folder / "torn.jpg").write_bytes((folder / "woman.jpg").read_bytes()[:500])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / 'odd "name" <b>.png')
    return folder


def test_folder_of_pictures(tmp_path: Path, pictures: Path) -> None:
    asked = ["dataset=folder", "dataset.root=pictures", "method=[grad_cam,random]", *FAST]
    said = succeed(*asked, folder=tmp_path)
    assert "no boxes: pointing_game, energy_pointing_game, box_coverage" in said
    assert "torn.jpg is left out" in said
    summary = pd.read_csv(tmp_path / "results" / "summary.csv")
    assert {metric.split("(")[0] for metric in summary.metric} == {"deletion", "insertion"}
    assert set(summary.n[summary.metric == "deletion(steps=2).auc"]) == {3}
    provenance = next((tmp_path / "results").rglob("_provenance.json")).read_text()
    assert "torn.jpg" in provenance and '"git_commit"' in provenance
    assert "nothing was computed" in succeed(*asked, folder=tmp_path)


def test_random_vgg16_offline_step_by_step(tmp_path: Path) -> None:
    asked = ["method=grad_entropy", "model=vgg16", "model.weights=random", "limit=1", "metric=[box_coverage]"]
    done = bench(*asked, "verbose=true", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if "part-00000" in line]
    assert len(steps) == 1 and "1 case" in steps[0]
    summary = pd.read_csv(tmp_path / "results" / "summary.csv")
    assert set(summary.layer) == {"features.29"}
    assert set(summary.model) == {"vgg16"}


def test_report_on_nothing(tmp_path: Path) -> None:
    done = bench("missing", folder=tmp_path, module="bench.report")
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list"], "one of: methods, metrics"),
        (["list", "foo"], "one of: methods, metrics"),
        (["list", "method"], "did you mean methods?"),
        (["list", "methods", "metrics"], "list takes one name"),
        (["lst", "methods"], "'lst' is no setting"),
        (["grad_cam"], "write NAME=VALUE"),
        (["--foo"], "there is no option --foo"),
        (["--experimental-rerun=config.pickle"], "--experimental-rerun is refused"),
        (["--multi", "method=grad_cam"], "there is no option --multi"),
        (["--cfg"], "--cfg"),
        (["--info", "what"], "--info takes one of all"),
        (["--multirun=3"], "--multirun takes no value"),
        (["--cfg", "everything"], "--cfg"),
    ],
)
def test_odd_words(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and message in said and "Traceback" not in said
    assert said.count("\n") == 1 or arguments == ["--cfg"]


def test_help_lists_everything_and_waits_for_no_torch(tmp_path: Path) -> None:
    code = "import sys; from bench.__main__ import main; main(); assert not {'torch', 'pandas'} & set(sys.modules)"
    environment = {**os.environ, "FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    for words in (["--help"], ["method=grad_cam", "-h"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        for group in ("method", "metric", "model", "dataset", "experiment"):
            for name in names(group):
                assert re.search(rf"^  {name}\s+\S", said, re.M), name
        settings = (
            "verbose=true",
            "workers=N",
            "estimate=true",
            "precision=",
            "compile=",
            "batch=auto",
            "gallery.cases",
        )
        for word in ("exit status", "130", "a worker", "NO_COLOR", "bench.report", *settings):
            assert word in done.stdout
        assert "Hydra" not in done.stdout.replace("Hydra's own options", "")
        assert not re.search(r"\x1b\[[0-9;]*3\dm", done.stdout), "a colour in spite of NO_COLOR"


def test_lists_in_a_pipe_are_one_line_each_and_say_something_else_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    for title, group in LISTS.items():
        assert answer(["list", title])
        rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
        assert [name for name, _ in rows] == names(group)
        assert len({about for _, about in rows}) == len(rows), f"two {title} have one description"
        assert max(len(about) for _, about in rows) < 140


def test_list_says_the_first_line_of_the_function_and_what_is_not_its_default() -> None:
    found = entries("method")
    assert found["grad_cam"] == "Grad-CAM: channels weighted by the mean of their gradient"
    assert found["grad_entropy_value"] == f"{found['grad_entropy']} (estimator=value)"
    assert entries("model")["vgg16"].endswith("(features.29)")


@pytest.mark.parametrize("target", ["methods.gradient.nothing", "methods.nothing.at_all", "nothing.at.all"])
def test_list_survives_a_function_that_is_not_there(target: str) -> None:
    assert docstring(target) == ("", {})


def test_list_results_says_what_a_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.runs.rows import META, schema_of
    from bench.store.files import hash_key, write_text
    from bench.store.folders import PROTOCOL
    from bench.store.parts import FORMAT, write_part

    parameters = {"dataset": {"name": "toy"}}
    known = {"format": FORMAT, "key": hash_key(parameters), "dataset": "toy", "model": "net"}
    folder = tmp_path / "toy" / "net-1"
    write_text(folder / PROTOCOL, json.dumps({**known, "weights": "random", "parameters": parameters}))
    entries = [{"key": "a", "method": "cam", "layer": "l4", "maps": "00"}]
    for chunk, (cases, metric) in enumerate([(["a", "b"], "deletion"), (["c", "d"], "road")]):
        rows = [{**dict.fromkeys(META.names), "method": "cam", "layer": "l4", "case_id": case} for case in cases]
        control = [{"key": "r", "method": "random", "layer": "-", "maps": "00"}] if chunk else []
        rows += [{**row, "method": "random", "layer": "-"} for row in rows] if chunk else []
        note = {"protocol": "", "cases": cases, "metrics": {metric: {"key": metric}}, "skipped": []}
        write_part(folder, chunk, rows, schema_of({}), {**note, "entries": entries + control})
    assert answer(["list", "results", str(tmp_path)])
    said = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    assert said == [
        "toy, net (weights random): 4 cases", f"in {folder}, {size:.1f} MB", "method cam at l4 4 cases",
        "method random 2 cases", "metric deletion 2 cases", "metric road 2 cases", "missing rows: 2 cases of random",
        "missing deletion: 2 cases of cam at l4", "missing deletion: 4 cases of random",
        "missing road: 2 cases of all methods",
    ]  # fmt: skip
    with pytest.raises(UserError, match="no results in"):
        answer(["list", "results", str(tmp_path / "nothing")])


def test_lists_are_coloured_on_a_terminal_only_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = {}
    for colour in (True, False):
        out = io.StringIO()
        answer(["list", "datasets"], Console(file=out, force_terminal=True, width=60, no_color=not colour))
        said[colour] = out.getvalue()
        assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 60 for line in said[colour].splitlines())
    assert "\x1b[1;36m" in said[True] and not re.search(r"\x1b\[[0-9;]*3\dm", said[False])


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["--version"])
    assert capsys.readouterr().out == f"cam-bench {version('cam-bench')}\n"


def test_options_are_hydras_own() -> None:
    from hydra._internal.utils import get_args_parser

    actions = [action for action in get_args_parser()._actions if action.option_strings]
    assert {name for action in actions for name in action.option_strings} == VALUED | FLAGS
    assert {name for action in actions if action.nargs != 0 for name in action.option_strings} == VALUED


def test_options_stand_anywhere() -> None:
    words = ["limit=3", "-m", "seed=1,2", "--config-dir", "own", "+x=y", "-cd=a", "--cfg", "job", "~z"]
    before = ["-m", "--config-dir", "own", "-cd=a", "--cfg", "job", "limit=3", "seed=1,2", "+x=y", "~z"]
    assert options_first(words) == before


def test_a_fault_of_ours_has_status_1_and_a_traceback(tmp_path: Path) -> None:
    code = """
import bench.__main__ as program
def compute(settings): raise RuntimeError("broken")
program.compute = compute
program.main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "RuntimeError: broken" in done.stderr


def test_quiet(tmp_path: Path) -> None:
    done = bench("method=center", "quiet=true", *TINY, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    picture = tmp_path / "pictures" / "a.png"
    picture.parent.mkdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(picture)
    asked = ["method=center", "dataset=folder", "dataset.root=pictures", "out=noted", *TINY]
    assert "no boxes" in succeed(*asked, folder=tmp_path)  # a note
    assert succeed(*asked, "quiet=true", folder=tmp_path) == ""
    assert (tmp_path / "results" / "summary.csv").is_file()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_completion_in_bash(tmp_path: Path) -> None:
    command = tmp_path / "cam-bench"
    command.write_text(f"#!{sys.executable}\nfrom bench.__main__ import main\nmain()\n")
    command.chmod(0o755)
    script = """
eval "$(cam-bench -sc install=bash)"
COMP_LINE="cam-bench method=grad_cam_" COMP_POINT=26 COMP_CWORD=1
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["method=grad_cam_elementwise", "method=grad_cam_pp"], done.stderr


def test_estimate_counts_the_passes_and_keeps_no_result(tmp_path: Path) -> None:
    said = succeed(
        "estimate=true", *TINY, "metric=[deletion,box_coverage]", "method=[grad_cam,random]", folder=tmp_path
    )
    lines = {line.rpartition("passes")[0].strip(): line.split()[-2:] for line in said.splitlines() if "passes" in line}
    assert lines["shared forward"] == ["1", "6"] and lines["shared backward"] == ["1", "6"]
    # 27 images between the ends of the curve for each of two maps, the clean and the perturbed one for both
    assert lines["scored"] == [str(2 * 27 + 2), str(6 * (2 * 27 + 2))]
    assert "disk" in said and "workers like this one: 1:" in said
    assert not list((tmp_path / "results").rglob("*.parquet"))
    assert not list((tmp_path / "results").rglob("_protocol.yaml"))
