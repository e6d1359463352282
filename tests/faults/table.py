"""The table of faults: a case is injected, a row is what was promised and what was seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Case(Protocol):
    """A fault before it is injected."""

    @property
    def name(self) -> str:
        """What is injected."""

    @property
    def promise(self) -> str:
        """What is promised."""


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


class Kind(NamedTuple):
    """How the faults of one group are made, and how they are injected and judged."""

    cases: Callable[[], Iterable[Case]]
    judged: Callable[[str, list[Any]], Group]

    def run(self, title: str, sample: int = 0) -> Group:
        """Inject the faults, or about so many of them; return their rows."""
        cases = list(self.cases())
        if sample:
            cases = cases[:: max(1, -(-len(cases) // sample))]
        return self.judged(title, cases)


def markdown(groups: list[Group]) -> str:
    """Return the tables as Markdown."""
    parts = []
    for group in groups:
        lines = [f"### {group.title}", "", f"{len(group.rows)} faults. {group.measured}".strip(), ""]
        lines += ["| Fault | Promise | Observed | |", "| --- | --- | --- | --- |"]
        for row in group.rows:
            cells = (row.fault, row.promise, row.observed, "held" if row.held else "**broken**")
            lines.append("| " + " | ".join(map(cell, cells)) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def cell(text: str) -> str:
    """Return a text that is one cell of a table, whatever it contains."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text.replace("\n", " "))
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "'")
