"""The page of a fleet: one row for each server, and the state and sparklines of the selected one below."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm_sidecar.tools.top.drawing import Text, cut_line, fit, joined, sparkline, width_of, wrapped
from vllm_sidecar.tools.top.families import FAMILIES, Family, combined
from vllm_sidecar.tools.top.figures import Unit, figure
from vllm_sidecar.tools.top.servers import SEVERITIES
from vllm_sidecar.tools.top.view import NAME, STATE, Page, Stop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.tools.top.drawing import Glyphs, Line, Trail
    from vllm_sidecar.tools.top.servers import Place, Server
    from vllm_sidecar.tools.top.view import View

WIDTHS = {"kv": 5, "preempted": 5, "running": 5, "hits": 5}
"""Cells of columns, with a blank; others have six."""
_SACRIFICED = ("prompt", "preempted", "hits", "itl", "queue", "kv", "running", "ttft", "waiting")
"""Columns in the order in which they are left out of a narrow terminal."""
_DRAWN = ("output", "waiting", "ttft", "kv", "itl", "queue", "running", "hits", "prompt", "preempted")
"""Columns in the order in which they have a sparkline in a wide one."""
_SPARK = 9
_STATE_WIDTH = 15
_LEAST_NAME, _MOST_NAME = 12, 40
_LEAST_TEXT, _MOST_TEXT = 24, 64
TALL = 18
"""Lines of a terminal that has room for the sparklines of the selected server."""


class Layout(NamedTuple):
    """The columns of a width."""

    state: int
    name: int
    families: Sequence[Family]
    drawn: frozenset[str]
    """Families with a sparkline."""
    text: int
    """Cells of the state's sentence; 0 for none."""


def layout(width: int, longest: int, *, sparklines: bool = False) -> Layout:
    """Choose the columns for a width, and for the longest name of a server."""
    families = list(FAMILIES)
    state = _STATE_WIDTH if width >= 90 else 13
    name = max(_LEAST_NAME, min(longest, _MOST_NAME))

    def left() -> int:
        return width - state - 1 - name - sum(map(_width, families))

    for key in _SACRIFICED:
        if left() >= 0:
            break
        if key == "preempted":  # before any other family is left out, names are cut
            name = max(_LEAST_NAME, name + min(0, left()))
        if left() < 0:
            families = [family for family in families if family.key != key]
    name = max(_LEAST_NAME, name + min(0, left()))
    drawn: set[str] = set()
    text = left() if left() >= _LEAST_TEXT else 0
    if sparklines and text >= 2 * _LEAST_TEXT:
        text = min(_MOST_TEXT, text // 2)
    for key in _DRAWN if sparklines else ():
        if left() - text - _SPARK * (len(drawn) + 1) >= 0:
            drawn.add(key)
    return Layout(state, name, families, frozenset(drawn), text)


def _width(family: Family) -> int:
    return WIDTHS.get(family.key, 6)


def ordered(servers: Sequence[Server], view: View) -> list[Server]:
    """Return the servers in the order of the view; those without the value are last."""
    named = sorted(servers, key=lambda server: server.name, reverse=view.sort == NAME and view.reverse)
    if view.sort == NAME:
        return named
    if view.sort == STATE:
        worst = 1 if view.reverse else -1
        return sorted(named, key=lambda server: worst * SEVERITIES.index(server.state.severity))
    known = [server for server in named if server.values[view.sort] is not None]
    known.sort(key=lambda server: server.values[view.sort] or 0.0, reverse=not view.reverse)
    return known + [server for server in named if server.values[view.sort] is None]


def fleet_page(
    servers: Sequence[Server], trails: Mapping[Place, Trail], view: View, now: float, size: tuple[int, int],
    glyphs: Glyphs,
) -> Page:  # fmt: skip
    """Return the page for a size of width and height."""
    width, height = size
    rows = ordered(servers, view)
    columns = layout(width, max((width_of(server.name) for server in rows), default=0), sparklines=bool(trails))
    stops = [Stop(line, str(server.place), server.place) for line, server in enumerate(rows)]
    ids = [stop.id for stop in stops]
    cursor = ids.index(view.selected) if view.selected in ids else 0 if ids else None
    chosen = None if cursor is None else rows[cursor]
    body = [
        _row(server, trails.get(server.place, ()), columns, now, glyphs, chosen=server is chosen) for server in rows
    ]
    head = [summary(servers, width, glyphs), _header(columns, view, glyphs)]
    foot = _panel(chosen, trails, now, width, height, glyphs) if chosen else []
    return Page(head, body, foot, stops, cursor)


def summary(servers: Sequence[Server], width: int, glyphs: Glyphs) -> Line:
    """Return the line about all servers: how many in which state, and their load together."""
    if not servers:
        return cut_line([Text("waiting for the first answers")], width, glyphs)
    parts: list[Text] = [Text(f"{len(servers)} server{'s' if len(servers) != 1 else ''}", "bold")]
    for severity, words in (("bad", "bad"), ("watch", "to watch"), ("fine", "fine")):
        count = sum(server.state.severity == severity for server in servers)
        if count:
            parts += [Text(glyphs.dot), Text(f"{count} {words}", severity)]
    whole = combined([server.values for server in servers])
    load = joined(
        [
            f"{figure(whole['running'], Unit.COUNT)} running",
            f"{figure(whole['waiting'], Unit.COUNT)} waiting",
            f"{figure(whole['output'], Unit.RATE)} tokens/s",
        ],
        glyphs,
    )
    return cut_line([*parts, Text(glyphs.dot + load)], width, glyphs)


def _header(columns: Layout, view: View, glyphs: Glyphs) -> Line:
    arrow = glyphs.up if view.reverse else glyphs.down

    def text(name: str, key: str, width: int, *, right: bool) -> Text:
        chosen = key == view.sort
        return Text(fit(f"{name}{arrow if chosen else ''}", width, glyphs, right=right), "sorted" if chosen else "head")

    found = [text("STATE", STATE, columns.state, right=False), Text(" ", "head")]
    found.append(text("SERVER", NAME, columns.name, right=False))
    for family in columns.families:
        found.append(text(family.header, family.key, _width(family), right=True))
        if family.key in columns.drawn:
            found.append(Text(" " * _SPARK, "head"))
    if columns.text:
        found.append(Text(fit("  ", columns.text, glyphs), "head"))
    return tuple(found)


def _row(server: Server, trail: Trail, columns: Layout, now: float, glyphs: Glyphs, *, chosen: bool) -> Line:
    plain = "selected" if chosen else ""
    severity = server.state.severity
    found = [
        Text(fit(server.state.words, columns.state, glyphs), f"{severity}_selected" if chosen else severity),
        Text(" " + fit(server.name, columns.name, glyphs), plain),
    ]
    for family in columns.families:
        text = figure(server.values[family.key], family.unit)
        found.append(Text(fit(text, _width(family), glyphs, right=True), plain))
        if family.key in columns.drawn:
            drawn = sparkline(trail, family.key, now, _SPARK - 1, glyphs, top=top_of(family))
            found.append(Text(" " + drawn, plain or "spark"))
    if columns.text:
        found.append(Text("  " + fit(server.state.text, columns.text - 2, glyphs), plain or "dim"))
    return tuple(found)


def top_of(family: Family) -> float | None:
    """Return the value of the highest bar: 1 for ratios, otherwise (None) the largest value."""
    return 1.0 if family.unit is Unit.RATIO else None


def _panel(
    server: Server, trails: Mapping[Place, Trail], now: float, width: int, height: int, glyphs: Glyphs
) -> list[Line]:
    """Return the state of the selected server in words and, in a terminal that is tall enough, its sparklines."""
    name = cut_line([Text(f"{glyphs.rule * 2} {server.name} ")], width, glyphs)[0].text
    lines: list[Line] = [(Text(name + glyphs.rule * (width - width_of(name)), "dim"),)]
    words = wrapped(server.state.text, width, 2, glyphs)
    lines += [(Text(text, server.state.severity),) for text in words]
    if height < TALL or not server.engines:
        return lines
    trail = trails.get(server.place, ())
    half = len(FAMILIES) // 2
    for left, right in zip(FAMILIES[:half], FAMILIES[half:], strict=True):
        lines.append((*_gauge(left, server, trail, now, width // 2 - 1, glyphs), Text("  "),
                      *_gauge(right, server, trail, now, width - width // 2 - 1, glyphs)))  # fmt: skip
    return lines


def _gauge(family: Family, server: Server, trail: Trail, now: float, width: int, glyphs: Glyphs) -> Line:
    drawn = sparkline(trail, family.key, now, max(0, width - 26), glyphs, top=top_of(family))
    return (
        Text(fit(family.title, 18, glyphs)),
        Text(fit(figure(server.values[family.key], family.unit), 7, glyphs, right=True), "bold"),
        Text(" " + drawn, "spark"),
    )
