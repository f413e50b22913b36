"""Every command and snippet of the README and docs/ works; a kind of command that this test does not know fails.

Python blocks are executed, all blocks of a page in one namespace; a text block right after one is its output. Commands
that only print are run. Those that need data, weights or minutes are composed and bound, which finds every wrong name,
setting and parameter. A block that begins with a path in a comment is a file: the commands of pages with files run for
real, in a copy of the program with these files.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.cli import answer, check_words
from bench.config import GIVEN_TO_METHOD, GIVEN_TO_METRIC, bind_all, compose_config
from bench.export import main as export
from bench.report.__main__ import main as report
from bench.types import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "yaml", "text"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"(?<=\n\n)((?: {4}.*\n)+)")
FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")
INLINE = re.compile(r"`((?:python -m bench|cam-bench|make)(?:[ .][^`]*)?)`")
# Whole lines that do not call this program.
KNOWN = {
    "git clone … cam-bench && cd cam-bench",
    "python scripts/publish.py scenes crash_test",  # tests/scripts/test_published.py
    "python scripts/check_published.py",
    "python scripts/conformance.py results/conformance",  # tests/methods/test_peers.py
    "python scripts/study.py",  # tests/scripts/test_study.py
    'eval "$(cam-bench -sc install=bash)"',  # tests/bench/test_cli.py
}


@dataclass(frozen=True)
class Block:
    """A block of code: its language (``sh`` for an indented one) and text."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """Path in the block's first line, for a block that is a file."""
        found = FILE.match(self.text)
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fenced = [Block(found[1], found[2]) for found in FENCE.finditer(text)]
    assert text.count("\n```") == 2 * len(fenced), f"{page.name} has a fence that is not closed or not at the margin"
    return fenced + [Block("sh", found[1]) for found in INDENTED.finditer(FENCE.sub("", text))]


def lines(page: Path) -> list[str]:
    """All command lines of a page without comments, those in its sentences too."""
    code = [line.strip() for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    prose = INLINE.findall(FENCE.sub("", page.read_text()))
    found = [re.sub(r"\s{2,}#.*", "", line) for line in code] + prose
    return list(dict.fromkeys(line for line in found if line))


def has_files(page: Path) -> bool:
    return any(block.file for block in blocks(page))


COMMANDS = [(page, line) for page in PAGES if not has_files(page) for line in lines(page)]


def test_every_block_has_a_language_that_is_checked() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{page.name}: a block of {block.language or 'no language'}"
            if block.language == "yaml":
                assert yaml.safe_load(block.text)


def test_readme_has_its_two_commands_and_fits_a_screen() -> None:
    commands = lines(PAGES[0])
    assert {"make demo", "make test"} <= set(commands)
    assert len(commands) > 8
    assert len(PAGES[0].read_text().splitlines()) <= 70


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page.stem}: {line}" for page, line in COMMANDS])
def test_command(page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_line(line)


@pytest.mark.parametrize(
    "line",
    [
        "python -m bench method=grad_cm",
        "python -m bench metric.deletion.step=3",
        "python -m bench --what",
        "python -m bench list foo",
        "python -m bench.report results/ --what",
        "make love",
        "pip install -e '.[nothing]'",
        "pip install something",
        "rm -rf /",
        "python -m bench | tee log",
        "cam-bench && ls",
    ],
)
def test_wrong_and_unknown_commands_fail(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, SystemExit)):
        check_line(line)


def check_line(line: str) -> None:
    """Check one command line of a page in an empty current folder."""
    if line in KNOWN:
        return
    command, *piped = line.split(" | ")
    assert all(shlex.split(part)[0] == "grep" for part in piped)
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\w*", words[0]):
        words = words[1:]
    match words:
        case ["make", target]:
            assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.M)
        case ["pip", "install", "-e", what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            asked = re.fullmatch(r"\.(?:\[([\w,]+)\])?", what)
            assert asked and set(filter(None, (asked[1] or "").split(","))) <= set(extras)
        case ["python", "-m", "bench.report", *rest]:
            assert report(rest) == 2  # understood; there are no results here
        case ["python", "-m", "bench.export", *rest]:
            assert export(rest) == 2  # as the report
        case ["python", "-m", "bench", *rest] | ["cam-bench", *rest]:
            check_bench(rest)
        case _:
            raise AssertionError(f"this test cannot check: {line}")


def check_bench(words: list[str]) -> None:
    """Run what only prints; compose and bind anything else, of a sweep its first job."""
    if words[:2] == ["list", "results"]:
        with pytest.raises(UserError, match="no results in"):  # understood; there are none here
            answer(words)
        return
    if answer(words):
        return
    check_words(words)
    if "--cfg" in words:
        done = subprocess.run([sys.executable, "-m", "bench", *words], capture_output=True, text=True, check=True)
        assert yaml.safe_load(done.stdout)
        return
    assert not [word for word in words if word.startswith("-") and word != "-m"], "an option that is not checked"
    own = [word for word in words if not re.match(r"-m$|hydra/launcher=|hydra\.launcher\.", word)]
    # Of a sweep the first job.
    single = [re.sub(r"=range\(\d+\)$", "=0", re.sub(r"(=[^\[{,]*),.*", r"\1", word)) for word in own]
    node = compose_config(single)
    assert bind_all(node.method, GIVEN_TO_METHOD)
    bind_all(node.metric, GIVEN_TO_METRIC)


WITH_PYTHON = [page for page in PAGES if any(b.language == "python" and not b.file for b in blocks(page))]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=[page.stem for page in WITH_PYTHON])
def test_python(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict = {"__name__": page.stem}
    found = [block for block in blocks(page) if block.language != "sh" and not block.file]
    for block, after in zip(found, [*found[1:], None], strict=True):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec", dont_inherit=True), names)
            said = capsys.readouterr().out
            if after and after.language == "text":
                assert said.split() == after.text.split()
    if page.stem == "python":
        check_python_page(names, tmp_path)


def check_python_page(names: dict, folder: Path) -> None:
    """What the page's examples gave means something."""
    heatmap = names["found"].heatmap
    row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
    assert heatmap.shape == (300, 451) and 5 <= row <= 295 and 65 <= column <= 400  # on the cat
    assert names["scores"]["pointing_game.hit"] == 1
    assert 0 < names["scores"]["deletion.auc"] < names["scores"]["insertion.auc"] < 1
    assert len(names["cases"]) == 4 * 2 * 2  # cases, methods, layers
    assert (folder / "chelsea.png").stat().st_size > 10_000


def test_one_picture_takes_six_lines() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    example = FENCE.search(page[page.index("## Explain one picture") :])
    assert example and len([line for line in example[2].splitlines() if line]) <= 6


WITH_FILES = [page for page in PAGES if has_files(page)]


@pytest.mark.parametrize("page", WITH_FILES, ids=[page.stem for page in WITH_FILES])
def test_files_of_a_page_work_in_a_copy_of_the_program(page: Path, tmp_path: Path) -> None:
    for name in ("bench", "methods", "metrics", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks(page):
        if block.file:
            path = tmp_path / block.file
            assert not path.exists(), f"{block.file} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for line in lines(page):
        words = shlex.split(line)
        if words[0] == "make":
            check_line(line)
            continue
        assert words[:3] == ["python", "-m", "bench"], line
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if "list" in words:
            assert "grad_cam_top" in done.stdout
    summary = pd.read_csv(tmp_path / "results" / "summary.csv")
    assert {"efficientnet_lite0", "custom"} == set(summary.model)
    labels = {re.sub(r"code=\w+", "code", name) for name in summary.method}
    assert labels == {"grad_cam", "grad_cam_top(channels=50)", "powered(power=3, code)"}
    shares = summary[summary.metric.str.contains("extent|lit")]["mean"]
    assert len(shares) == 10 and shares.between(0, 1, inclusive="neither").all()


@pytest.mark.parametrize("page", PAGES[:2], ids=["README", "CONTRIBUTING"])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_pictures_are_small() -> None:
    for path in (ROOT / "docs" / "img").iterdir():
        assert path.stat().st_size < 300_000, path


def test_site_has_every_page_and_builds_without_a_warning(tmp_path: Path) -> None:
    nav = re.findall(r"^\s+- .*: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(nav) == sorted(page.name for page in PAGES[2:])
    pytest.importorskip("material")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert "https://fonts" not in (tmp_path / "site" / "index.html").read_text()
