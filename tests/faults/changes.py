"""Changes of the recorded body, and answers with them."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING

from upstream import BODY, http

if TYPE_CHECKING:
    from collections.abc import Callable

    from upstream import Answer

    Change = Callable[[str], str]
    Next = Callable[[], Answer]

ENGINE = 'engine="0",model_name="tiny"'


def always(answer: Answer) -> Next:
    """Return a function that gives one answer each time."""
    return lambda: answer


def changed(change: Change) -> Next:
    """Return a function that answers with a changed body."""
    return lambda: http(change(BODY.text()))


def in_turns(*changes: Change) -> Next:
    """Return a function that answers with one changed body after the other."""
    cycle = itertools.cycle(changes)
    return lambda: http(next(cycle)(BODY.text()))


def added(lines: str) -> Next:
    """Return a function that answers with lines added to the body."""
    return changed(lambda text: text + lines + "\n")


def with_value(name: str, value: str) -> Next:
    """Return a function that answers with one value for all samples whose name matches."""
    return changed(valued(name, lambda _: value))


def valued(name: str, new: Callable[[str], object]) -> Change:
    """Return a change of the values of all samples whose name matches, from what they are."""
    pattern = re.compile(rf"^({name}(?:\{{[^\n]*\}})?) (\S+)$", re.MULTILINE)
    return lambda text: pattern.sub(lambda match: f"{match[1]} {new(match[2])}", text)


def without(pattern: str) -> Change:
    """Return a change that removes lines."""
    compiled = re.compile(pattern)
    return lambda text: "\n".join(line for line in text.split("\n") if not compiled.search(line))


def same(text: str) -> str:
    """Return the body as it is."""
    return text
