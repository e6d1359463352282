"""The keys of `top`: a key on a page -> the next view."""

from __future__ import annotations

from vllm_sidecar.tools.top.drawing import Text
from vllm_sidecar.tools.top.servers import Place
from vllm_sidecar.tools.top.view import Page, Stop, View, pressed, visible

BODY = [(Text(str(number)),) for number in range(20)]
PLACES = [Place("feed", str(number)) for number in range(20)]


def fleet(cursor: int | None = 0) -> Page:
    return Page([(Text("head"),)], BODY, (), [Stop(n, f"s{n}", place) for n, place in enumerate(PLACES)], cursor)


def test_the_cursor_follows_a_server_and_stays_inside() -> None:
    assert pressed(View(), "down", fleet(0), 5).selected == "s1"
    assert pressed(View(), "up", fleet(0), 5).selected == "s0"
    assert pressed(View(), "page_down", fleet(3), 5).selected == "s8"
    assert pressed(View(), "end", fleet(3), 5).selected == "s19"
    assert pressed(View(), "home", fleet(3), 5).selected == "s0"
    assert pressed(View(), "down", fleet(None), 5).selected == "s0"


def test_enter_opens_a_server_then_an_engine_and_escape_returns_to_both() -> None:
    server = pressed(View(selected="s4"), "enter", fleet(4), 5)
    assert (server.place, server.selected, server.back) == (PLACES[4], "", "s4")
    engines = Page((), BODY, (), [Stop(0, "e0", "e0"), Stop(1, "e1", "e1")], 1)
    engine = pressed(server, "enter", engines, 5)
    assert engine.engine == "e1"
    assert pressed(engine, "escape", Page((), BODY), 5).engine is None
    assert pressed(engine, "escape", Page((), BODY), 5).selected == "e1"
    closed = pressed(server, "escape", engines, 5)
    assert (closed.place, closed.selected) == (None, "s4")


def test_enter_without_a_cursor_opens_nothing() -> None:
    assert pressed(View(), "enter", fleet(None), 5) == View()


def test_a_page_without_stops_scrolls_to_its_end_and_no_further() -> None:
    page, view = Page((), BODY), View()
    for _ in range(9):
        view = pressed(view, "page_down", page, 8)
    assert view.offset == 12
    assert visible(view, page, 8) == BODY[12:]


def test_the_line_of_the_cursor_is_visible() -> None:
    lines = visible(View(), fleet(15), 6)
    assert lines[0] == (Text("head"),)
    assert lines[-1] == BODY[15]


def test_switches_change_one_thing_each() -> None:
    page = fleet()
    assert pressed(View(), "p", page, 5) == View(paused=True)
    assert pressed(View(paused=True), " ", page, 5) == View()
    assert pressed(View(), "r", page, 5) == View(reverse=True)
    assert pressed(View(), "?", page, 5) == View(help=True)
    assert pressed(View(help=True), "escape", page, 5) == View()
    assert pressed(View(), "s", page, 5).sort == "server"
    assert pressed(View(), "S", page, 5).sort == "output"
    assert pressed(View(), "q", page, 5).ended
    assert pressed(View(), "x", page, 5) == View()
