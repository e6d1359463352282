"""The shape of requests now against the past: the last minute, and the time since the server started before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LEAST_REQUESTS = 10
"""Fewest requests in a period from which a mean or a share is taken."""
HITS = "prefix_cache_hit_ratio"


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of the last minute and of the time before it."""

    name: str
    now: float
    before: float

    def __str__(self) -> str:
        if self.name.endswith("_ratio"):
            return f"{self.now:.0%} now, {self.before:.0%} before"
        times = f" (x{self.now / self.before:.2g})" if self.before > 0.0 else ""
        return f"{_number(self.now)} now, {_number(self.before)} before{times}"


@dataclass(frozen=True, slots=True)
class Past:
    """The known past of a server, or why it is unknown."""

    rows: tuple[Compared, ...] = ()
    seconds: float | None = None
    """Length of the time now is taken from."""
    before_seconds: float | None = None
    """Time from the start of the server to then; None if its start is unknown."""
    unknown: str = ""

    def as_json(self) -> dict[str, Any] | None:
        """Return plain values; None if nothing is known."""
        if not self.rows:
            return None
        return {
            "recent_seconds": self.seconds,
            "before_seconds": self.before_seconds,
            **{each.name: {"now": each.now, "before": each.before} for each in self.rows},
        }


def past_of(target: Mapping[str, Any]) -> Past:
    """Compare the two periods that a status reports of a target."""
    periods = target.get("request_totals") or {}
    recent, before = periods.get("recent"), periods.get("before")
    if not before:
        return Past(unknown="the server was not read")
    if not recent:
        return Past(unknown="it was read once")
    for period, words in ((recent, "in the last minute"), (before, "since the server started, before that")):
        if period["requests"] is None:
            return Past(unknown="the server does not expose the prompt tokens of requests, which also count them")
        if period["requests"] < LEAST_REQUESTS:
            return Past(unknown=f"fewer than {LEAST_REQUESTS} requests finished {words}")
    return Past(tuple(_rows(recent, before)), recent["seconds"], before["seconds"])


def _rows(recent: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Compared]:
    for name, above, below in (
        ("prompt_tokens_per_request", "prompt_tokens", "requests"),
        ("output_tokens_per_request", "output_tokens", "requests"),
        ("finished_requests_per_second", "requests", "seconds"),
        (HITS, "hit_tokens", "queried_tokens"),
    ):
        now, then = (_quotient(period[above], period[below]) for period in (recent, before))
        if now is not None and then is not None:
            yield Compared(name, now, then)


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100.0 else f"{value:.2g}"
