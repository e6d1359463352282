"""The runbooks as data: their sections, blocks, queries and variables; and other values in place of the example's."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from places import RULES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER = RULES / "runbooks"
SECTIONS = ("Stop the bleeding", "Confirm", "Find the cause", "Fix")
EXAMPLE = {
    "NAMESPACE": "llm",
    "POD": "chat-0",
    "MODEL": "chat",
    "INSTANCE": "10.0.0.1:10190",
    "UUID": "GPU-0",
    "NODE": "gpu-1",
    "CLUSTER": "eu1",
}
"""Variable of the first block -> its value in all pages."""
LABELS = {
    "NAMESPACE": "namespace",
    "POD": "pod",
    "MODEL": "model_name",
    "INSTANCE": "instance",
    "UUID": "uuid",
    "NODE": "node",
    "CLUSTER": "cluster",
}
"""Variable of the first block -> the label that it is in queries."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One runbook."""

    name: str
    text: str

    @property
    def head(self) -> str:
        """What comes before the first section."""
        return self.text.split("\n## ", 1)[0]

    @property
    def headings(self) -> tuple[str, ...]:
        """Titles of the sections in their order."""
        return tuple(re.findall(r"^## (.+)$", self.text, flags=re.MULTILINE))

    def section(self, title: str) -> str:
        """Text of a section, without its title."""
        return re.split(r"^## .+$", self.text, flags=re.MULTILINE)[1 + self.headings.index(title)]

    @property
    def exported(self) -> dict[str, str]:
        """Variables that the first block sets to values of the example."""
        first = blocks(self.head, "sh")[0].splitlines()[0]
        return dict(re.findall(r"([A-Z]+)=([^\s$]+)", first.split("#")[0])) if first.startswith("export") else {}


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    return [content for found, content in _BLOCK.findall(text) if found == language]


def queries(text: str) -> list[str]:
    """Queries of all blocks of PromQL, one for each line."""
    return [line for block in blocks(text, "promql") for line in block.splitlines() if line]


def prose(text: str) -> str:
    """The text without its blocks."""
    return _BLOCK.sub("", text)


def read(path: Path) -> Page:
    """Read one page."""
    return Page(path.stem, path.read_text())


def pages() -> list[Page]:
    """All runbooks of alerts, by name."""
    return [read(path) for path in sorted(FOLDER.glob("Vllm*.md"))]


def _after(value: str, found: re.Match[str]) -> str:
    return found[1] + value


def filled(text: str, values: Mapping[str, str]) -> str:
    """Put the labels of a real alert in place of the example's; what the alert lacks keeps the example's value."""
    for name, value in values.items():
        matcher = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        text = text.replace(f'{LABELS[name]}="{EXAMPLE[name]}"', f'{LABELS[name]}="{matcher}"')
        pattern = rf"^(export (?:.* )?{name}=){re.escape(EXAMPLE[name])}(?=\s)"
        quoted = shlex.quote(value)
        text = re.sub(pattern, partial(_after, quoted), text, flags=re.MULTILINE)
    return text
