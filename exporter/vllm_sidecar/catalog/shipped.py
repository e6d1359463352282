"""Files that come with the program and were written by hand, for the running sidecar and the generator alike.

In an installed package they lie in its folder `data`, where the build puts them; in a checkout where they are edited.
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
"""By the name in `data`. The same pairs stand in pyproject.toml."""


def shipped(name: str) -> Path:
    """Return where a file or folder is that comes with the program."""
    installed = _INSTALLED / name
    return installed if installed.exists() else _PACKAGE.parents[1] / _IN_CHECKOUT[name]


@cache
def runbooks() -> Mapping[str, str]:
    """Return the runbooks by file name. What they link to outside their folder is not there, so it is named only."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(shipped("runbooks").glob("*.md"))}
    return {name: _OUTSIDE.sub(r"\1", text) for name, text in texts.items()}
