"""Numbers as short texts that fit a column: at most six characters."""

from __future__ import annotations

from enum import Enum, auto

ABSENT = "-"
"""A value that is unknown: never 0."""


class Unit(Enum):
    """How a number is written."""

    SECONDS = auto()
    RATIO = auto()
    COUNT = auto()
    RATE = auto()


def figure(value: float | None, unit: Unit) -> str:
    """Write a value in base units; `-` if it is unknown."""
    if value is None:
        return ABSENT
    if unit is Unit.SECONDS:
        return _seconds(value)
    if unit is Unit.RATIO:
        return f"{value:.0%}"
    if unit is Unit.COUNT and value < 10_000.0:
        return f"{value:.0f}"
    return _rate(value)


def _seconds(value: float) -> str:
    if value < 0.9995:
        return f"{value * 1000.0:.0f}ms" if value >= 0.00995 or not value else f"{value * 1000.0:.1f}ms"
    if value < 9.95:
        return f"{value:.1f}s"
    if value < 600.0:
        return f"{value:.0f}s"
    return f"{value / 60.0:.0f}m" if value < 6000.0 else f"{value / 3600.0:.0f}h"


def _rate(value: float) -> str:
    if value < 9.95:
        return f"{value:.2g}"
    for limit, divisor, suffix in ((9_999.5, 1.0, ""), (999_500.0, 1e3, "k"), (999.5e6, 1e6, "M")):
        if value < limit:
            return (
                f"{value / divisor:.0f}{suffix}"
                if value / divisor >= 99.95 or not suffix
                else f"{value / divisor:.1f}{suffix}"
            )
    return f"{value / 1e9:.1f}G"


def gibibytes(used: float | None, total: float | None) -> str:
    """Write memory in use and its size, such as `74/80 GiB`."""
    if used is None:
        return ABSENT
    size = "" if total is None else f"/{total / 2**30:.0f}"
    return f"{used / 2**30:.0f}{size} GiB"
