"""Files for users that were written by hand: thresholds, an example of the configuration, and the runbooks.

In an installed package they lie in its folder `data`, where the build puts them; in a checkout where they are edited.
"""

from __future__ import annotations

import re
from pathlib import Path

from vllm_sidecar.generate.files import Origin, sealed

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "data"
_IN_CHECKOUT = {
    "thresholds.yaml": "rules/thresholds.yaml",
    "config.example.yaml": "exporter/config.example.yaml",
    "runbooks": "rules/runbooks",
}
"""By the name in `data`. The same pairs stand in pyproject.toml."""


def thresholds_file() -> dict[str, bytes]:
    """Return the thresholds with their defaults, for a user to tune, by name."""
    return {"thresholds.yaml": _marked("thresholds.yaml", "thresholds")}


def config_file() -> dict[str, bytes]:
    """Return the example of the sidecar's configuration, by name."""
    return {"vllm-sidecar.yaml": _marked("config.example.yaml", "config")}


def runbook_files() -> dict[str, bytes]:
    """Return the runbooks, by name. What they link to outside their folder is not there, so it is named only."""
    end = f"\n<!-- {Origin('runbooks').mark()} -->\n"
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(_path("runbooks").glob("*.md"))}
    return {name: sealed((_OUTSIDE.sub(r"\1", text) + end).encode()) for name, text in texts.items()}


def _marked(name: str, part: str) -> bytes:
    return sealed(_path(name).read_bytes() + f"# {Origin(part).mark()}\n".encode())


def _path(name: str) -> Path:
    installed = _INSTALLED / name
    return installed if installed.exists() else _PACKAGE.parents[1] / _IN_CHECKOUT[name]
