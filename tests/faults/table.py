"""A row of the table of faults: what was injected, what is promised, and what was seen."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One injection into the running program."""

    fault: str
    promise: str
    observed: str
    held: bool


class Group(NamedTuple):
    """The rows of one kind of fault, and what was measured over all of them."""

    title: str
    rows: list[Row]
    measured: str = ""


def markdown(groups: list[Group]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for group in groups:
        lines = [f"## {group.title}", "", f"{len(group.rows)} faults. {group.measured}".strip(), ""]
        lines += ["| Fault | Promise | Observed | |", "| --- | --- | --- | --- |"]
        for row in group.rows:
            cells = (row.fault, row.promise, row.observed, "held" if row.held else "**broken**")
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in text.replace("\n", " "))
    return plain.replace("|", "\\|").replace("<", "&lt;")
