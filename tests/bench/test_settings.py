"""Every setting with every kind of wrong value: it works, or ends in one line that names it; never in a traceback."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from contract import ATTENTION, make_batch, make_network, maps, measure
from PIL import Image

from bench import __main__ as command_line
from bench.binding import GIVEN_TO_METHOD, GIVEN_TO_METRIC, SETTINGS, bind, keep_names, written
from bench.config import build, check_overrides, compose_config, plain
from bench.options import CONF, conf_node, names, text_parameters
from bench.runs.cost import metric_cost, own_passes
from bench.runs.facts import Opener
from bench.runs.setup import Prepared
from bench.types import InputSpec, Network, UserError

# 1e400 is infinite in YAML, and the last number does not fit into 64 bits.
WRONG: list[Any] = [None, -1, 0, 0.5, "x", [], {}, float("1e400"), "/tmp/x", 10**30, True, float("nan"), ["x", 1], ""]
# Less work where a parameter is not the one under test.
QUICK = {"masks": 4, "steps": 2, "subsets": 4, "samples": 2}


def one_line(error: UserError) -> bool:
    return len(str(error)) > 10 and "Traceback" not in str(error)


def parameters(group: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, node and parameter of each function that a group's configs name, each once."""
    seen = set()
    for name in names(group):
        node = conf_node(group, name)
        for key in [*node, "relu"] if group == "method" else node:
            if (node["_target_"], key) not in seen:
                seen.add((node["_target_"], key))
                yield name, node, key


@pytest.mark.parametrize("group", ["method", "metric"])
@pytest.mark.filterwarnings("ignore")
def test_every_parameter_of_a_method_or_metric(group: str) -> None:
    """Bound, its cost counted, and run on a small network."""
    network, batch, heat = make_network(), make_batch(), torch.rand(2, 32, 48)
    given = GIVEN_TO_METHOD if group == "method" else GIVEN_TO_METRIC
    faults, tried, refused = [], 0, 0
    for name, node, key in parameters(group):
        quick = {k: 0 if v == "${seed}" else min(v, QUICK[k]) if k in QUICK else v for k, v in node.items()}
        for value in WRONG:
            tried += 1
            try:
                part = bind(name, {**quick, key: value}, given)
                if group == "method":
                    own_passes(part, (8, 4, 6))
                    if name not in ATTENTION:  # the small network has none
                        maps(part, network, batch)
                else:
                    metric_cost(part)
                    measure(part, heat, network, batch)
            except UserError as error:
                refused += 1
                faults += [] if one_line(error) else [f"{name}.{key}={value}: {error}"]
            except Exception as error:
                faults.append(f"{name}.{key}={value}: {type(error).__name__}: {error}")
    assert not faults, "\n".join(faults)
    assert tried > 500 and 0.7 * tried < refused < tried


@pytest.fixture
def compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Any]:
    """``compute(settings)``: all of a run up to its first batch, with a small network."""
    network = Network("tiny", make_network(), InputSpec(32, 32, (0.5,) * 3, (0.5,) * 3), ["3"], "random", "0")

    def opened(group: str, node: Any, trust: Any = (), **more: Any) -> Any:
        if node.get("name") == "planted":  # made for one network alone
            more["network"] = build("model", plain(compose_config(["model=planted"]).model))
        return network if group == "model" else build(group, node, trust, **more)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "build", opened)
    monkeypatch.setattr("bench.runs.run.run", lambda settings, network, plan: plan)
    monkeypatch.setattr("bench.runs.estimate.print_estimate", lambda settings, network, plan: plan)
    return command_line.compute


def base(*words: str) -> dict[str, Any]:
    return plain(compose_config(["target=predicted", "device=cpu", "method=[center]", "metric=[deletion]", *words]))


def leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting, and every group of settings."""
    for key, value in node.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def faults_of(
    settings: dict[str, Any], paths: list[tuple[str, ...]], call: Callable[[dict[str, Any]], Any]
) -> list[str]:
    """Tracebacks of a call, with each wrong value at each path; the number of threads is put back."""
    faults, threads = [], torch.get_num_threads()
    for path in paths:
        for value in [*WRONG, KeyError]:
            changed = copy.deepcopy(settings)
            node = changed
            for key in path[:-1]:
                node = node[key]
            if value is KeyError:  # as ~setting leaves it
                del node[path[-1]]
            else:
                node[path[-1]] = value
            if path == ("threads",) and value is True:
                continue
            try:
                call(changed)
            except UserError as error:
                faults += [] if one_line(error) else [f"{path}={value}: {error}"]
            except Exception as error:
                faults.append(f"{'.'.join(path)}={value}: {type(error).__name__}: {error}")
            torch.set_num_threads(threads)
    return faults


def test_every_setting_of_the_main_config(compute: Callable[[dict[str, Any]], Prepared]) -> None:
    settings = base("dataset.scenes=2")
    paths = [path for path in leaves(settings) if path[0] not in ("hydra", "model")]
    assert {path[0] for path in paths} >= {key.partition(".")[0] for key in SETTINGS} - {"model"}
    faults = faults_of(settings, paths, compute)
    assert not faults, "\n".join(faults)
    assert isinstance(compute(settings), Prepared)


def test_the_table_of_kinds_is_that_of_the_main_config() -> None:
    shipped = yaml.safe_load((CONF / "config.yaml").read_text())
    single = {"model", "dataset"}
    nested = {f"gallery.{key}" for key in shipped["gallery"]}
    assert set(SETTINGS) == (set(shipped) - {"defaults", "hydra"}) | nested | single


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, str]:
    """A small folder for each data set that reads one."""
    picture = Image.fromarray(np.full((30, 40, 3), 9, np.uint8))
    for place in ("folder", "imagefolder/n01440764", "coco/val2017", "voc/VOC2007/JPEGImages", "imagenet/val"):
        (tmp_path / place).mkdir(parents=True)
        picture.save(tmp_path / place / ("a.JPEG" if place.startswith("imagenet/") else "a.jpg"))
    (tmp_path / "imagenet" / "LOC_val_solution.csv").write_text("ImageId,PredictionString\na,n01440764 0 0 20 20\n")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0,
                         "segmentation": [[1, 1, 9, 1, 9, 9]]}],
        "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (tmp_path / "coco" / "annotations").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    thing = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    xml = f"<annotation><size><width>40</width><height>30</height></size>{thing}</annotation>"
    for place, name, text in (("Annotations", "a.xml", xml), ("ImageSets/Main", "test.txt", "a\n")):
        (tmp_path / "voc" / "VOC2007" / place).mkdir(parents=True)
        (tmp_path / "voc" / "VOC2007" / place / name).write_text(text)
    (tmp_path / "volumes").mkdir()
    np.save(tmp_path / "volumes" / "a.npy", np.zeros((4, 5, 6), np.uint8))
    return {name: str(tmp_path / name) for name in ("folder", "imagefolder", "coco", "voc", "imagenet", "volumes")}


@pytest.mark.parametrize("name", names("dataset"))
def test_every_parameter_of_a_data_set(
    name: str, compute: Callable[[dict[str, Any]], Prepared], roots: dict[str, str]
) -> None:
    root = [f"dataset.root={roots[name]}"] if name in roots else []
    small = {
        "collage": ["dataset.scenes=2"],
        "planted": ["dataset.pictures=1", "dataset.mechanisms=[additive]"],
        "mosaic": ["dataset.mosaics=1", "dataset.size=32", "dataset.source={name: collage, scenes: 8}"],
    }.get(name, [])
    settings = base(f"dataset={name}", *root, *small)
    if name == "volumes":  # the network is one of pictures
        with pytest.raises(UserError, match="an image of 3 axes, but the network's input has 2"):
            compute(settings)
    else:
        assert isinstance(compute(settings), Prepared)
    faults = faults_of(settings, [path for path in leaves(settings) if path[0] == "dataset" and len(path) > 1], compute)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", ["resnet18", "custom", "efficientnet_lite0", "timm"])
def test_every_parameter_of_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.py").write_text("from contract import make_network\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    more = {"custom": ["model.target=net:make_network"], "timm": ["model.name=resnet10t"]}.get(name, [])
    settings = base(f"model={name}", *more, *(["model.weights=random"] if name != "custom" else []))
    paths = [path for path in leaves(settings) if path[0] == "model" and len(path) > 1]
    faults = faults_of(settings, paths, lambda changed: build("model", changed["model"], seed=0))
    assert not faults, "\n".join(faults)
    assert isinstance(Opener(lambda: build("model", settings["model"], seed=0), None)(), Network)


# Words on the command line, each with a part of the line that they end in.
WORDS = [
    (["out=null"], "out=null must be a word"),
    (["out="], "out= is empty"),
    (["out=[]"], "out=[] must be a word"),
    (["layer=[[a]]"], "layer=[[a]] must be a list of words or a word or null"),
    (["layer=5"], "no layer"),
    (["quiet=maybe"], "quiet=maybe must be true or false"),
    (["verbose=1"], "verbose=1 must be true or false"),
    (["limit=true"], "limit=true must be a whole number or null"),
    (["limit=-1"], "limit=-1 must be from 1"),
    (["seed=99999999999999999999"], "seed=99999999999999999999 must be from 0"),
    (["seed=-1"], "seed=-1 must be from 0"),
    (["~seed"], "'seed' not found"),
    (["~device"], "device= is missing"),
    (["~limit"], "'limit' does not exist"),
    (["~method"], "Could not delete 'method'"),
    (["~out"], "out"),
    (["~gallery"], "gallery= is missing"),
    (["gallery=3"], "gallery"),
    (["gallery={cases: x}"], "gallery"),
    (["method=null"], "method=null names nothing"),
    (["method=[null]"], "method=null names nothing"),
    (["metric=null", "model=null"], "=null names nothing"),
    (["dataset=null"], "dataset=null names nothing"),
    (["experiment=null"], "experiment=null names nothing"),
    (["model.name=5", "model=torchvision"], "'5'"),
    (["model.weights=5"], "5"),
    (["model.layers=5"], "model.layers='5' must be a list of words or null"),
    (["device=meta"], "device=meta is unknown"),
    (["device=cpu:x"], "is unknown"),
    (["threads=0"], "threads=0 must be from 1"),
    (["workers=1e400"], "workers=inf must be a whole number"),
    (["workers=100000000000"], "must be from 1 to 1024"),
    (["batch=x"], "batch=x is unknown; it takes auto"),
    (["fuse=min"], "fuse=min is unknown"),
    (["augment=mirror"], "augment=mirror is unknown; it takes flip, scales, or both as a list"),
    (["augment=[flip,3]"], "augment=3 is unknown"),
    (["augment=true"], "augment=true"),
    (["target=2000000"], "target=2000000 must be from 0"),
    (["target=-1"], "target"),
    (["method.center.sigma=1e400"], "center.sigma=inf must be from"),
    (["+method.center.relu=3"], "center.relu=3 must be true or false"),
    (["method.center=null"], "center is not a config node"),
    (["dataset.scenes=x"], "dataset.scenes=x must be a whole number"),
    (["dataset=folder", "dataset.root=[a]"], "dataset.root=[a] must be a word or null"),
    (["dataset=coco", "dataset.root=null"], "dataset.root=null must be a word"),
    (["dataset=coco", "dataset.root=a", "dataset.min_instances=null"], "must be a whole number"),
    (["metric.deletion=5"], "deletion is not a config node"),
    (["metric={}", "limit=0"], "unknown metric"),
    (["limit={"], "cannot be read"),
    (["hydra={}"], "refused"),
    (["experiment=[demo]"], "takes one name"),
    (["reference=5"], "unknown method"),
    (["shards=2.0"], "shards=2.0 must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"), WORDS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_words_on_the_command_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    monkeypatch.chdir(tmp_path)
    quick = ["method=[center]", "metric=[deletion]", "model=resnet18", "model.weights=random"]
    named = {word.lstrip("+~").partition("=")[0].partition(".")[0] for word in words}
    if "model" in named or any(word.startswith("~") for word in words):
        quick = []
    quick = [word for word in quick if word.partition("=")[0] not in {one.partition("=")[0] for one in words}]
    monkeypatch.setattr(sys, "argv", ["bench", *quick, *words])
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit) as ended:
            command_line.main()
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1, said
    assert message in said


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("layer=0.10", "0.10"), ("layer=[0.10,features.1]", ["0.10", "features.1"]), ("layer=[1,2]", ["1", "2"]),
        ("out=2024_01_15", "2024_01_15"), ("out=007", "007"), ("out=1e5", "1e5"), ("out=nan", "nan"),
        ("out=.5", ".5"), ("out=a=b", "a=b"), ("out=my pics (copy)", "my pics (copy)"), ("out=it's", "it's"),
        ("out=größe/数据", "größe/数据"), ("out=a\\b\\", "a\\b\\"), ("out=a&b;c!~^<>", "a&b;c!~^<>"), ("out=a]", "a]"),
        ("out='quoted, 1'", "quoted, 1"), ('out="2012"', "2012"), ("out=-3", "-3"), ("out= x", " x"), ("out=x ", "x "),
        ("gallery.images=[2008_000001,a (1)]", ["2008_000001", "a (1)"]), ("gallery.images=[]", []),
        ("dataset.root=2012", "2012"), ("dataset.root=epoch=3-loss=0.1", "epoch=3-loss=0.1"),
        ("model.weights=1.pth", "1.pth"), ("layer=null", None), ("limit=10", 10), ("metric.deletion.steps=7", 7),
        ("layer=*.conv?", "*.conv?"), ("reference=grad_cam", "grad_cam"), ("out=${seed}", 0),
        ("dataset.root=C:\\data\\x", "C:\\data\\x"), ("out=a'\"b", "a'\"b"), ("out=a\\'b", "a\\'b"),
    ],
)  # fmt: skip
def test_names_stay_names(word: str, value: Any) -> None:
    node = compose_config(["dataset=folder", word])
    for key in word.partition("=")[0].split("."):
        node = node[key]
    assert plain(node) == value and type(plain(node)) is type(value)
    assert keep_names(keep_names(word)) == keep_names(word)


@pytest.mark.parametrize(
    "value", ["0.10", "2024_01_15", "null", "true", "nan", "a b", "it's", "x\\", "", "größe", "a'\"\\'"]
)
def test_text_from_python_stays_text(value: str) -> None:
    assert compose_config([], {"out": value, "layer": [value]}).layer == [value]
    assert compose_config([], {"out": value}).out == value
    assert compose_config([f"out={written(value)}"]).out == value


def test_what_cannot_be_read_says_how_to_write_it() -> None:
    with pytest.raises(UserError, match=r"""'dataset.roots="a \(b\)"'"""):
        check_overrides(["dataset.roots=a (b)"])


def test_text_parameters_are_those_of_the_functions() -> None:
    assert {"root", "split", "class_map", "categories", "match"} <= text_parameters("dataset")
    assert not {"years", "min_instances", "scenes"} & text_parameters("dataset")
    assert {"name", "weights", "target", "layers"} <= text_parameters("model") and "size" not in text_parameters(
        "model"
    )
    assert {"estimator", "normalize"} <= text_parameters("method") and "bins" not in text_parameters("method")


def test_a_reference_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.report", str(tmp_path), "--reference", "grad_can"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "did you mean grad_cam" in done.stderr and done.stderr.count("\n") == 1
