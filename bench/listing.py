"""What there is to choose from: every method, metric, network, data set and experiment with a line about it.

Read from the yaml files and, without importing it, from the code: a list must not wait for torch.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

CONF = Path(__file__).parent / "conf"
LISTS = {
    "methods": "method", "metrics": "metric", "models": "model", "datasets": "dataset", "experiments": "experiment",
}  # fmt: skip


def entries(group: str) -> dict[str, str]:
    """Name and description of every option of a config group, sorted by name."""
    return {path.stem: describe(path) for path in sorted((CONF / group).glob("*.yaml"))}


def describe(path: Path) -> str:
    """One line about an option: its yaml's first comment; for a method or metric its function's own words.

    A network's default layers follow, and parameters that are not the function's defaults, so that variants differ.
    """
    text = path.read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    if path.parent.name not in ("method", "metric"):
        comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
        about = next((line for line in comments if not line.startswith("@")), "").rstrip(".")
        return f"{about} ({', '.join(node['layers'])})" if node.get("layers") else about
    node = dict(node[path.stem])
    about, defaults = function(node.pop("_target_"))
    node.pop("about", None)
    changed = [f"{key}={value}" for key, value in node.items() if key in defaults and value != defaults[key]]
    changed = [word for word in changed if "${" not in word]
    return f"{about} ({', '.join(changed)})" if changed else about


@cache
def function(target: str) -> tuple[str, dict[str, Any]]:
    """First line of a function's docstring, without its full stop, and the defaults that are literals.

    Nothing of a function that does not exist: a list shows the others, and a run that names it says what is wrong.
    """
    module, _, name = target.rpartition(".")
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return "", {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next((one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == name), None)
    if node is None:
        return "", {}
    words = (ast.get_docstring(node) or "").splitlines() or [""]
    named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    defaults = {arg.arg: value.value for arg, value in named if isinstance(value, ast.Constant)}
    return words[0].rstrip("."), defaults


def print_list(group: str, console: Console, indent: int = 0) -> None:
    """Print a group: in columns that fit a terminal; elsewhere a line each, for grep and the like."""
    found = entries(group)
    width = max(map(len, found))
    if not console.is_terminal:
        for name, about in found.items():
            console.file.write(f"{' ' * indent}{name:<{width}}  {about}\n")
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=width + indent, no_wrap=True)
    table.add_column()
    for name, about in found.items():
        table.add_row(Text(" " * indent + name, style="bold cyan"), Text(about))
    console.print(table)
