"""The values of one time as plain text or JSON, for scripts and for terminals that cannot be drawn on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from vllm_sidecar.tools.top.fleet_page import fleet_page
from vllm_sidecar.tools.top.server_page import server_page
from vllm_sidecar.tools.top.view import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_sidecar.tools.top.drawing import Glyphs
    from vllm_sidecar.tools.top.pages import Shown
    from vllm_sidecar.tools.top.servers import Server
    from vllm_sidecar.tools.top.view import Page

_WIDEST_PAGE = 100
"""Columns of the page of one server, whose values would be far from their names on a wider one."""


def text(shown: Shown, width: int, glyphs: Glyphs) -> Iterator[str]:
    """Yield the lines: the page of the only server, otherwise the table and the states that are not fine in words."""
    if len(shown.servers) == 1:
        server, width = shown.servers[0], min(width, _WIDEST_PAGE)
        yield server.name
        yield from _plain(server_page(server, shown.opened, View(place=server.place), shown.at, width, glyphs))
        return
    yield from _plain(fleet_page(shown.servers, {}, View(), shown.at, (width, 0), glyphs))
    troubled = [server for server in shown.servers if server.state.severity != "fine"]
    if troubled:
        yield ""
    yield from (f"{glyphs.plain(server.name)}: {glyphs.plain(server.state.text)}" for server in troubled)


def _plain(page: Page) -> Iterator[str]:
    for line in (*page.head, *page.body):
        yield "".join(part.text for part in line).rstrip()


def as_json(shown: Shown) -> dict[str, object]:
    """Return plain values: states, the families of servers and engines in base units, adapters and GPUs."""
    return {"at": round(shown.at, 3), "servers": [_server(server) for server in shown.servers]}


def _server(server: Server) -> dict[str, object]:
    return {
        "server": server.name,
        "state": server.state._asdict(),
        "values": dict(server.values),
        "engines": [
            {
                "engine": engine.number,
                "model_name": engine.model,
                "state": engine.state._asdict(),
                "values": dict(engine.values),
            }
            for engine in server.engines
        ],
        "adapters": [each._asdict() for each in server.adapters],
        "gpus": None if server.gpus is None else asdict(server.gpus) | {
            "devices": [gpu._asdict() for gpu in server.gpus.devices]
        },
        "missing": list(server.missing),
    }  # fmt: skip
