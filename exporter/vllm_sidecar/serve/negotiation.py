"""Request headers -> formats that the client accepts; any header gets an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_OPENMETRICS_VERSIONS = (None, "1.0.0", "0.0.1")
"""Versions whose readers can read 1.0.0, which they get; None if a client names no version."""


class _Choice(NamedTuple):
    """One part of a header such as Accept: `text/plain;version=0.0.4;q=0.5`."""

    name: str
    parameters: Mapping[str, str]
    weight: float


def _choices(header: str) -> Iterator[_Choice]:
    for part in header.split(","):
        name, *rest = (piece.strip() for piece in part.split(";"))
        pairs = (piece.partition("=") for piece in rest)
        parameters = {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}
        if name:
            yield _Choice(name.lower(), parameters, _weight(parameters.get("q", "1")))


def _weight(text: str) -> float:
    """Read a weight from 0 to 1; an invalid one is 0, which refuses."""
    digits = text.replace(".", "", 1)
    return min(float(text), 1.0) if digits.isascii() and digits.isdecimal() else 0.0


def _best(header: str, fits: Callable[[_Choice], bool]) -> float | None:
    """Return the largest weight of the choices that fit; None if none does."""
    return max((choice.weight for choice in _choices(header) if fits(choice)), default=None)


def takes_openmetrics(accept: str) -> bool:
    """Return whether OpenMetrics is accepted by name, with at least the weight of the text format."""
    asked = _best(
        accept,
        lambda choice: (
            choice.name == "application/openmetrics-text" and choice.parameters.get("version") in _OPENMETRICS_VERSIONS
        ),
    )
    text = _best(accept, lambda choice: choice.name == "text/plain")
    return bool(asked) and (asked or 0.0) >= (text or 0.0)


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether gzip is accepted: by its name or, if it is not named, by `*`."""
    named = _best(accept_encoding, lambda choice: choice.name in ("gzip", "x-gzip"))
    return bool(_best(accept_encoding, lambda choice: choice.name == "*") if named is None else named)


def has_already(if_none_match: str, etag: str) -> bool:
    """Return whether the client already has the answer with this tag; weak and strong tags count as the same."""
    if if_none_match.strip() == "*":
        return True
    return any(part.strip().removeprefix("W/") == f'"{etag}"' for part in if_none_match.split(","))
