"""Lines of styled texts that fit a width, and sparklines; with ASCII only where the terminal has no Unicode."""

from __future__ import annotations

import codecs
import contextlib
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vllm_sidecar.tools.top.families import Values

SPAN = 120.0
"""Seconds that a sparkline shows."""
HOLD = 10.0
"""Seconds for which a value is drawn until the next one arrives: refreshes of large fleets are rarer."""


class Text(NamedTuple):
    """A text with the name of its style; see `terminal_screen`."""

    text: str
    style: str = ""


Line = tuple[Text, ...]
Trail = tuple[tuple[float, "Values"], ...]
"""Values with their Unix times, oldest first."""


class Glyphs(NamedTuple):
    """The characters beyond letters."""

    bars: str
    """From the lowest to the highest."""
    cut: str
    """The end of a text that does not fit."""
    dot: str
    """Between two texts."""
    down: str
    up: str
    rule: str
    unicode: bool

    def plain(self, text: str) -> str:
        """Replace what the terminal cannot show, and control characters: names are texts of other people."""
        return "".join(each if each.isprintable() and (self.unicode or each.isascii()) else "?" for each in text)


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "…", " · ", "▼", "▲", "─", unicode=True)
ASCII = Glyphs("_.,-=+*#", "~", " | ", "v", "^", "-", unicode=False)


def glyphs_of(encoding: str) -> Glyphs:
    """Return the glyphs that an encoding has."""
    with contextlib.suppress(LookupError):
        if codecs.lookup(encoding).name == "utf-8":
            return UNICODE
    return ASCII


def width_of(text: str) -> int:
    """Return the number of cells that a text takes: two for East Asian wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text
    )


def fit(text: str, width: int, glyphs: Glyphs, *, right: bool = False) -> str:
    """Return a text of exactly this width: filled with blanks, or cut at its end."""
    text = glyphs.plain(text)
    if width_of(text) > width:
        kept = ""
        for each in text:
            if width_of(kept + each) > width - 1:
                break
            kept += each
        text = kept + glyphs.cut if width > 0 else ""
    blanks = " " * (width - width_of(text))
    return blanks + text if right else text + blanks


def cut_line(line: Iterable[Text], width: int, glyphs: Glyphs) -> Line:
    """Return a line of at most this width."""
    found, left = [], width
    for text, style in line:
        shown = glyphs.plain(text)
        if width_of(shown) > left:
            found.append(Text(fit(shown, left, glyphs), style))
            break
        found.append(Text(shown, style))
        left -= width_of(shown)
    return tuple(found)


def wrapped(text: str, width: int, most: int, glyphs: Glyphs) -> list[str]:
    """Return a text in at most so many lines; the last one is cut if there is more."""
    lines, line = [], ""
    for word in glyphs.plain(text).split():
        if line and width_of(line) + 1 + width_of(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    if len(lines) > most:
        lines[most - 1 :] = [" ".join(lines[most - 1 :])]
    return [fit(each, width, glyphs).rstrip() for each in lines]


def sparkline(trail: Trail, key: str, now: float, width: int, glyphs: Glyphs, *, top: float | None = None) -> str:
    """Draw the values of a family over the last `SPAN` seconds, newest at the right, each cell its largest value.

    Args:
        trail: Values with their times.
        key: The family.
        now: Unix time of the right end.
        width: Number of cells.
        glyphs: The bars.
        top: The value of the highest bar; None for the largest of the trail.
    """
    cells = _cells(trail, key, now, width)
    highest = top or max((value for value in cells if value is not None), default=0.0) or 1.0
    return "".join(" " if value is None else _bar(value / highest, glyphs.bars) for value in cells)


def _cells(trail: Trail, key: str, now: float, width: int) -> list[float | None]:
    cells: list[float | None] = [None] * width
    seconds = SPAN / max(1, width)
    for number, (at, values) in enumerate(trail):
        value = values.get(key)
        if value is None:
            continue
        until = min(trail[number + 1][0] if number + 1 < len(trail) else now, at + HOLD)
        first, last = (width - 1 - int(max(0.0, now - time) / seconds) for time in (at, max(at, until - 0.001)))
        for cell in range(max(0, first), max(-1, last) + 1):
            cells[cell] = max(value, cells[cell] or 0.0)
    return cells


def _bar(share: float, bars: str) -> str:
    """Return the bar of a share of the highest one; only 0 has the lowest."""
    if share <= 0.0:
        return bars[0]
    return bars[max(1, min(len(bars) - 1, round(share * (len(bars) - 1))))]


def joined(parts: Sequence[str], glyphs: Glyphs) -> str:
    """Join texts with dots in between."""
    return glyphs.dot.join(part for part in parts if part)
