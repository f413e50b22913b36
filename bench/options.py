"""Where conf/ is and what its files say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parent / "conf"


def conf_node(kind: str, name: str) -> dict[str, Any]:
    """Node of ``conf/<kind>/<name>.yaml``, empty for a name that the program does not ship."""
    path = CONF / kind / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        return {}
    node = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(name)
    return node if isinstance(node, dict) else {}
