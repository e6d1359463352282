"""The page that is shown, its order and its cursor, which keys change. A key and a page -> the next view; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.tools.top.families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vllm_sidecar.tools.top.drawing import Line
    from vllm_sidecar.tools.top.servers import Place

STATE, NAME = "state", "server"
SORTS = (STATE, NAME, *(family.key for family in FAMILIES))
"""Orders of the servers: the worst state, the name, or the largest value first."""


class Stop(NamedTuple):
    """A line at which the cursor can be, and what Enter opens there."""

    line: int
    """Index in the body of the page."""
    id: str
    opens: Place | str
    """A server, or an engine by its labels."""


@dataclass(frozen=True)
class Page:
    """The lines of a page: the head and the foot are always visible, the body scrolls."""

    head: Sequence[Line]
    body: Sequence[Line]
    foot: Sequence[Line] = ()
    stops: Sequence[Stop] = ()
    cursor: int | None = None
    """Index of the stop with the cursor; None for none."""


@dataclass(frozen=True)
class View:
    """The page that is shown: the fleet, a server, one of its engines, or the help."""

    place: Place | None = None
    """The server that is shown; None for the fleet."""
    engine: str | None = None
    """The labels of its engine that is shown; None for all engines."""
    help: bool = False
    paused: bool = False
    sort: str = STATE
    reverse: bool = False
    selected: str = ""
    """The stop that keys moved the cursor to; empty before."""
    offset: int = 0
    """The first visible line of a body without stops."""
    back: str = ""
    """The stop to return to in the page above."""
    ended: bool = False


def _paused(view: View) -> View:
    return replace(view, paused=not view.paused)


def _helped(view: View) -> View:
    return replace(view, help=not view.help, offset=0)


def _reversed(view: View) -> View:
    return replace(view, reverse=not view.reverse)


_SWITCHES: Mapping[str, Callable[[View], View]] = {
    "p": _paused, " ": _paused, "r": _reversed, "?": _helped, "h": _helped
}  # fmt: skip
_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1}
_JUMPS = {"home": -1_000_000, "end": 1_000_000}


def pressed(view: View, key: str, page: Page, height: int) -> View:
    """Return the view after a key, on a page whose body has `height` visible lines."""
    if key == "q":
        return replace(view, ended=True)
    if key in _SWITCHES:
        return _SWITCHES[key](view)
    if key in ("s", ">"):
        return replace(view, sort=_after(view.sort, 1))
    if key in ("S", "<"):
        return replace(view, sort=_after(view.sort, -1))
    if key in ("enter", "right", "l"):
        return _opened(view, page)
    if key in ("escape", "left", "backspace"):
        return _closed(view)
    steps = {**_STEPS, **_JUMPS, "page_up": -height, "page_down": height}
    return _moved(view, page, steps[key], height) if key in steps else view


def _after(sort: str, step: int) -> str:
    return SORTS[(SORTS.index(sort) + step) % len(SORTS)]


def _opened(view: View, page: Page) -> View:
    if page.cursor is None:
        return view
    stop = page.stops[page.cursor]
    if isinstance(stop.opens, str):
        return replace(view, engine=stop.opens, selected="", offset=0)
    return replace(view, place=stop.opens, engine=None, selected="", offset=0, back=stop.id)


def _closed(view: View) -> View:
    if view.help:
        return replace(view, help=False)
    if view.engine is not None:
        return replace(view, engine=None, selected=view.engine, offset=0)
    return replace(view, place=None, selected=view.back, offset=0)


def _moved(view: View, page: Page, steps: int, height: int) -> View:
    if not page.stops:
        last = max(0, len(page.body) - height)
        return replace(view, offset=min(last, max(0, view.offset + steps)))
    at = -1 if page.cursor is None else page.cursor
    return replace(view, selected=page.stops[min(len(page.stops) - 1, max(0, at + steps))].id)


def visible(view: View, page: Page, height: int) -> Sequence[Line]:
    """Return the lines of a page that fit the height; the cursor is among them."""
    head = page.head[:height]
    foot = page.foot[: max(0, height - len(head) - 1)]
    room = max(0, height - len(head) - len(foot))
    line = None if page.cursor is None else page.stops[page.cursor].line
    first = view.offset if line is None else max(0, line - room + 1)
    first = min(first, max(0, len(page.body) - room))
    body = page.body[first : first + room]
    return [*head, *body, *[()] * (room - len(body)), *foot]


def room(page: Page, height: int) -> int:
    """Return how many lines of the body are visible."""
    return max(1, height - len(page.head) - len(page.foot))
