"""Every command of the README composes: its names and settings exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from bench.config import CONF, GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, check_overrides

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    python -m bench( .*|)$", README, re.M)


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10
    targets = set(re.findall(r"^    make (\w+)", README, re.M))
    assert targets == {"demo", "test"}
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("command", COMMANDS)
def test_command_composes(command: str) -> None:
    words = shlex.split(command, comments=True)
    check_overrides(words)
    # of a sweep the first job; launchers are plugins, installed with their extra
    single = [re.sub(r"(=[^\[,]*),.*", r"\1", word) for word in words if word != "-m" and not word.startswith("hydra/")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose("config", overrides=single)
    assert bind_all(node.method, GIVEN_TO_METHOD)
    bind_all(node.metric, GIVEN_TO_METRIC)
