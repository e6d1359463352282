"""The page about the faults: a generated section with the rows of a run, in a text that is written by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from table import cell, markdown

if TYPE_CHECKING:
    from table import Group

BEGIN, END = "<!-- generated: the faults, by python tests/faults -->", "<!-- end generated -->"


def page(text: str, groups: list[Group]) -> str:
    """Return the page with the rows of these groups in its generated section."""
    section = f"{BEGIN}\n\n{_summary(groups)}\n\n{markdown(groups)}\n{END}"
    if BEGIN not in text:
        return section + "\n"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: section, text, flags=re.DOTALL)


def names(text: str) -> dict[str, list[str]]:
    """Return the first cells of the tables of a page, by the headings above them."""
    parts = re.split(r"^### (.+)$", text.partition(BEGIN)[2], flags=re.MULTILINE)[1:]
    return {
        title: re.findall(r"^\| (?!Fault \||--- \|)(.*?) (?<!\\)\| ", part, re.MULTILINE)
        for title, part in zip(parts[::2], parts[1::2], strict=True)
    }


def _summary(groups: list[Group]) -> str:
    lines = ["| Group | Faults | Promises kept |", "| --- | --- | --- |"]
    lines += [
        f"| {cell(group.title)} | {len(group.rows)} | {sum(row.held for row in group.rows)} |" for group in groups
    ]
    rows = [row for group in groups for row in group.rows]
    return "\n".join([*lines, f"| All | {len(rows)} | {sum(row.held for row in rows)} |"])
