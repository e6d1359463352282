"""All values and a view -> the lines of the whole terminal: title, page, keys."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vllm_sidecar.logs import PROGRAM
from vllm_sidecar.tools.top.drawing import Text, cut_line, fit, width_of
from vllm_sidecar.tools.top.fleet_page import fleet_page
from vllm_sidecar.tools.top.help_page import help_page
from vllm_sidecar.tools.top.server_page import server_page
from vllm_sidecar.tools.top.view import room, visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_sidecar.tools.top.drawing import Glyphs, Line, Trail
    from vllm_sidecar.tools.top.servers import Engine, Place, Server
    from vllm_sidecar.tools.top.view import Page, View

Size = tuple[int, int]
"""Columns and lines of the terminal."""
_FLEET_KEYS = (("Enter", "open"), ("s", "order"), ("r", "reverse"), ("p", "pause"), ("?", "help"), ("q", "quit"))
_SERVER_KEYS = (("Esc", "all servers"), ("Enter", "engine"), ("p", "pause"), ("?", "help"), ("q", "quit"))
_HELP_KEYS = (("Esc", "close"), ("q", "quit"))


@dataclass(frozen=True)
class Shown:
    """All values at one time."""

    at: float
    """Unix time."""
    servers: Sequence[Server]
    trails: Mapping[Place, Trail] = field(default_factory=dict)
    """Values of the last minutes of each server."""
    opened: Trail = ()
    """Those of the server or engine that is opened."""
    every: float = 1.0
    """Seconds between two refreshes."""

    def server(self, place: Place | None) -> Server | None:
        """Return the server at a place."""
        return next((server for server in self.servers if server.place == place), None)

    def engine(self, view: View) -> Engine | None:
        """Return the engine that a view shows; None for all of the server."""
        server = self.server(view.place)
        return next((each for each in server.engines if each.labels == view.engine), None) if server else None


def page_of(shown: Shown, view: View, size: Size, glyphs: Glyphs) -> Page:
    """Return the page that a view shows; the fleet if its server has disappeared."""
    width, height = size
    if view.help:
        return help_page(width, glyphs)
    server = shown.server(view.place)
    if server is not None:
        return server_page(server, shown.opened, view, shown.at, width, glyphs)
    return fleet_page(shown.servers, shown.trails, view, shown.at, (width, height), glyphs)


def body_height(page: Page, size: Size) -> int:
    """Return the visible lines of a page's body: without title, head, foot and keys."""
    return room(page, size[1] - 2)


def lines_of(shown: Shown, view: View, size: Size, glyphs: Glyphs) -> list[Line]:
    """Return as many lines as the terminal has."""
    width, height = size
    page = page_of(shown, view, size, glyphs)
    title, keys = _title(shown, view, width, glyphs), _keys(shown, view, width, glyphs)
    return [title, *visible(view, page, max(0, height - 2)), keys][:height]


def _title(shown: Shown, view: View, width: int, glyphs: Glyphs) -> Line:
    server = shown.server(view.place)
    left = f"{PROGRAM} top" + (f"  {server.name}" if server and not view.help else "")
    every = f"every {shown.every:.0f} s  " if shown.every >= 1.5 else ""
    clock = time.strftime("%H:%M:%S", time.localtime(shown.at))
    right = f"{'PAUSED  ' if view.paused else ''}{every}{clock}"
    return (Text(fit(left, max(0, width - width_of(right) - 1), glyphs) + f" {right}"[:width], "title"),)


def _keys(shown: Shown, view: View, width: int, glyphs: Glyphs) -> Line:
    server = shown.server(view.place)
    keys: Sequence[tuple[str, str]] = _HELP_KEYS if view.help else _SERVER_KEYS if server else _FLEET_KEYS
    if server and (view.engine is not None or len(server.engines) < 2):
        keys = tuple(
            (key, "the server" if key == "Esc" and view.engine else words) for key, words in keys if key != "Enter"
        )
    texts = [text for key, words in keys for text in (Text(key, "bold"), Text(f" {words}   ", "dim"))]
    return cut_line(texts, width, glyphs)
