"""The terminal while the screen is shown: curses paints lines, reads keys, and restores everything at the end.

curses is part of Python and takes the abilities of the terminal from its terminfo entry. So the command needs no extra,
and also runs in the container of a sidecar.
"""

from __future__ import annotations

import contextlib
import locale
import os
import select
import sys
from typing import TYPE_CHECKING, Self

from vllm_sidecar.logs import UserError
from vllm_sidecar.tools.top.drawing import glyphs_of

try:
    import curses
except ImportError as missing:
    raise UserError("this Python has no curses, so it cannot show a screen: use --once") from missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from vllm_sidecar.tools.top.drawing import Line
    from vllm_sidecar.tools.top.pages import Size

_ESCAPE_MILLISECONDS = 50
"""How long the rest of a key's sequence may take after Escape."""
_COLORS = {"bad": curses.COLOR_RED, "watch": curses.COLOR_YELLOW, "fine": curses.COLOR_GREEN,
           "spark": curses.COLOR_CYAN}  # fmt: skip
_ATTRIBUTES = {
    "title": curses.A_REVERSE,
    "head": curses.A_BOLD,
    "sorted": curses.A_BOLD | curses.A_UNDERLINE,
    "selected": curses.A_REVERSE,
    "bold": curses.A_BOLD,
    "dim": curses.A_DIM,
    "bad": curses.A_BOLD,
}
_KEYS = {
    curses.KEY_UP: "up", curses.KEY_DOWN: "down", curses.KEY_LEFT: "left", curses.KEY_RIGHT: "right",
    curses.KEY_PPAGE: "page_up", curses.KEY_NPAGE: "page_down", curses.KEY_HOME: "home", curses.KEY_END: "end",
    curses.KEY_ENTER: "enter", 10: "enter", 13: "enter", 27: "escape",
    curses.KEY_BACKSPACE: "backspace", 127: "backspace", 8: "backspace",
}  # fmt: skip


class TerminalScreen:
    """The screen between `with` and its end; the alternate screen, where the terminal has one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "")
        self.glyphs = glyphs_of(locale.nl_langinfo(locale.CODESET))
        self._colored = "NO_COLOR" not in environment or not environment["NO_COLOR"]
        self._styles: dict[str, int] = {}
        self._input = sys.stdin.fileno()

    def __enter__(self) -> Self:
        try:
            curses.setupterm(os.environ.get("TERM") or "unknown", sys.stdout.fileno())
        except curses.error:
            raise UserError(
                f"the terminal {os.environ.get('TERM', '')!r} is unknown: set TERM, or use --once"
            ) from None
        if not curses.tigetstr("cup"):
            raise UserError(f"the terminal {os.environ.get('TERM', '')!r} cannot move its cursor: use --once")
        curses.set_escdelay(_ESCAPE_MILLISECONDS)
        self._window = curses.initscr()
        try:
            self._prepare()
        except BaseException:
            curses.endwin()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        curses.endwin()

    def _prepare(self) -> None:
        curses.noecho()
        curses.cbreak()
        self._window.keypad(True)
        self._window.nodelay(True)
        with contextlib.suppress(curses.error):  # a terminal that cannot hide its cursor
            curses.curs_set(0)
        colors: dict[str, int] = {}
        if self._colored and curses.has_colors():
            curses.start_color()
            curses.use_default_colors()
            for number, (name, color) in enumerate(_COLORS.items(), 1):
                curses.init_pair(number, color, -1)
                colors[name] = curses.color_pair(number)
        names = {*_COLORS, *_ATTRIBUTES}
        self._styles = {name: colors.get(name, 0) | _ATTRIBUTES.get(name, 0) for name in names}
        for severity in ("bad", "watch", "fine"):
            self._styles[f"{severity}_selected"] = self._styles[severity] | curses.A_REVERSE

    @property
    def size(self) -> Size:
        """Columns and lines that are used; the last column is not: terminals differ in where the cursor is after it."""
        lines, columns = self._window.getmaxyx()
        return max(1, columns - 1), lines

    def resized(self) -> None:
        """Take the new size of the terminal."""
        with contextlib.suppress(OSError, curses.error):
            columns, lines = os.get_terminal_size(sys.stdout.fileno())
            curses.resizeterm(max(1, lines), max(1, columns))
        self._window.clear()

    def paint(self, lines: Sequence[Line]) -> None:
        """Show these lines; only changed cells are sent to the terminal."""
        self._window.erase()
        for number, line in enumerate(lines[: self.size[1]]):
            self._window.move(number, 0)
            for text, style in line:
                # Writing the last cell of the screen moves the cursor out of it, which curses reports as an error.
                with contextlib.suppress(curses.error):
                    self._window.addstr(text, self._styles.get(style, 0))
        self._window.refresh()

    def pressed_keys(self) -> Iterator[str]:
        """Yield the keys that were pressed; `q` if the terminal is gone."""
        pressed = False
        while (code := self._window.getch()) != -1:
            pressed = True
            if code == curses.KEY_RESIZE:
                continue
            yield _KEYS.get(code) or (chr(code) if 32 <= code < 127 else "")
        if not pressed and _hung_up(self._input):
            yield "q"


def _hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))
