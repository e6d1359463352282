"""Links between documents lead to files and headings that exist, also where they are absolute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from markdown_files import ROOT, documents, links, problem

if TYPE_CHECKING:
    from pathlib import Path


def test_every_link_into_the_repository_leads_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {link}: {why}"
        for document in documents()
        for link in links(document)
        if (why := problem(document, link))
    ]
    assert broken == []


def test_the_readme_has_no_relative_link_for_other_sites_show_it_too() -> None:
    assert [link for link in links(ROOT / "README.md") if "://" not in link] == []


@pytest.mark.parametrize(
    "link",
    ["none.md", "#none", "other.md#none", "picture.svg#none"],
)
def test_a_broken_link_is_found(link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("markdown_files.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# Heading\n")
    (tmp_path / "picture.svg").write_text("")
    document = tmp_path / "one.md"
    document.write_text(f"# One\n[text]({link}) [good](#one) [good](other.md#heading)\n```\n[no](link.md)\n```\n")

    assert [each for each in links(document) if problem(document, each)] == [link]


@pytest.mark.parametrize("page", ["blob/main/none.md", "tree/main/none", "blob/main/README.md#none"])
def test_a_broken_absolute_link_to_the_repository_is_found(page: str) -> None:
    assert problem(ROOT / "README.md", f"https://github.com/vllm-sidecar/vllm-sidecar/{page}")
