"""Files and folders that documents name in code marks exist, so that a reader finds what they point at."""

from __future__ import annotations

import re

from markdown_files import ROOT, documents

FOLDERS = ("exporter", "rules", "dashboards", "docs", "tests", "deploy", ".ci", ".github")
NAMED = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|yaml|yml|json|c|prom|toml|tmpl)|(?:[a-z_]+/)+)`")
OF_USERS = re.compile(
    r"profile\.json|metrics\.prom|inference-perf(-prefix)?\.yaml|mine\.yaml|thresholds\.yaml|metrics\.md|.*/etc/.*"
)
"""Files that readers have or make themselves, and names of pages that stand for their links."""
HISTORY = "CHANGELOG.md"
"""Names what was there once."""


def existing() -> list[str]:
    """Every file and folder of the repository, as a path that begins with a slash; folders end with one."""
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    paths += [*ROOT.iterdir()]
    return [f"/{path.relative_to(ROOT)}" + "/" * path.is_dir() for path in paths]


def test_every_file_and_folder_that_a_document_names_exists() -> None:
    known = existing()
    missing = [
        f"{document.relative_to(ROOT)}: {name}"
        for document in documents()
        if document.name != HISTORY
        for name in sorted(set(NAMED.findall(document.read_text())))
        if not OF_USERS.fullmatch(name) and not any(path.endswith(f"/{name}") for path in known)
    ]
    assert missing == []
