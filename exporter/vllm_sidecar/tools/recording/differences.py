"""Two successive bodies of a server -> what changed, and back, byte for byte.

A body differs from the one a second before in some dozens of numbers, most of them counters that grew by a whole
number. The buckets of a histogram grow by the same number, so increments compress much better than values.
"""

from __future__ import annotations

import json
import re
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, NamedTuple

from prometheus_client.utils import floatToGoString

Lines = list[str]
MOST_LINES = 50_000
"""A longer body is stored whole when its lines change: matching its lines would take too long."""
_WHOLE = re.compile(r"(?:0|[1-9]\d{0,14})(?:\.0)?|\d(?:\.\d{1,14})?e\+(?:0[6-9]|1[0-4])")


class Difference(NamedTuple):
    """The steps from one body to the next.

    `edits` are (first, last, lines): lines of the earlier body from `first` up to `last` are replaced. `changes` are
    pairs, flat: how many lines after the previous change, and the increment (int) or the new value (str) at the end of
    that line.
    """

    edits: list[tuple[int, int, Lines]]
    changes: list[int | str]


def lines_of(body: bytes) -> Lines:
    """Split a body into its lines; bytes that are not UTF-8 survive."""
    return body.decode("utf-8", "surrogateescape").split("\n")


def body_of(lines: Lines) -> bytes:
    """Join lines to a body."""
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def difference(before: Lines, after: Lines) -> Difference | None:
    """Return what changed between two bodies; None if the whole body is the shorter description."""
    edits = _edits(before, after)
    if edits is None:
        return None
    same = _edited(before, edits)
    changes: list[int | str] = []
    last = -1
    for number, (old, new) in enumerate(zip(same, after, strict=True)):
        if old != new:
            changes += [number - last - 1, _change(_value(old), _value(new))]
            last = number
    return Difference(edits, changes)


def applied(before: Lines, changed: Difference) -> Lines:
    """Return the later body.

    Raises:
        ValueError: The difference does not fit this body.
    """
    lines = _edited(before, changed.edits)
    steps = iter(changed.changes)
    number = -1
    for skipped, value in zip_longest(steps, steps):
        if not isinstance(skipped, int) or skipped < 0 or value is None:
            raise ValueError("a change without a place or a value")
        number += skipped + 1
        if number >= len(lines):
            raise ValueError(f"a change in line {number + 1} of {len(lines)}")
        old = _value(lines[number])
        new = value if isinstance(value, str) else _grown(old, value)
        lines[number] = lines[number][: len(lines[number]) - len(old)] + new
    return lines


def _head(line: str) -> str:
    """Return a line up to its value; a comment has no value."""
    return line if line.startswith("#") else line[: len(line) - len(_value(line))]


def _value(line: str) -> str:
    return line.rpartition(" ")[2]


def _edits(before: Lines, after: Lines) -> list[tuple[int, int, Lines]] | None:
    different = [(old, new) for old, new in zip(before, after, strict=False) if old != new]
    if len(before) == len(after) and all(_head(old) == _head(new) for old, new in different):
        return []
    old, new = list(map(_head, before)), list(map(_head, after))
    if max(len(old), len(new)) > MOST_LINES:
        return None
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    edits = [(first, last, after[start:end]) for kind, first, last, start, end in codes if kind != "equal"]
    return edits if sum(len(lines) for _, _, lines in edits) <= len(after) // 2 else None


def _edited(before: Lines, edits: list[tuple[int, int, Lines]]) -> Lines:
    lines = list(before)
    for first, last, replacement in reversed(edits):
        if not 0 <= first <= last <= len(lines):
            raise ValueError(f"an edit of the lines {first} to {last} of {len(lines)}")
        lines[first:last] = replacement
    return lines


def _change(old: str, new: str) -> int | str:
    """Return the increment between two values, or the new value where that would not restore its text."""
    if not (_WHOLE.fullmatch(old) and _WHOLE.fullmatch(new)):
        return new
    increment = int(float(new)) - int(float(old))
    return increment if _grown(old, increment) == new else new


def _grown(old: str, increment: int) -> str:
    """Write a value that grew, in the form of the old one: as Python clients write floats, or as an integer."""
    if not _WHOLE.fullmatch(old):
        raise ValueError("an increment of a value that is not a whole number")
    value = int(float(old)) + increment
    return str(value) if old.isdigit() else str(floatToGoString(float(value)))  # type: ignore[no-untyped-call]


def as_json(changed: Difference) -> dict[str, Any]:
    """Return a difference as the members of a line."""
    return {"edits": changed.edits, "changes": changed.changes} if changed.edits else {"changes": changed.changes}


def from_json(line: dict[str, Any]) -> Difference:
    """Read the members of a line.

    Raises:
        ValueError: They are not a difference.
    """
    edits, changes = line.get("edits", []), line.get("changes")
    good = isinstance(changes, list) and all(isinstance(each, int | str) for each in changes)
    if not (good and isinstance(edits, list) and all(map(_is_edit, edits))):
        raise ValueError(f"not a difference: {json.dumps(line)[:80]}")
    return Difference([(first, last, lines) for first, last, lines in edits], list(changes or ()))


def _is_edit(edit: object) -> bool:
    if not isinstance(edit, list) or len(edit) != 3:
        return False
    first, last, lines = edit
    numbers = isinstance(first, int) and isinstance(last, int)
    return numbers and isinstance(lines, list) and all(isinstance(each, str) for each in lines)
