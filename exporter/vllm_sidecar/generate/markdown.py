"""Texts as Markdown."""

from __future__ import annotations


def cell(text: str) -> str:
    """Write a text as the cell of a table: in one line, escaping what would end the cell or begin a tag."""
    return " ".join(text.replace("|", r"\|").replace("<", "&lt;").split())
