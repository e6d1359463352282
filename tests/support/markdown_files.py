"""Markdown files of the repository: their links, the anchors of their headings, and their command blocks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from places import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPOSITORY = "https://github.com/vllm-sidecar/vllm-sidecar/"
RAW = "https://raw.githubusercontent.com/vllm-sidecar/vllm-sidecar/main/"
_LEFT_OUT = {".venv", ".git", ".demo", ".pytest_cache", "node_modules", "shared"}
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
_BLOCK = re.compile(r"^```.*?^```\n?", re.DOTALL | re.MULTILINE)
_RUNNABLE = re.compile(r"^<!-- runnable -->\n```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Command(NamedTuple):
    """A block of commands that works in a checkout, offline and within seconds."""

    document: Path
    text: str

    def __str__(self) -> str:
        """Name it by its document and its first line."""
        return f"{self.document.relative_to(ROOT)}: {self.text.splitlines()[0]}"


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    found = (path for path in ROOT.rglob("*.md") if not _LEFT_OUT.intersection(path.relative_to(ROOT).parts))
    return sorted(found)


def links(document: Path) -> list[str]:
    """The targets of all links and pictures of a document, as they are written."""
    text = re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", document.read_text()))
    return _LINK.findall(text)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", document.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(document: Path, link: str) -> str:
    """Say why a link leads nowhere; empty where it leads somewhere, or outside of the repository."""
    path, _, anchor = link.partition("#")
    if link.startswith(RAW):
        target = ROOT / path.removeprefix(RAW)
    elif link.startswith(REPOSITORY):
        target = _of_repository(path.removeprefix(REPOSITORY))
    elif "://" in link or link.startswith("mailto:"):
        return ""
    else:
        target = document.parent / path if path else document
    if not target.exists():
        return "there is no such file"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target)):
        return f"{target.relative_to(ROOT)} has no such heading"
    return ""


def _of_repository(path: str) -> Path:
    """Find the file of a page of the repository; its other pages, such as issues, are the repository itself."""
    kind, _, rest = path.partition("/")
    return ROOT / rest.partition("/")[2] if kind in ("blob", "tree") else ROOT


def runnable(document: Path) -> Iterator[Command]:
    """The command blocks of a document that are marked as runnable."""
    for text in _RUNNABLE.findall(document.read_text()):
        yield Command(document, text)
