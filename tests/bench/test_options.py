"""Only functions that this program defines for a purpose can be named by a config, and Hydra calls nothing else."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from bench import options
from bench.cli import check_words
from bench.config import build, check_hydra, check_overrides, compose_config
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
    assert passed == defined


@pytest.mark.parametrize("group", options.PACKAGES)
def test_functions_of_other_groups_and_of_the_outside_are_refused(group: str) -> None:
    targets = [
        "os.system", "bench.runs.workers.os.system", "bench.datasets.loading.pickle.loads", "bench.cli.be_verbose",
        "methods.common.torch.hub.load", "bench.networks.network.torch.hub.load", "builtins.eval", "benchmarks.x.y",
        "bench.methods.gradient.grad_cam", "methodsx.gradient.grad_cam", "methods", "methods.", "methods..gradient.cam",
        "methods.gradient.grad_cam.__globals__", "methods.gradient.grad_cam.__call__", "bench.bench.networks.x",
        "methods/gradient.grad_cam", " methods.gradient.grad_cam", "methods.gradient.grad_cam\n", "", None, 3, ["x"],
    ]  # fmt: skip
    others = {"method": "methods.gradient.grad_cam", "metric": "metrics.pointing.pointing_game",
              "dataset": "bench.datasets.voc.voc", "model": "bench.networks.sources.custom_model"}  # fmt: skip
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
        "+hydra.callbacks.x._target_=bench.networks.sources.custom_model",
        "+hydra.callbacks={x: {_target_: os.system}}",
        "hydra.launcher._target_=os.system",
        "hydra.launcher={_target_: os.system}",
        "hydra/launcher=mine",
        "hydra.sweeper._target_=os.system",
        "hydra.job_logging.handlers.console.class=subprocess.Popen",
        "+hydra.hydra_logging.formatters.x.class=os.system",
        "+dataset@hydra.callbacks=voc",
        "hydra={callbacks: {}}",
    ],
)
def test_hydra_settings_that_call_functions_are_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"refused|unknown hydra/launcher"):
        check_overrides([word])


def test_other_hydra_settings_pass() -> None:
    check_overrides(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.verbose=true", "hydra/job_logging=none",
                     "hydra.job_logging.root.level=DEBUG", "hydra.sweep.dir=x"])  # fmt: skip


def test_rerun_is_refused() -> None:
    for words in (["--experimental-rerun", "x.pickle"], ["--experimental-rerun=x.pickle"]):
        with pytest.raises(UserError, match="refused"):
            check_words(words)


def good_settings() -> dict:
    """Hydra's node as it is composed for our config."""
    from hydra import compose, initialize_config_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(options.CONF), version_base="1.3"):
        node = compose("config", return_hydra_config=True)
    return OmegaConf.to_container(node.hydra, resolve=False)  # type: ignore[return-value]


def test_hydras_composed_settings_are_checked() -> None:
    check_hydra(good_settings())
    handlers = {"handlers": {"x": {"class": "logging.os.system"}}}
    for changed in (
        {"callbacks": {"x": {"_target_": "os.system"}}},
        {"callbacks": "${x}"},
        {"launcher": {"_target_": "os.system"}},
        {"sweeper": "${x}"},
        {"job_logging": handlers},
        {"hydra_logging": {"formatters": {"x": {"()": "os.system"}}}},
        {"job_logging": "${x}"},
        {"job_logging": {"handlers": {"x": "${evil}"}}},
        {"job_logging": {"handlers": {"x": {"class": "${evil}"}}}},
    ):
        with pytest.raises(UserError, match="refused"):
            check_hydra({**good_settings(), **changed})


ATTACKS = {
    "callbacks": "callbacks: {x: {_target_: evil.run}}",
    "logging": "job_logging: {handlers: {console: {class: evil.run}}}",
    "factory": "job_logging: {formatters: {plain: {(): evil.run}}}",
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("words", [[], ["-m"]])
def test_a_file_of_a_config_folder_runs_nothing(tmp_path: Path, name: str, words: list[str]) -> None:
    (tmp_path / "evil.py").write_text("def run(*values, **more):\n    open('ran', 'w')\n")
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = f"# @package _global_\nhydra:\n  {ATTACKS[name]}\n"
    (tmp_path / "own" / "experiment" / "evil.yaml").write_text(text)
    (tmp_path / "own" / "extra").mkdir()
    (tmp_path / "own" / "extra" / "evil.yaml").write_text(text)
    code = (
        "import os, sys; os.environ['HYDRA_FULL_ERROR'] = '1'\n"
        "import hydra\n"
        "from bench.config import CONF, guard_hydra\n"
        "from bench.types import UserError\n"
        "guard_hydra()\n"
        "try:\n"
        "    main = hydra.main(version_base='1.3', config_path=str(CONF), config_name='config')\n"
        "    main(lambda node: print('task'))()\n"
        "except UserError as error:\n"
        "    sys.exit(f'error: {error}')\n"
    )
    command = [sys.executable, "-c", code, *words, "--config-dir", "own", "+extra=evil"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": f"{ROOT}:{tmp_path}"}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "refused" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "task" not in done.stdout and not (tmp_path / "ran").exists()


def test_targets_are_refused_on_the_command_line() -> None:
    node = compose_config(["dataset._target_=bench.datasets.loading.pickle.loads"]).dataset
    with pytest.raises(UserError, match="dataset._target_=bench.datasets.loading.pickle.loads"):
        build("dataset", node)
