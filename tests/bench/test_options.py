"""Only functions that this program defines for a purpose can be named by a config, and Hydra calls nothing else."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pytest
from hydra.core.global_hydra import GlobalHydra

from bench import __main__ as command_line
from bench import options
from bench.cli import check_words
from bench.config import build, check_overrides, compose_config
from bench.types import UserError

ROOT = Path(__file__).parents[2]


def reachable(module: ModuleType, start: str, depth: int) -> set[str]:
    """Dotted paths of what is reachable from a module: its modules and callables, and theirs, `depth` modules deep."""
    paths = set()
    for name, value in list(vars(module).items()):
        path = f"{start}.{name}"
        if isinstance(value, ModuleType) and depth:
            paths |= reachable(value, path, depth - 1)
        if callable(value) or isinstance(value, ModuleType):
            paths.add(path)
    return paths


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("group", options.PACKAGES)
def test_only_functions_defined_in_the_groups_own_modules_pass(group: str) -> None:
    """Every path through the modules, of which thousands lead to torch, os and builtins, and back into bench."""
    package = import_module(options.module_of(options.PACKAGES[group]))
    modules = [import_module(one.name) for one in walk_packages(package.__path__, f"{package.__name__}.")]
    paths = set().union(*(reachable(module, module.__name__, 2) for module in modules))
    defined = {
        f"{module.__name__}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    }
    assert len(paths) > 5000 and defined <= paths
    short = len("bench.") if group in ("method", "metric") else 0
    passed = set()
    for path in paths:
        try:
            function = options.named_function(path[short:], "x", group)
        except UserError as error:
            assert "is refused" in str(error) or "does not exist" in str(error)
        else:
            assert function.__module__ == path.rpartition(".")[0]
            passed.add(path)
    if group in ("model", "dataset"):  # only the functions that a config of ours names
        assert passed == options.shipped_targets(group) < defined
    else:
        assert passed == defined


@pytest.mark.parametrize("group", options.PACKAGES)
def test_functions_of_other_groups_and_of_the_outside_are_refused(group: str) -> None:
    targets = [
        "os.system", "bench.runs.workers.os.system", "bench.datasets.loading.pickle.loads", "bench.cli.be_verbose",
        "methods.common.torch.hub.load", "bench.networks.network.torch.hub.load", "builtins.eval", "benchmarks.x.y",
        "bench.methods.gradient.grad_cam", "methodsx.gradient.grad_cam", "methods", "methods.", "methods..gradient.cam",
        "methods.gradient.grad_cam.__globals__", "methods.gradient.grad_cam.__call__", "bench.bench.networks.x",
        "bench.datasets.loading._unpack", "bench.networks.sources.seeded",
        "methods/gradient.grad_cam", " methods.gradient.grad_cam", "methods.gradient.grad_cam\n", "", None, 3, ["x"],
    ]  # fmt: skip
    others = {"method": "methods.gradient.grad_cam", "metric": "metrics.pointing.pointing_game",
              "dataset": "bench.datasets.voc.voc", "model": "bench.networks.own.custom_model"}  # fmt: skip
    for target in targets + [path for other, path in others.items() if other != group]:
        with pytest.raises(UserError, match=r"is refused|does not exist") as refused:
            options.named_function(target, "x", group)
        assert len(str(refused.value).splitlines()) <= 2  # the target's own line break is the only one
    assert options.named_function(others[group], "x", group).__name__ == others[group].rpartition(".")[2]


def test_shipped_names_resolve() -> None:
    for group in options.PACKAGES:
        for name in options.names(group):
            node = options.conf_node(group, name)
            assert options.named_function(node["_target_"], name, group)
            about = node.get("about", {})
            targets = [one["function"] for one in about.get("dataset_statistics", {}).values()]
            for target in [*targets, about.get("curve_points")]:
                assert target is None or options.named_function(target, name)


@pytest.mark.parametrize("name", ["", "../method/grad_cam", "nothing", "/etc/passwd"])
def test_unknown_names_have_no_node(name: str) -> None:
    assert options.conf_node("method", name) == {}


def test_options_load_neither_torch_nor_hydra() -> None:
    code = "import sys, bench.options as o; [o.entries(g) for g in o.GROUPS]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "hydra", "omegaconf", "pandas", "numpy"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=bench.networks.own.custom_model",
        "+hydra.callbacks={x: {_target_: os.system}}",
        "hydra.launcher._target_=os.system",
        "hydra.launcher={_target_: os.system}",
        "hydra/launcher=mine",
        "hydra.sweeper._target_=os.system",
        "hydra.job_logging.handlers.console.class=subprocess.Popen",
        "+hydra.hydra_logging.formatters.x.class=os.system",
        "+dataset@hydra.callbacks=voc",
        "hydra={callbacks: {}}",
        "hydra={job_logging: {handlers: {x: {class: subprocess.Popen}}}}",
        "++hydra={run: {dir: x}}",
    ],
)
def test_hydra_settings_that_call_functions_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"refused|unknown hydra/launcher"):
        check_overrides([word])


def test_other_hydra_settings_pass() -> None:
    check_overrides(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.verbose=true", "hydra/job_logging=none",
                     "hydra.job_logging.root.level=DEBUG", "hydra.sweep.dir=x"])  # fmt: skip


def test_a_pickle_and_another_main_config_are_refused() -> None:
    for words in (["--experimental-rerun", "x.pickle"], ["--experimental-rerun=x.pickle"],
                  ["--config-path", "."], ["-cp=."], ["--config-name=x"], ["-cn", "x"]):  # fmt: skip
        with pytest.raises(UserError, match="refused"):
            check_words(words)


CUSTOM = "_target_: bench.networks.own.custom_model"
# Each would run code, or write where nobody said, as Hydra or we act on a composed config.
ATTACKS = {
    "callbacks": "hydra: {callbacks: {x: {_target_: evil.run}}}",
    "callbacks in a launcher's process": "hydra: {callbacks: {x: {_target_: evil.run}}}",
    "a handler": "hydra: {job_logging: {handlers: {console: {class: evil.run}}}}",
    "a factory": "hydra: {job_logging: {formatters: {plain: {(): evil.run}}}}",
    "Hydra's handler": "hydra: {hydra_logging: {handlers: {console: {class: evil.run}}}}",
    "a log file": "hydra: {job_logging: {handlers: {file: {filename: ran, delay: false}}}}",
    "the launcher": "hydra: {launcher: {_target_: evil.run}}",
    "the launcher's shell": "hydra: {launcher: {setup: [touch ran]}}",
    "the sweeper": "hydra: {sweeper: {_target_: evil.run}}",
    "the sweeper's words": "hydra: {sweeper: {params: {model: custom, model.target: 'evil:run'}}}",
    "the environment": "hydra: {job: {env_set: {PATH: evil}}}",
    "a folder": "hydra: {run: {dir: ran}}",
    "another folder of configs": "hydra: {searchpath: [pkg://evil]}",
    "an interpolation": "x: {y: {_target_: evil.run}}\nhydra: {callbacks: '${x}'}",
    "the network's code": f"model: {{{CUSTOM}, target: 'evil:run'}}",
    "the network's code, by interpolation": f"w: 'evil:run'\nmodel: {{{CUSTOM}, target: '${{w}}'}}",
    "a node in the network's place": f"w: {{{CUSTOM}, target: 'evil:run', name: x}}\nmodel: ${{w}}",
    "a pickle": "dataset: {_target_: bench.datasets.loading._unpack,"
    " packed: [!!binary Y29zCnN5c3RlbQooUyd0b3VjaCByYW4nCnRSLg==, []]}",
    "a module": "dataset: {_target_: evil.run}",
    "a module of a method": "method: {x: {_target_: evil.run}}",
    "a module of a metric": "metric: {x: {_target_: bench.runs.provenance.subprocess.Popen, args: [touch, ran]}}",
    "a function of a metric's about": "metric: {deletion: {about: {curve_points: evil.run}}}",
    "an alias bomb": "\n".join(
        ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    ),
    "a deep yaml": "a: " + "[" * 3000,
    "a file that includes itself": "defaults: [evil]",
    "a large file": " " * 2**22 + "\nlimit: 1",
    "a yaml's own constructor": "x: !!python/object/apply:os.system ['touch ran']",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_file_of_a_config_folder_runs_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with a stranger's file ends in one line and leaves nothing behind, on its own and in a sweep."""
    (tmp_path / "evil.py").write_text("open('ran', 'w')\ndef run(*values, **more):\n    open('ran', 'w')\n")
    (tmp_path / "own" / "extra").mkdir(parents=True)
    (tmp_path / "own" / "extra" / "evil.yaml").write_text(f"# @package _global_\n{ATTACKS[name]}\n")
    (tmp_path / "own" / "extra" / "good.yaml").write_text("# @package _global_\nlimit: 0\n")
    words = ["--config-dir", "own", "method=[center]", "model.weights=random", "limit=1"]
    if "process" in name:  # the master config is good, a job's is not
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
        words = ["-m", "hydra/launcher=joblib", *words, "+extra=good,evil"]
    elif "sweeper" in name:
        words = ["-m", *words, "+extra=evil"]
    else:
        shell = ["hydra/launcher=submitit_slurm", "-m"] if "shell" in name else []
        words = [*words, "+extra=evil", *shell, *(["metric=[deletion]"] if "about" in name else [])]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    before = dict(os.environ)
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    said = capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and os.environ["PATH"] == before["PATH"]
    assert ended.value.code == 2 and said.splitlines()[-1].startswith("error: "), said


def test_what_the_command_line_itself_says_is_done(tmp_path: Path) -> None:
    """The same settings as words, beside a harmless file of a config folder."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "good.yaml").write_text("# @package _global_\nlimit: 2\n")
    (tmp_path / "net.py").write_text("from torchvision.models import resnet18 as build\n")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--config-dir", ".", "+extra=good", "model=custom", "model.target=net:build",
         "+hydra.job.env_set.A=b", "--cfg", "job"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0 and "limit: 2" in done.stdout and "target: net:build" in done.stdout, done.stderr


def test_a_hydra_program_that_uses_this_one_may_have_callbacks(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    import_module("bench.config")

    (tmp_path / "config.yaml").write_text("hydra: {callbacks: {x: {_target_: evil.run}}}\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        node = compose("config", return_hydra_config=True)
    assert node.hydra.callbacks.x._target_ == "evil.run"


def test_targets_are_refused_on_the_command_line() -> None:
    node = compose_config(["dataset._target_=bench.datasets.loading.pickle.loads"]).dataset
    with pytest.raises(UserError, match="dataset._target_=bench.datasets.loading.pickle.loads"):
        build("dataset", node)


def test_all_metrics_have_one_word() -> None:
    node = compose_config(["metric=all"])
    assert sorted(node.metric) == options.names("metric") and list(node.metric)[:2] == ["deletion", "insertion"]
    with pytest.raises(UserError, match="unknown method 'all'"):
        compose_config(["method=all"])
