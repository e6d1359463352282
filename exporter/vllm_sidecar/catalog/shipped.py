"""Hand-written files that ship with the program, for the running sidecar and for the generator.

In an installed package they are in its folder `data`, where the build puts them; in a checkout, where they are edited.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "data"
_IN_CHECKOUT = {
    "thresholds.yaml": "rules/thresholds.yaml",
    "config.example.yaml": "exporter/config.example.yaml",
    "runbooks": "rules/runbooks",
}
"""By the name in `data`. The same pairs are listed in pyproject.toml."""


def shipped(name: str) -> Path:
    """Return the path of a file or folder that ships with the program."""
    installed = _INSTALLED / name
    return installed if installed.exists() else _PACKAGE.parents[1] / _IN_CHECKOUT[name]


@cache
def runbooks() -> Mapping[str, str]:
    """Return the runbooks by file name. Links out of their folder would be dead, so only their text is kept."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(shipped("runbooks").glob("*.md"))}
    return {name: _OUTSIDE.sub(r"\1", text) for name, text in texts.items()}
