"""The page of one server, or of one of its engines: state, the families with sparklines, GPUs, adapters, engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_sidecar.tools.top.drawing import SPAN, Text, cut_line, fit, joined, sparkline, width_of, wrapped
from vllm_sidecar.tools.top.families import FAMILIES
from vllm_sidecar.tools.top.figures import ABSENT, Unit, figure, gibibytes
from vllm_sidecar.tools.top.fleet_page import WIDTHS, layout, top_of
from vllm_sidecar.tools.top.view import Page, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vllm_sidecar.tools.top.drawing import Glyphs, Line, Trail
    from vllm_sidecar.tools.top.families import Values
    from vllm_sidecar.tools.top.servers import Engine, Gpus, Server
    from vllm_sidecar.tools.top.view import View

_TITLE, _VALUE, _MOST_NOTE = 18, 7, 46
_MOST_MISSING = 8
"""Missing signals that are listed."""


def server_page(server: Server, trail: Trail, view: View, now: float, width: int, glyphs: Glyphs) -> Page:
    """Return the page of a server, or of the engine that the view names.

    `trail` has the values of the last minutes of what is shown.
    """
    engine = next((each for each in server.engines if each.labels == view.engine), None)
    state, values = (engine.state, engine.values) if engine else (server.state, server.values)
    facts = [f"engine {engine.number}", *server.facts] if engine else server.facts
    head: list[Line] = [(Text(text, state.severity),) for text in wrapped(state.text, width, 3, glyphs)]
    if facts:
        head.append(cut_line([Text(joined(facts, glyphs), "dim")], width, glyphs))
    body = (
        [] if not server.engines else list(_families(server, values, trail, now, width, glyphs, notes=engine is None))
    )
    if engine is None:
        body += _gpus(server.gpus, width, glyphs)
        body += _adapters(server, width, glyphs)
        body += _missing(server, width, glyphs)
    stops: list[Stop] = []
    if engine is None and len(server.engines) > 1:
        lines, stops = _engines(server.engines, view, width, glyphs, first=len(body))
        body += lines
    cursor = next((number for number, stop in enumerate(stops) if stop.id == view.selected), None)
    return Page(head, body, (), stops, cursor)


def _families(
    server: Server, values: Values, trail: Trail, now: float, width: int, glyphs: Glyphs, *, notes: bool
) -> Iterator[Line]:
    longest = max(map(len, server.notes.values()), default=0) if notes else 0
    note = min(longest, _MOST_NOTE, max(0, (width - _TITLE - _VALUE) // 2))
    bars = max(0, width - _TITLE - _VALUE - 1 - (note + 2 if note else 0))
    past = f"last {SPAN / 60.0:.0f} min"
    yield (Text(fit(fit("LAST MINUTE", _TITLE + _VALUE + 1, glyphs) + past.upper(), width, glyphs), "head"),)
    for family in FAMILIES:
        more = server.notes.get(family.key, "") if notes else ""
        yield (
            Text(fit(family.title, _TITLE, glyphs)),
            Text(fit(figure(values[family.key], family.unit), _VALUE, glyphs, right=True), "bold"),
            Text(" " + sparkline(trail, family.key, now, bars, glyphs, top=top_of(family)), "spark"),
            Text("  " + fit(more, note, glyphs).rstrip() if note and more else "", "dim"),
        )


def _gpus(gpus: Gpus | None, width: int, glyphs: Glyphs) -> Iterator[Line]:
    if gpus is None:
        return
    if not gpus.devices:
        yield cut_line([Text(f"GPUs are not read: {gpus.unknown or 'none was found'}", "dim")], width, glyphs)
        return
    yield (Text(fit("GPU    BUSY       MEMORY    POWER  TEMP", width, glyphs), "head"),)
    for gpu in gpus.devices:
        watts = ABSENT if gpu.watts is None else f"{gpu.watts:.0f} W"
        celsius = ABSENT if gpu.celsius is None else f"{gpu.celsius:.0f} C"
        cells = (
            fit(gpu.number, 5, glyphs),
            fit(figure(gpu.utilization, Unit.RATIO), 6, glyphs, right=True),
            fit(gibibytes(gpu.memory_used, gpu.memory_total), 13, glyphs, right=True),
            fit(watts, 9, glyphs, right=True),
            fit(celsius, 6, glyphs, right=True),
        )
        style = "bad" if gpu.trouble == "lost" else "watch"
        yield cut_line([Text("".join(cells)), Text(f"  {gpu.trouble}", style)], width, glyphs)


def _adapters(server: Server, width: int, glyphs: Glyphs) -> Iterator[Line]:
    if not server.adapters and not server.slots:
        return
    yield (Text(fit(joined(["LORA ADAPTERS", server.slots], glyphs), width, glyphs), "head"),)
    shown = ", ".join(f"{each.name} {each.use}" for each in server.adapters) or "none has requests"
    yield from ((Text(text),) for text in wrapped(shown, width, 3, glyphs))


def _missing(server: Server, width: int, glyphs: Glyphs) -> Iterator[Line]:
    if server.missing:
        names = ", ".join(server.missing[:_MOST_MISSING])
        more = len(server.missing) - _MOST_MISSING
        words = f"not exposed by this server: {names}{f' and {more} more' if more > 0 else ''}"
        yield from ((Text(text, "dim"),) for text in wrapped(words, width, 2, glyphs))


def _engines(
    engines: Sequence[Engine], view: View, width: int, glyphs: Glyphs, first: int
) -> tuple[list[Line], list[Stop]]:
    """Return the table of engines and its stops; `first` is the index of its first line in the body."""
    columns = layout(width, max(width_of(engine.name) for engine in engines))
    lines: list[Line] = [
        (
            Text(fit("STATE", columns.state, glyphs) + " " + fit("ENGINE", columns.name, glyphs), "head"),
            *(Text(fit(each.header, WIDTHS.get(each.key, 6), glyphs, right=True), "head") for each in columns.families),
        )
    ]
    stops = []
    for number, engine in enumerate(engines, first + 1):
        chosen = view.selected == engine.labels
        plain = "selected" if chosen else ""
        severity = engine.state.severity
        cells = "".join(
            fit(figure(engine.values[each.key], each.unit), WIDTHS.get(each.key, 6), glyphs, right=True)
            for each in columns.families
        )
        lines.append(
            (
                Text(fit(engine.state.words, columns.state, glyphs), f"{severity}_selected" if chosen else severity),
                Text(" " + fit(engine.name, columns.name, glyphs) + cells, plain),
            )
        )
        stops.append(Stop(number, engine.labels, engine.labels))
    return lines, stops
