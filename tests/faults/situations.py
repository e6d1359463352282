"""Faults of which each has a program of its own: what is done to it is a function that returns what was seen."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from table import Group, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

AT_ONCE = 4
PATIENCE = 60.0
"""Seconds until a promise is broken: a busy machine takes long to start programs."""


class BrokenError(Exception):
    """A promise was not kept; the text is what was seen."""


@dataclass(frozen=True)
class Situation:
    """What is done to the program, and what is promised."""

    name: str
    promise: str
    inject: Callable[[], str]
    """Returns what was seen; raises if the promise is broken."""


def expect(seen: str, *, held: bool) -> str:
    """Return what was seen if the promise was kept.

    Raises:
        BrokenError: It was not.
    """
    if not held:
        raise BrokenError(seen)
    return seen


def until(seen: Callable[[], str], wanted: str, seconds: float = PATIENCE) -> str:
    """Wait until a text contains another one; return that one.

    Raises:
        BrokenError: It does not within some seconds.
    """
    end = time.monotonic() + seconds
    while wanted not in (text := seen()):
        if time.monotonic() > end:
            raise BrokenError(f"no {wanted} within {seconds:g} s: ...{text[-200:]}")
        time.sleep(0.1)
    return wanted


def judged(title: str, cases: Sequence[Situation]) -> Group:
    """Play all situations, a few at a time; return their rows."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Group(title, list(pool.map(_row, cases)))


def _row(case: Situation) -> Row:
    try:
        return Row(case.name, case.promise, case.inject(), held=True)
    except (BrokenError, AssertionError, OSError, subprocess.SubprocessError) as error:
        return Row(case.name, case.promise, f"{type(error).__name__}: {str(error)[-300:]}", held=False)
